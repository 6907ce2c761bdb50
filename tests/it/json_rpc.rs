//! Bad JSON and bad requests: each is told what it is, the connection lives, and nothing of it was done.

use serde_json::{Value, json};

use crate::support::raw::{BINARY, Raw, TEXT, frame};
use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run};

async fn code(client: &mut Client, text: &str) -> (i64, Value) {
    client.raw(text).await;
    let answer = client.find("an error", |v| v.get("error").is_some()).await;
    (answer["error"]["code"].as_i64().unwrap(), answer["id"].clone())
}

async fn lives(client: &mut Client) {
    client.call("server.info", json!({})).await.unwrap();
}

#[test]
fn what_is_not_one_json_value_is_a_parse_error_with_id_null() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let request = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\"}";
        let table = [
            String::new(),
            " \t\r\n".to_owned(),
            format!("\u{feff}{request}"),
            "\0".to_owned(),
            format!("{request}\0"),
            format!("{request}{request}"),
            format!("{request} 1"),
            request[..request.len() - 1].to_owned(),
            request.replace('"', "'"),
            "{\"a\":\"\\ud800\"}".to_owned(),
            "{\"a\":1e400}".to_owned(),
            format!("{}{}", "[".repeat(65), "]".repeat(65)),
            "[".repeat(100_000),
            format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65)),
            format!("[{}0]", "[0],".repeat(200_000)),
            format!("[{}0]", "0,".repeat(20_000)),
        ];
        for text in table {
            assert_eq!(code(&mut client, &text).await, (-32700, Value::Null), "{:.60}", text);
        }
        lives(&mut client).await;
    });
}

#[test]
fn a_flood_of_small_values_is_refused_before_it_is_built() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        lives(&mut client).await;
        let before = proc::rss(gateway.pid());
        let text = format!("[{}0]", "[0],".repeat((1 << 18) - 16));
        for _ in 0..8 {
            assert_eq!(code(&mut client, &text).await.0, -32700);
        }
        let grown = proc::rss(gateway.pid()).saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes for 1 MiB of [0],");
    });
}

#[test]
fn duplicate_keys_at_any_depth_are_invalid_requests() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        for text in [
            "{\"jsonrpc\":\"2.0\",\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\"}",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[\"true\"],\"env\":{\"A\":\"1\",\"A\":\"2\"}}}",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[\"true\"],\"\\u0061rgv\":[\"id\"]}}",
            "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\",\"params\":{\"a\":{\"b\":1,\"b\":1}}}]",
        ] {
            assert_eq!(code(&mut client, text).await, (-32600, Value::Null), "{text}");
        }
        lives(&mut client).await;
    });
}

#[test]
fn the_members_of_a_request_are_exactly_those_of_json_rpc() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let good = json!({"jsonrpc": "2.0", "id": 5, "method": "server.info"});
        let with = |name: &str, value: Value| {
            let mut request = good.clone();
            request[name] = value;
            request.to_string()
        };
        let without = |name: &str| {
            let mut request = good.clone();
            request.as_object_mut().unwrap().remove(name);
            request.to_string()
        };
        let long = "x".repeat(129);
        for text in [
            without("jsonrpc"),
            without("method"),
            with("jsonrpc", json!("1.0")),
            with("jsonrpc", json!(2.0)),
            with("jsonrpc", json!(2)),
            with("jsonrpc", json!(null)),
            with("method", json!(7)),
            with("method", json!(null)),
            with("id", json!(true)),
            with("id", json!({})),
            with("id", json!([])),
            with("id", json!(1.5)),
            with("id", json!(long)),
            with("extra", json!(1)),
            good.to_string().replace(":5", ":123456789012345678901234567890"),
            good.to_string().replace(":5", ":5.0"),
            "1".to_owned(),
            "\"server.info\"".to_owned(),
            "null".to_owned(),
            "true".to_owned(),
        ] {
            assert_eq!(code(&mut client, &text).await.0, -32600, "{text}");
        }
        for id in [
            json!("x".repeat(128)),
            json!(""),
            json!(0),
            json!(-1),
            json!(i64::MIN),
            json!(u64::MAX),
            Value::Null,
        ] {
            client.raw(&with("id", id.clone())).await;
            let answer = client.find("its answer", |v| v.get("result").is_some()).await;
            assert_eq!(answer["id"], id);
        }
    });
}

#[test]
fn an_id_still_in_flight_cannot_be_used_again() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let request = |method: &str| {
            json!({"jsonrpc": "2.0", "id": "same", "method": method, "params": {"job": job}}).to_string()
        };
        client.raw(&request("job.wait")).await;
        assert_eq!(code(&mut client, &request("job.get")).await, (-32600, json!("same")));
        client
            .raw(
                &json!({"jsonrpc": "2.0", "id": 9, "method": "job.kill", "params": {"job": job}}).to_string(),
            )
            .await;
        client.find("the answer to the first", |v| v["id"] == "same" && v.get("result").is_some()).await;
        client.raw(&request("job.get")).await;
        client.find("the id is free again", |v| v["id"] == "same" && v.get("result").is_some()).await;
    });
}

#[test]
fn numbers_that_do_not_fit_are_refused_not_rounded() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let start = |more: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{{\"argv\":[\"true\"],{more}}}}}"
            )
        };
        for more in [
            "\"timeout_ms\":99999999999999999999999999",
            "\"timeout_ms\":-1",
            "\"timeout_ms\":1.5",
            "\"timeout_ms\":1e3",
            "\"timeout_ms\":\"1000\"",
            "\"timeout_ms\":null",
            "\"window\":4095",
            "\"window\":16777217",
            "\"window\":4294967296",
            "\"pty\":{\"rows\":0,\"cols\":0}",
            "\"pty\":{\"rows\":65536,\"cols\":80}",
            "\"pty\":{\"rows\":24}",
            "\"output\":{\"ring_bytes\":1}",
            "\"output\":{\"ring_bytes\":18446744073709551616}",
        ] {
            assert_eq!(code(&mut client, &start(more)).await.0, -32602, "{more}");
        }
        assert_eq!(client.call("job.list", json!({})).await.unwrap()["jobs"], json!([]), "and nothing ran");
    });
}

#[test]
fn text_that_no_program_could_get_whole_is_refused() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        for params in [
            json!({"argv": ["echo", "a\0b"]}),
            json!({"argv": ["true"], "env": {"A": "a\0b"}}),
            json!({"argv": ["true"], "env": {"A\0": "b"}}),
            json!({"argv": ["true"], "env": {"": "b"}}),
            json!({"argv": ["true"], "env": {"A=B": "b"}}),
            json!({"argv": ["true"], "cwd": "/tmp\0/x"}),
            json!({"argv": ["x".repeat(300 * 1024)]}),
            json!({"argv": vec!["x"; 5000]}),
            json!({"argv": [""]}),
            json!({"argv": "true"}),
            json!(["true"]),
        ] {
            assert_eq!(client.refused("job.start", params).await, "invalid_params");
        }
        let lone = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"job.start\",\"params\":{\"argv\":[\"echo\",\"\\udc00\"]}}";
        let refused = code(&mut client, lone).await.0;
        assert!(refused == -32700 || refused == -32602, "{refused}");
        let job = client.start(&["printf", "%s", "\u{1f600};`id`$(id)\n"]).await;
        assert_eq!(
            client.output(&job, "stdout").await,
            "\u{1f600};`id`$(id)\n".as_bytes(),
            "the rest is plain bytes"
        );
    });
}

#[test]
fn a_notification_is_done_and_never_answered() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 5\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        client
            .raw(&json!({"jsonrpc": "2.0", "method": "job.kill", "params": {"job": job}}).to_string())
            .await;
        client.raw(&json!({"jsonrpc": "2.0", "method": "no.such"}).to_string()).await;
        client
            .raw(
                &json!([{"jsonrpc": "2.0", "method": "no.such"}, {"jsonrpc": "2.0", "method": "job.list"}])
                    .to_string(),
            )
            .await;
        let closed = client.event_of("job.closed", &job).await;
        assert_eq!(closed["reason"], "killed");
        // They count against the rate: 10 at once, and these were five.
        let mut kinds = Vec::new();
        for _ in 0..12 {
            client.raw(&json!({"jsonrpc": "2.0", "id": "r", "method": "job.list"}).to_string()).await;
            let answer = client.find("an answer", |v| v["id"] == "r").await;
            kinds.push(answer["error"]["data"]["kind"].clone());
        }
        assert!(kinds.contains(&json!("rate_limited")), "{kinds:?}");
    });
}

#[test]
fn each_entry_of_a_batch_is_counted_and_answered_for_itself() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 10\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let batch: Vec<_> =
            (0..50).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "job.list"})).collect();
        client.raw(&Value::Array(batch).to_string()).await;
        let answers = client.find("a batch", Value::is_array).await;
        let answers = answers.as_array().unwrap();
        let limited = answers.iter().filter(|a| a["error"]["data"]["kind"] == "rate_limited").count();
        assert_eq!(answers.len(), 50);
        assert!((20..=31).contains(&limited), "{limited} of 50 beyond a burst of 20");
        // The same id twice in one batch: the second is still in flight with the first. On a connection with its burst left.
        let mut client = Client::connect(&gateway).await;
        let twice = json!([{"jsonrpc": "2.0", "id": 1, "method": "job.list"}, {"jsonrpc": "2.0", "id": 1, "method": "job.list"}]);
        client.raw(&twice.to_string()).await;
        let answers = client.find("a batch", Value::is_array).await;
        assert_eq!((answers[0].get("error"), answers[1]["error"]["code"].as_i64()), (None, Some(-32600)));
    });
}

#[test]
fn requests_in_flight_are_bounded_and_all_are_answered() {
    let gateway = Gateway::with("[limits]\noutstanding = 4\nrequests_per_second = 100000\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let waiting: Vec<_> = {
            let mut ids = Vec::new();
            for _ in 0..20 {
                ids.push(client.send("job.wait", json!({"job": job, "timeout_ms": 500})).await);
            }
            ids
        };
        let mut refused = 0;
        for id in waiting {
            match client.answer(id).await {
                Ok(status) => assert_eq!(status["state"], "running"),
                Err(error) => {
                    assert_eq!(error["data"]["kind"], "limit_exceeded", "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "twenty at once at a bound of four");
    });
}

#[test]
fn a_binary_frame_that_is_none_of_ours_closes_the_connection() {
    let gateway = Gateway::start();
    run(async {
        let header = |kind: u8, stream: u8, flags: u16| {
            let mut bytes = vec![kind, stream];
            bytes.extend(flags.to_be_bytes());
            bytes.extend([0; 12]);
            bytes
        };
        let mut large = header(2, 0, 0);
        large.extend(vec![0; 64 * 1024 + 1]);
        let table = [
            (vec![], 1002),
            (vec![0; 15], 1002),
            (header(0, 0, 0), 1002),
            (header(1, 1, 0), 1002),
            (header(2, 1, 0), 1002),
            (header(2, 0, 2), 1002),
            (header(3, 1, 0), 1002),
            (header(9, 0, 0), 1002),
            (large, 1009),
        ];
        for (bytes, expected) in table {
            let mut peer = Raw::connect(&gateway).await;
            peer.send(&frame(0x80 | BINARY, &bytes)).await;
            assert_eq!(peer.close_code().await, Some(expected), "{:?}", &bytes[..bytes.len().min(16)]);
        }
        // A channel that never was is nobody's: dropped, and the connection lives.
        let mut peer = Raw::connect(&gateway).await;
        let mut stray = header(2, 0, 0);
        stray[7] = 99;
        peer.send(&frame(0x80 | BINARY, &stray)).await;
        peer.send(&frame(0x80 | TEXT, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\"}")).await;
        assert_eq!(peer.next().await.map(|(first, _)| first), Some(0x80 | TEXT));
    });
    eventually(PATIENCE, "nothing runs", || gateway.survivors().is_empty());
}
