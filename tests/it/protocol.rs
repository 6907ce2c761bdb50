//! The methods, their order and their errors.

use serde_json::{Value, json};

use crate::support::{Client, Gateway, PATIENCE, eventually, run, tenants};

#[test]
fn a_job_ends_by_three_facts_in_order() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.sh("printf out; printf err >&2; exit 4").await;
        let mut order = Vec::new();
        while order.last().is_none_or(|m| m != "job.closed") {
            let message = client.next().await.unwrap();
            assert_eq!(message["params"]["job"], json!(job));
            let method = message["method"].as_str().unwrap().to_owned();
            match method.as_str() {
                "job.exited" => assert_eq!(
                    (&message["params"]["code"], &message["params"]["reason"]),
                    (&json!(4), &json!("exited"))
                ),
                "job.closed" => {
                    let params = &message["params"];
                    assert_eq!(params["survivors"], 0);
                    assert_eq!(
                        params["totals"]["stdout"],
                        json!({"produced": 3, "delivered": 3, "dropped": 0})
                    );
                    assert_eq!(
                        params["totals"]["stderr"],
                        json!({"produced": 3, "delivered": 3, "dropped": 0})
                    );
                }
                _ => {}
            }
            order.push(method);
        }
        let place = |method: &str| order.iter().position(|m| m == method).unwrap();
        assert!(
            place("job.exited") < place("job.eof") && place("job.eof") < place("job.closed"),
            "{order:?}"
        );
        assert_eq!(order.iter().filter(|m| *m == "job.eof").count(), 2, "{order:?}");
    });
}

#[test]
fn the_exit_is_told_while_a_descendant_holds_stdout() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.sh("sleep 1000 & echo started").await;
        client.event_of("job.exited", &job).await;
        let closed = client.event_of("job.closed", &job).await;
        assert_eq!((closed["survivors"].as_u64(), closed["reason"].as_str()), (Some(0), Some("exited")));
        eventually(PATIENCE, "the descendant is gone", || gateway.survivors().is_empty());
    });
}

#[test]
fn the_answer_to_a_stop_follows_job_closed() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.sh("echo up; exec sleep 1000").await;
        client.event_of("job.output", &job).await;
        let id = client.send("job.stop", json!({"job": job})).await;
        let mut closed = false;
        loop {
            let message = client.next().await.unwrap();
            closed |= message["method"] == "job.closed";
            if message["id"] == json!(id) {
                assert!(closed, "the answer came before job.closed");
                assert_eq!(
                    (&message["result"]["survivors"], &message["result"]["escalated"]),
                    (&json!(0), &json!(false))
                );
                return;
            }
        }
    });
}

#[test]
fn stdin_goes_in_by_credit_and_half_closes() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let started = client.call("job.start", json!({"argv": ["sort"], "stdin": "pipe"})).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        let credit = client.event_of("job.ack", &job).await;
        assert_eq!((credit["stream"].as_str(), credit["offset"].as_u64()), (Some("stdin"), Some(0)));
        let taken = client.call("job.stdin", json!({"job": job, "data": "b\n"})).await.unwrap();
        assert_eq!(taken["offset"], 2);
        client.call("job.stdin", json!({"job": job, "data_b64": "YQo=", "eof": true})).await.unwrap();
        assert_eq!(client.output(&job, "stdout").await, b"a\nb\n");
        client.event_of("job.closed", &job).await;
    });
}

#[test]
fn stdin_beyond_credit_is_busy_and_nothing_of_it_was_taken() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let started =
            client.call("job.start", json!({"argv": ["sleep", "1000"], "stdin": "pipe"})).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        let error =
            client.call("job.stdin", json!({"job": job, "data": "x".repeat(200_000)})).await.unwrap_err();
        assert_eq!(error["data"]["kind"], "busy", "{error}");
        assert_eq!(client.call("job.stdin", json!({"job": job, "data": "x"})).await.unwrap()["offset"], 1);
    });
}

#[test]
fn a_terminal_has_its_size_before_the_first_byte_and_ends_by_ctrl_d() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["sh", "-c", "stty size; tty >/dev/null && cat"], "pty": {"rows": 33, "cols": 99}, "stdin": "pipe"});
        let started = client.call("job.start", params).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        let first = client.event_of("job.output", &job).await;
        assert!(first["data"].as_str().unwrap().starts_with("33 99"), "{first}");
        client.call("job.resize", json!({"job": job, "rows": 10, "cols": 20})).await.unwrap();
        client.call("job.stdin", json!({"job": job, "data": "hello\n", "eof": true})).await.unwrap();
        let exited = client.event_of("job.exited", &job).await;
        assert_eq!(exited["code"], 0);
    });
}

#[test]
fn a_pause_stops_the_tree_and_the_clock() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["sh", "-c", "while :; do echo tick; sleep 0.01; done"], "output": {"overflow": "ring"}});
        let started = client.call("job.start", params).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        client.event_of("job.output", &job).await;
        let paused = client.call("job.pause", json!({"job": job})).await.unwrap();
        assert_eq!(paused["paused"], true);
        assert_eq!(
            client.call("job.pause", json!({"job": job})).await.unwrap()["paused"],
            true,
            "pausing twice is pausing once"
        );
        assert_eq!(client.event_of("job.state", &job).await["state"], "paused");
        let resumed = client.call("job.resume", json!({"job": job})).await.unwrap();
        assert_eq!(resumed["paused"], false);
        client.event_of("job.output", &job).await;
        client.call("job.pause", json!({"job": job})).await.unwrap();
        let killed = client.call("job.kill", json!({"job": job})).await.unwrap();
        assert_eq!(killed["survivors"], 0, "a paused tree can be killed");
    });
}

#[test]
fn a_timeout_ends_the_tree() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["sh", "-c", "setsid sleep 1000 & sleep 1000"], "timeout_ms": 100});
        let started = client.call("job.start", params).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        assert_eq!(client.event_of("job.closed", &job).await["reason"], "timeout");
        assert!(gateway.survivors().is_empty());
    });
}

#[test]
fn a_detached_session_lives_on_and_nothing_is_lost_or_doubled() {
    let gateway = Gateway::start();
    run(async {
        let mut first = Client::connect(&gateway).await;
        let opened = first
            .call("session.open", json!({"on_disconnect": "detach", "detach_ttl_ms": 30_000}))
            .await
            .unwrap();
        let session = opened["session"].as_str().unwrap().to_owned();
        let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; read x";
        let params = json!({"session": session, "argv": ["sh", "-c", script], "stdin": "pipe"});
        let job = first.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
        let seen = first.event_of("job.output", &job).await["data"].as_str().unwrap().len();
        drop(first);
        let mut second = Client::connect(&gateway).await;
        let attached = loop {
            // The gateway may still be noticing that the first one is gone.
            match second.call("session.attach", json!({"session": session})).await {
                Ok(attached) => break attached,
                Err(error) => assert_eq!(error["data"]["kind"], "conflict"),
            }
        };
        assert_eq!(attached["jobs"][0]["job"], json!(job));
        let params = json!({"job": job, "from": {"stdout": seen}, "mode": "write"});
        second.call("job.attach", params).await.unwrap();
        second.call("job.stdin", json!({"job": job, "data": "\n"})).await.unwrap();
        let mut rest = Vec::new();
        loop {
            let of = |v: &Value| v["params"]["job"] == job && v["params"]["stream"] == "stdout";
            let message = second.find("the rest", of).await;
            if message["method"] == "job.eof" {
                break;
            }
            assert_eq!(message["params"]["offset"], json!(seen + rest.len()));
            rest.extend(message["params"]["data"].as_str().unwrap().bytes());
        }
        let all: String = (0..300).map(|i| format!("line {i}\n")).collect();
        assert_eq!(String::from_utf8(rest).unwrap(), all[seen..]);
    });
}

/// A connection may be dead for long before anybody notices: what is on its way then arrives nowhere.
#[test]
fn what_was_sent_and_not_acknowledged_is_there_for_the_owner_that_comes_back_after_the_end() {
    let gateway = Gateway::start();
    run(async {
        let mut first = Client::connect(&gateway).await;
        let opened = first.call("session.open", json!({"on_disconnect": "detach"})).await.unwrap();
        let session = opened["session"].as_str().unwrap().to_owned();
        let params =
            json!({"session": session, "argv": ["head", "-c", "60000", "/dev/zero"], "window": 1 << 20});
        let job = first.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
        first.event_of("job.closed", &job).await;
        let mut second = Client::connect(&gateway).await;
        second.call("session.attach", json!({"session": session, "takeover": true})).await.unwrap();
        let params = json!({"job": job, "from": {"stdout": 0}, "mode": "write"});
        second.call("job.attach", params).await.unwrap();
        assert_eq!(second.output(&job, "stdout").await.len(), 60_000);
    });
}

#[test]
fn a_connection_whose_default_session_was_taken_over_makes_another() {
    let gateway = Gateway::start();
    run(async {
        let mut old = Client::connect(&gateway).await;
        old.start(&["true"]).await;
        let taken = old.call("session.list", json!({})).await.unwrap()["sessions"][0]["session"].clone();
        let mut new = Client::connect(&gateway).await;
        new.call("session.attach", json!({"session": taken, "takeover": true})).await.unwrap();
        let job = old.start(&["true"]).await;
        let state = old.call("job.get", json!({"job": job})).await.unwrap();
        assert_ne!(state["session"], taken, "{state}");
        assert_eq!(old.refused("job.start", json!({"argv": ["true"], "session": taken})).await, "conflict");
        new.call("job.start", json!({"argv": ["true"], "session": taken})).await.unwrap();
    });
}

#[test]
fn a_takeover_moves_the_session_and_the_old_connection_lives() {
    let gateway = Gateway::start();
    run(async {
        let mut old = Client::connect(&gateway).await;
        let session =
            old.call("session.open", json!({})).await.unwrap()["session"].as_str().unwrap().to_owned();
        let job = old
            .call("job.start", json!({"session": session, "argv": ["cat"], "stdin": "pipe"}))
            .await
            .unwrap()["job"]
            .clone();
        let mut new = Client::connect(&gateway).await;
        assert_eq!(new.refused("session.attach", json!({"session": session})).await, "conflict");
        new.call("session.attach", json!({"session": session, "takeover": true})).await.unwrap();
        assert_eq!(old.event("session.lost").await["session"], json!(session));
        assert_eq!(old.refused("job.stdin", json!({"job": job, "data": "x"})).await, "conflict");
        new.call("job.stdin", json!({"job": job, "data": "x", "eof": true})).await.unwrap();
        drop(old);
        new.event_of("job.closed", job.as_str().unwrap()).await;
    });
}

#[test]
fn another_tenants_ids_answer_as_if_they_never_were() {
    let gateway = Gateway::with(&tenants::two());
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let session = a.call("session.open", json!({})).await.unwrap()["session"].clone();
        let job = a.start(&["sleep", "1000"]).await;
        let never = "j_00000000000000000000000000000000";
        for (method, more) in [
            ("job.get", json!({})),
            ("job.kill", json!({})),
            ("job.stop", json!({})),
            ("job.signal", json!({"signal": "TERM"})),
            ("job.pause", json!({})),
            ("job.stdin", json!({"data": "x"})),
            ("job.attach", json!({})),
            ("job.wait", json!({})),
            ("job.resize", json!({"rows": 1, "cols": 1})),
        ] {
            let of = |id: &str| {
                let mut params = more.clone();
                params["job"] = json!(id);
                params
            };
            let (theirs, none) =
                (b.call(method, of(&job)).await.unwrap_err(), b.call(method, of(never)).await.unwrap_err());
            assert_eq!((&theirs["code"], &theirs["message"]), (&none["code"], &none["message"]), "{method}");
            assert_eq!(theirs["data"]["kind"], "not_found", "{method}");
        }
        for method in ["session.get", "session.close", "session.attach"] {
            assert_eq!(b.refused(method, json!({"session": session})).await, "not_found", "{method}");
        }
        assert_eq!(b.call("job.list", json!({})).await.unwrap()["jobs"], json!([]));
        assert_eq!(b.refused("server.drain", json!({})).await, "forbidden");
    });
}

#[test]
fn a_denial_names_the_rule_and_what_to_do() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let error = client.call("job.start", json!({"argv": ["mount"]})).await.unwrap_err();
        assert_eq!(error["code"], -32003);
        let data = &error["data"];
        assert_eq!((&data["kind"], &data["policy"]), (&json!("policy_denied"), &json!("command-rules")));
        assert_eq!(data["rules"], json!(["developer.admin-programs"]));
        assert!(data["remedy"].is_string() && data["decision"].as_str().unwrap().starts_with("d_"));
    });
}

#[test]
fn what_is_not_json_rpc_is_told_so_and_the_connection_lives() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let table = [
            ("", -32700),
            ("nonsense", -32700),
            ("{} {}", -32700),
            ("[]", -32600),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"server.info\"}", -32600),
            ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"server.info\"}", -32600),
            ("{\"jsonrpc\":2.0,\"id\":1,\"method\":\"server.info\"}", -32600),
            ("{\"jsonrpc\":\"2.0\",\"id\":true,\"method\":\"server.info\"}", -32600),
            ("{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"server.info\"}", -32600),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Server.info\"}", -32601),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.other\"}", -32601),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\",\"params\":[]}", -32602),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\",\"params\":{\"x\":1}}", -32602),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[]}}", -32602),
            (
                "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[\"a\\u0000b\"]}}",
                -32602,
            ),
            (
                "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[\"ls\"],\"timeout_ms\":123456789012345678901234567890}}",
                -32602,
            ),
            (
                "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[\"ls\"],\"pty\":{\"rows\":0,\"cols\":1}}}",
                -32602,
            ),
        ];
        for (text, code) in table {
            client.raw(text).await;
            let answer = client.find("an answer", |v| v.get("error").is_some()).await;
            assert_eq!(answer["error"]["code"], code, "{text}");
        }
        client.raw(&format!("{}{}", "[".repeat(65), "]".repeat(65))).await;
        assert_eq!(client.find("an answer", |v| v.get("error").is_some()).await["error"]["code"], -32700);
        client.call("server.info", json!({})).await.unwrap();
    });
}

#[test]
fn a_batch_is_answered_as_a_batch_and_notifications_not_at_all() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let batch = json!([
            {"jsonrpc": "2.0", "id": "a", "method": "server.info"},
            {"jsonrpc": "2.0", "method": "server.info"},
            7,
            {"jsonrpc": "2.0", "id": "b", "method": "nothing"},
        ]);
        client.raw(&batch.to_string()).await;
        let answer = client.find("a batch", Value::is_array).await;
        let answers = answer.as_array().unwrap();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers.iter().filter(|a| a.get("result").is_some()).count(), 1);
        let many: Vec<_> =
            (0..51).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "server.info"})).collect();
        client.raw(&Value::Array(many).to_string()).await;
        assert_eq!(client.find("a refusal", |v| v.get("error").is_some()).await["error"]["code"], -32600);
        client.raw("[{\"jsonrpc\":\"2.0\",\"method\":\"server.info\"}]").await;
        client.call("server.info", json!({})).await.unwrap();
    });
}

#[test]
fn control_has_a_defined_answer_in_every_state() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let of = json!({"job": job});
        assert_eq!(
            client.call("job.resume", of.clone()).await.unwrap()["paused"],
            false,
            "resuming what runs"
        );
        for _ in 0..2 {
            assert_eq!(client.call("job.pause", of.clone()).await.unwrap()["paused"], true);
        }
        for _ in 0..2 {
            assert_eq!(client.call("job.resume", of.clone()).await.unwrap()["paused"], false);
        }
        assert_eq!(
            client.refused("job.resize", json!({"job": job, "rows": 1, "cols": 1})).await,
            "invalid_params"
        );
        assert_eq!(
            client.refused("job.signal", json!({"job": job, "signal": "INT", "target": "foreground"})).await,
            "invalid_params"
        );
        for name in ["SIGNOTHING", "9", "sigterm", ""] {
            let params = json!({"job": job, "signal": name});
            assert_eq!(client.refused("job.signal", params).await, "invalid_params", "{name:?}");
        }
        let kills = [client.send("job.kill", of.clone()).await, client.send("job.kill", of.clone()).await];
        for kill in kills {
            match client.answer(kill).await {
                Ok(killed) => assert_eq!(killed["survivors"], 0),
                Err(error) => assert_eq!(error["data"]["kind"], "finished"),
            }
        }
        for method in ["job.kill", "job.stop", "job.pause", "job.resume"] {
            assert_eq!(client.refused(method, of.clone()).await, "finished", "{method}");
        }
        assert_eq!(client.refused("job.signal", json!({"job": job, "signal": "KILL"})).await, "finished");
    });
}
