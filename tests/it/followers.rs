//! What a connection is told of jobs when it looks away, loses its session or breaks off, and what others have of them then.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Client, Gateway, PATIENCE, eventually, run, until};

const QUOTA: &str = "[policy.commands]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"unrestricted\" }\n\
    [policy.quota]\nmodule = \"builtin:session-quota\"\nsettings = { idle_ms = 1500 }\n";

/// Opens a session that outlives its connection; its id.
async fn detachable(client: &mut Client) -> String {
    let asked = json!({"on_disconnect": "detach", "detach_ttl_ms": 60_000});
    client.call("session.open", asked).await.unwrap()["session"].as_str().unwrap().to_owned()
}

/// Bytes that the job has printed so far.
async fn produced(client: &mut Client, job: &str) -> u64 {
    let status = client.call("job.get", json!({"job": job})).await.unwrap();
    status["streams"]["stdout"]["next"].as_u64().unwrap()
}

#[test]
fn a_session_is_idle_from_the_end_of_its_last_job_on() {
    let gateway = Gateway::with(QUOTA);
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "2.5"]).await;
        let session = client.call("job.get", json!({"job": job})).await.unwrap()["session"].clone();
        client.event_of("job.closed", &job).await;
        client.call("job.start", json!({"session": session, "argv": ["true"]})).await.unwrap();
    });
}

#[test]
fn a_connection_that_lost_its_session_holds_no_job_back_however_little_it_reads() {
    let gateway = Gateway::start();
    run(async {
        for window in [None, Some(65_536)] {
            let mut old = Client::connect(&gateway).await;
            let session = old.call("session.open", json!({})).await.unwrap()["session"].clone();
            let mut asked = json!({"session": session, "argv": ["yes"]});
            if let Some(bytes) = window {
                asked["window"] = json!(bytes);
            }
            let job = old.call("job.start", asked).await.unwrap()["job"].as_str().unwrap().to_owned();
            let mut new = Client::connect(&gateway).await;
            new.call("session.attach", json!({"session": session, "takeover": true})).await.unwrap();
            let before = produced(&mut new, &job).await;
            // More than ring, pipe and the buffers of a socket hold together: for a viewer that reads nothing it would stop below.
            until("it goes on", async || produced(&mut new, &job).await > before + (64 << 20)).await;
            new.call("job.kill", json!({"job": job})).await.unwrap();
        }
    });
}

#[test]
fn what_a_job_printed_while_its_starter_broke_off_is_there_for_the_one_that_comes_back() {
    let gateway = Gateway::start();
    run(async {
        for _ in 0..3 {
            let mut first = Client::connect(&gateway).await;
            let session = detachable(&mut first).await;
            let script = "head -c 100000 /dev/zero | tr '\\0' x";
            let asked = json!({"session": session, "argv": ["sh", "-c", script], "key": "k"});
            first.send("job.start", asked.clone()).await;
            drop(first);
            let mut second = Client::connect(&gateway).await;
            until("the first is gone", async || {
                second.call("session.attach", json!({"session": session})).await.is_ok()
            })
            .await;
            until("the job is over", async || {
                let listed = second.call("job.list", json!({"session": session})).await.unwrap();
                listed["jobs"].as_array().unwrap().iter().any(|job| job["state"] == "closed")
            })
            .await;
            // One that started only now was told of to its owner, who may have attached before.
            second.call("server.info", json!({})).await.unwrap();
            second.forget();
            let job = second.call("job.start", asked).await.unwrap()["job"].as_str().unwrap().to_owned();
            assert_eq!(second.output(&job, "stdout").await.len(), 100_000);
        }
    });
}

#[test]
fn an_owner_that_stops_viewing_is_told_everything_once_and_has_its_answers() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job =
            client.call("job.start", json!({"argv": ["yes"], "window": 4096})).await.unwrap()["job"].clone();
        client.event_of("job.output", job.as_str().unwrap()).await;
        client.call("job.pause", json!({"job": job})).await.unwrap();
        let kill = client.send("job.kill", json!({"job": job})).await;
        let detach = client.send("job.detach", json!({"job": job})).await;
        let (mut told, mut answered) = (Vec::new(), Vec::new());
        while answered.len() < 2 {
            let message = client.next().await.unwrap();
            match message["id"].as_u64() {
                Some(id) => {
                    assert!(message["error"].is_null(), "{message}");
                    answered.push((id, told.len()));
                }
                None => told.push(message["method"].as_str().unwrap().to_owned()),
            }
        }
        let count = |method: &str| told.iter().filter(|m| *m == method).count();
        assert_eq!((count("job.exited"), count("job.eof"), count("job.closed")), (1, 2, 1), "{told:?}");
        assert!(answered.iter().any(|(id, _)| *id == detach));
        let (_, after) = answered.iter().find(|(id, _)| *id == kill).unwrap();
        assert!(told[..*after].contains(&"job.closed".to_owned()), "the answer to the kill came first");
    });
}

#[test]
fn an_observer_that_stops_viewing_has_its_answers_and_hears_no_more() {
    let gateway = Gateway::start();
    run(async {
        let mut owner = Client::connect(&gateway).await;
        let job =
            owner.call("job.start", json!({"argv": ["yes"], "view": false})).await.unwrap()["job"].clone();
        let mut other = Client::connect(&gateway).await;
        other.call("job.attach", json!({"job": job, "window": 4096})).await.unwrap();
        other.event_of("job.output", job.as_str().unwrap()).await;
        let kill = other.send("job.kill", json!({"job": job})).await;
        owner.event_of("job.closed", job.as_str().unwrap()).await;
        other.call("job.detach", json!({"job": job})).await.unwrap();
        other.answer(kill).await.unwrap();
        let info = other.send("server.info", json!({})).await;
        other.forget();
        other.answer(info).await.unwrap();
    });
}

#[test]
fn the_ends_of_streams_are_told_after_the_exit() {
    let gateway = Gateway::start();
    run(async {
        for mut client in [Client::connect(&gateway).await, Client::binary(&gateway).await] {
            let job = client.sh("exec >&- 2>&-; sleep 0.3").await;
            let mut told = Vec::new();
            while told.last().is_none_or(|m| m != "job.closed") {
                let message = client.next().await.unwrap();
                if message["params"]["job"] == json!(job) {
                    told.push(message["method"].as_str().unwrap().to_owned());
                }
            }
            assert_eq!(told, ["job.exited", "job.eof", "job.eof", "job.closed"]);
        }
    });
}

#[test]
fn an_acknowledgement_beyond_what_was_sent_closes_with_1002_inside_json_too() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let ack = json!({"jsonrpc": "2.0", "method": "job.ack", "params": {"job": job, "stream": "stdout", "offset": 1_000_000}});
        client.raw(&ack.to_string()).await;
        assert_eq!(client.close_code().await, Some(1002));
    });
}

#[test]
fn two_batches_that_each_view_what_the_other_kills_are_both_answered() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let mut jobs = Vec::new();
        for _ in 0..2 {
            let asked = json!({"argv": ["sleep", "1000"], "view": false});
            jobs.push(client.call("job.start", asked).await.unwrap()["job"].clone());
        }
        for (id, (view, kill)) in [(0, 1), (1, 0)].into_iter().enumerate() {
            let batch = json!([
                {"jsonrpc": "2.0", "id": format!("view {id}"), "method": "job.attach", "params": {"job": jobs[view]}},
                {"jsonrpc": "2.0", "id": format!("kill {id}"), "method": "job.kill", "params": {"job": jobs[kill]}},
            ]);
            client.raw(&batch.to_string()).await;
        }
        for _ in 0..2 {
            client.find("the answer to a batch", Value::is_array).await;
        }
        for job in &jobs {
            client.event_of("job.closed", job.as_str().unwrap()).await;
        }
    });
}

#[test]
fn requests_that_are_no_good_count_against_the_rate_too() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 5\n");
    run(async {
        let bad =
            [r#"{"jsonrpc":"2.0","id":1,"method":"no.such"}"#, "nonsense", r#"{"jsonrpc":"2.0","id":[]}"#];
        for text in bad {
            let mut client = Client::connect(&gateway).await;
            for _ in 0..100 {
                client.raw(text).await;
            }
            let mut limited = 0;
            for _ in 0..100 {
                let answer = client.next().await.unwrap();
                limited += u32::from(answer["error"]["data"]["kind"] == "rate_limited");
            }
            assert!(limited > 50, "{text}: {limited} of 100");
        }
    });
}

#[test]
fn an_explanation_opens_no_session() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("policy.explain", json!({"argv": ["true"]})).await.unwrap();
        let listed = client.call("session.list", json!({})).await.unwrap();
        assert_eq!(listed["sessions"], json!([]));
    });
}

#[test]
fn an_http_request_that_is_dropped_with_bytes_behind_it_takes_its_job_along() {
    let gateway = Gateway::start();
    run(async {
        let body = json!({"argv": ["sleep", "1000"]}).to_string();
        let request = format!(
            "POST /v1/exec HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}\r\n",
            gateway.token(),
            body.len()
        );
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        eventually(PATIENCE, "it runs", || !gateway.survivors().is_empty());
        drop(socket);
        let took = eventually(PATIENCE, "its job is gone", || gateway.survivors().is_empty());
        assert!(took < Duration::from_secs(15), "only a ping's time later: {took:?}");
    });
}

#[test]
fn a_viewer_goes_on_by_its_acknowledgements_when_its_job_is_forgotten() {
    let gateway = Gateway::with("[limits]\nended_jobs_per_session = 1\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["head", "-c", "20000", "/dev/zero"], "window": 4096});
        let job = client.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
        client.call("job.wait", json!({"job": job})).await.unwrap();
        for _ in 0..2 {
            let later = client.start(&["true"]).await;
            client.event_of("job.closed", &later).await;
        }
        assert_eq!(client.refused("job.get", json!({"job": job})).await, "not_found");
        let mut got = 0;
        loop {
            let of = |v: &Value| v["params"]["job"] == job && v["params"]["stream"] == "stdout";
            let message = client.find("more of it", of).await;
            if message["method"] == "job.eof" {
                break;
            }
            got += message["params"]["data"].as_str().unwrap().len();
            if got < 20_000 {
                client.call("job.ack", json!({"job": job, "stream": "stdout", "offset": got})).await.unwrap();
            }
        }
        assert_eq!(got, 20_000);
        client.event_of("job.closed", &job).await;
    });
}
