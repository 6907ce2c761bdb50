//! What must hold however the timing falls.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Client, Gateway, PATIENCE, eventually, run};

#[test]
fn signals_to_processes_that_no_longer_exist() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["true"]).await;
        client.event_of("job.closed", &job).await;
        for (method, params) in [
            ("job.signal", json!({"job": job, "signal": "SIGTERM"})),
            ("job.pause", json!({"job": job})),
            ("job.resume", json!({"job": job})),
            ("job.kill", json!({"job": job})),
            ("job.stop", json!({"job": job})),
            ("job.stdin", json!({"job": job, "data": "x"})),
        ] {
            assert_eq!(client.refused(method, params).await, "finished", "{method}");
        }
    });
}

#[test]
fn ten_thousand_pauses_and_resumes_racing_the_exit() {
    const JOBS: usize = 200;
    const PAIRS: usize = 50;
    let gateway = Gateway::with("[limits]\nrequests_per_second = 100000\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let mut kinds = BTreeSet::new();
        for _ in 0..JOBS {
            let job = client.sh("i=0; while [ $i -lt 40 ]; do i=$((i+1)); done").await;
            let mut ids = Vec::new();
            for _ in 0..PAIRS {
                ids.push(client.send("job.pause", json!({"job": job})).await);
                ids.push(client.send("job.resume", json!({"job": job})).await);
            }
            for id in ids {
                kinds.insert(match client.answer(id).await {
                    Ok(_) => "done".to_owned(),
                    Err(error) => error["data"]["kind"].as_str().unwrap().to_owned(),
                });
            }
            client.event_of("job.closed", &job).await;
        }
        assert!(kinds.iter().all(|kind| kind == "done" || kind == "finished"), "{kinds:?}");
        eprintln!("{} pause/resume pairs: {kinds:?}", JOBS * PAIRS);
    });
}

#[test]
fn two_executions_started_by_two_quick_requests() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["sleep", "1000"], "key": "once"});
        let ids =
            [client.send("job.start", params.clone()).await, client.send("job.start", params.clone()).await];
        let first = client.answer(ids[0]).await.unwrap();
        let second = client.answer(ids[1]).await.unwrap();
        assert_eq!(first["job"], second["job"]);
        eventually(PATIENCE, "one runs", || gateway.survivors().len() == 1);
        assert_eq!(
            client.refused("job.start", json!({"argv": ["sleep", "1"], "key": "once"})).await,
            "conflict"
        );
    });
}

#[test]
fn only_a_success_is_remembered_under_a_key() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        assert_eq!(
            client.refused("job.start", json!({"argv": ["no-such-program"], "key": "k"})).await,
            "spawn_failed"
        );
        client.call("job.start", json!({"argv": ["true"], "key": "k"})).await.unwrap();
    });
}

#[test]
fn errors_lost_because_the_session_was_already_gone() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let opened = client.call("session.open", json!({})).await.unwrap();
        let session = opened["session"].as_str().unwrap().to_owned();
        let ids: Vec<u64> = {
            let mut ids = Vec::new();
            for n in 0..20 {
                ids.push(
                    client.send("job.start", json!({"session": session, "argv": ["sleep", "1000"]})).await,
                );
                if n == 10 {
                    ids.push(client.send("session.close", json!({"session": session})).await);
                }
            }
            ids
        };
        for id in ids {
            let kind = client.answer(id).await.err().map(|e| e["data"]["kind"].clone());
            assert!(matches!(&kind, None | Some(Value::String(_))), "every request is answered: {kind:?}");
        }
        eventually(PATIENCE, "nothing of the session is left", || gateway.survivors().is_empty());
        assert_eq!(client.refused("session.close", json!({"session": session})).await, "not_found");
    });
}

#[test]
fn a_hundred_opens_with_one_slot_open_one() {
    let config =
        "[policy.quota]\nmodule = \"builtin:session-quota\"\nsettings = { sessions = { subject = 1 } }\n";
    let gateway = Gateway::with(config);
    run(async {
        let mut client = Client::connect(&gateway).await;
        let mut ids = Vec::new();
        for _ in 0..100 {
            ids.push(client.send("session.open", json!({})).await);
        }
        let mut opened = 0;
        for id in ids {
            match client.answer(id).await {
                Ok(_) => opened += 1,
                Err(error) => assert_eq!(error["data"]["kind"], "limit_exceeded", "{error}"),
            }
        }
        assert_eq!(opened, 1);
    });
}

#[test]
fn signalling_that_blocks_the_event_loop() {
    let gateway = Gateway::start();
    run(async {
        // A tree of 200 processes that ignores TERM takes its time to die; everybody else is served meanwhile.
        let mut client = Client::connect(&gateway).await;
        let job = client
            .sh("trap '' TERM; i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo up; wait")
            .await;
        client.event_of("job.output", &job).await;
        let stop = client.send("job.stop", json!({"job": job, "grace_ms": 1000})).await;
        let mut other = Client::connect(&gateway).await;
        for n in 0..50 {
            let job = other.start(&["echo", &n.to_string()]).await;
            assert_eq!(other.output(&job, "stdout").await, format!("{n}\n").as_bytes());
        }
        let state = client.call("job.get", json!({"job": job})).await.unwrap();
        eprintln!("50 jobs of another connection while a stop is under way; it is {}", state["state"]);
        let stopped = client.answer(stop).await.unwrap();
        assert_eq!((stopped["survivors"].as_u64(), stopped["escalated"].as_bool()), (Some(0), Some(true)));
    });
}
