//! What a client rarely does and may: many requests at once, the same job twice, late acknowledgements, long answers.

use serde_json::{Value, json};

use crate::support::{Client, Gateway, PATIENCE, eventually, needs, run, until};

/// Everything that has come, and not been taken, by the time the connection has answered once more.
async fn rest(client: &mut Client) -> Vec<Value> {
    let last = client.send("server.info", json!({})).await;
    let mut found = Vec::new();
    loop {
        let message = client.find("anything", |_| true).await;
        if message["id"] == json!(last) {
            return found;
        }
        found.push(message);
    }
}

#[test]
fn the_wall_clock_ends_a_tree_whose_leader_is_dead_and_whose_output_nobody_takes() {
    let gateway = Gateway::start();
    run(async {
        let mut silent = Client::connect(&gateway).await;
        let params = json!({"argv": ["sh", "-c", "yes & exit 0"], "window": 4096, "timeout_ms": 1000});
        let job = silent.call("job.start", params).await.unwrap()["job"].clone();
        let mut other = Client::connect(&gateway).await;
        let closed = other.call("job.wait", json!({"job": job, "timeout_ms": 15_000})).await.unwrap();
        assert_eq!((closed["state"].as_str(), closed["survivors"].as_u64()), (Some("closed"), Some(0)));
    });
}

#[test]
fn a_stop_of_a_paused_job_starts_its_clock_again() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["sleep", "1000"], "timeout_ms": 700});
        let job = client.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
        client.call("job.pause", json!({"job": job})).await.unwrap();
        // A signal that does nothing, and a grace that never ends.
        let params = json!({"job": job, "signal": "SIGURG", "grace_ms": 31_622_400_000_u64});
        client.send("job.stop", params).await;
        let closed = client.event_of("job.closed", &job).await;
        assert_eq!(closed["survivors"], 0);
    });
}

#[test]
fn a_pause_and_a_resume_at_once_leave_a_job_that_runs_and_says_so() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 100000\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.sh("for i in $(seq 60); do sleep 1000 & done; echo ready; wait").await;
        client.event_of("job.output", &job).await;
        let ask = |of| json!({"jsonrpc": "2.0", "id": of, "method": of, "params": {"job": job}});
        for _ in 0..50 {
            client.raw(&json!([ask("job.pause"), ask("job.resume")]).to_string()).await;
            let answers = client.find("the batch's answer", Value::is_array).await;
            assert!(answers.as_array().unwrap().iter().all(|a| a.get("result").is_some()), "{answers}");
            assert_eq!(client.call("job.get", json!({"job": job})).await.unwrap()["state"], "running");
        }
        client.call("job.kill", json!({"job": job})).await.unwrap();
    });
}

#[test]
fn requests_beyond_those_in_flight_are_refused_and_the_end_is_still_seen() {
    let gateway = Gateway::with("[limits]\noutstanding = 8\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let mut ids = Vec::new();
        for _ in 0..9 {
            ids.push(client.send("job.wait", json!({"job": job})).await);
        }
        let refused = client.answer(*ids.last().unwrap()).await.unwrap_err();
        assert_eq!(refused["data"]["kind"], "limit_exceeded", "{refused}");
        drop(client);
        eventually(PATIENCE, "the job goes with its connection", || gateway.survivors().is_empty());
    });
}

#[test]
fn attaching_twice_at_once_is_one_viewer() {
    let gateway = Gateway::start();
    run(async {
        let mut owner = Client::connect(&gateway).await;
        let job =
            owner.call("job.start", json!({"argv": ["cat"], "stdin": "pipe", "view": false})).await.unwrap();
        let job = job["job"].as_str().unwrap().to_owned();
        let attach = |id| json!({"jsonrpc": "2.0", "id": id, "method": "job.attach", "params": {"job": job}});
        owner.raw(&json!([attach("a"), attach("b")]).to_string()).await;
        let answers = owner.find("the batch's answer", Value::is_array).await;
        let channels: Vec<_> = answers.as_array().unwrap().iter().map(|a| &a["result"]["channel"]).collect();
        assert_eq!(channels[0], channels[1]);
        owner.call("job.stdin", json!({"job": job, "data": "x", "eof": true})).await.unwrap();
        let seen = owner.event_of("job.output", &job).await;
        assert_eq!(seen["data"], "x");
        owner.event_of("job.closed", &job).await;
        let rest = rest(&mut owner).await;
        for (method, more) in [("job.output", 0), ("job.exited", 1), ("job.closed", 0)] {
            let again = rest.iter().filter(|m| m["method"] == method).count();
            assert_eq!(again, more, "{method}: {rest:?}");
        }
    });
}

#[test]
fn a_batch_of_kills_is_answered_after_every_end() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let jobs = [client.start(&["sleep", "1000"]).await, client.start(&["sleep", "1000"]).await];
        let kill =
            |n: usize| json!({"jsonrpc": "2.0", "id": n, "method": "job.kill", "params": {"job": jobs[n]}});
        client.raw(&json!([kill(0), kill(1)]).to_string()).await;
        let mut closed = 0;
        loop {
            let message = client.find("the end", |v| v.is_array() || v["method"] == "job.closed").await;
            if message.is_array() {
                break;
            }
            closed += 1;
        }
        assert_eq!(closed, 2, "the answer came before an end");
    });
}

#[test]
fn an_acknowledgement_from_before_the_viewer_was_moved_harms_nothing() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params =
            json!({"argv": ["sh", "-c", "echo 0123456789; read x"], "stdin": "pipe", "window": 4096});
        let job = client.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
        client.event_of("job.output", &job).await;
        client
            .send("job.attach", json!({"job": job, "from": {"stdout": 5}, "mode": "write", "window": 4096}))
            .await;
        let ack = json!({"jsonrpc": "2.0", "method": "job.ack", "params": {"job": job, "stream": "stdout", "offset": 11}});
        client.raw(&ack.to_string()).await;
        client.call("job.detach", json!({"job": job})).await.unwrap();
        client.raw(&ack.to_string()).await;
        client.call("job.kill", json!({"job": job})).await.unwrap();
    });
}

#[test]
fn acknowledgements_are_never_refused_for_their_number() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 5\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let params = json!({"argv": ["head", "-c", "300000", "/dev/zero"], "window": 4096});
        let job = client.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
        let mut taken = 0;
        while taken < 300_000 {
            let piece = client.event_of("job.output", &job).await;
            assert_eq!(piece["offset"], taken, "nothing is missing");
            taken += piece["data"].as_str().unwrap().len();
            let ack = json!({"job": job, "stream": "stdout", "offset": taken});
            client.raw(&json!({"jsonrpc": "2.0", "method": "job.ack", "params": ack}).to_string()).await;
        }
        assert_eq!(client.event_of("job.closed", &job).await["totals"]["stdout"]["dropped"], 0);
    });
}

#[test]
fn a_list_of_long_commands_is_cut_and_the_connection_lives() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let long = "\u{1}".repeat(60_000);
        let mut last = String::new();
        for _ in 0..12 {
            last = client.start(&["true", &long, &long]).await;
            client.event_of("job.closed", &last).await;
        }
        let listed = client.call("job.list", json!({})).await.unwrap();
        let jobs = listed["jobs"].as_array().unwrap();
        assert_eq!(jobs.last().unwrap()["job"], json!(last), "the newest is there");
        assert_eq!(jobs.last().unwrap()["argv_cut"], true);
        let get = |n: usize| json!({"jsonrpc": "2.0", "id": n, "method": "job.get", "params": {"job": last}});
        client.raw(&Value::Array((0..50).map(get).collect()).to_string()).await;
        let answers = client.find("the batch's answer", Value::is_array).await;
        assert_eq!(answers.as_array().unwrap().len(), 50);
    });
}

#[test]
fn a_job_that_prints_at_once_loses_nothing_to_its_starter() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        for _ in 0..100 {
            let params =
                json!({"argv": ["head", "-c", "100000", "/dev/zero"], "output": {"ring_bytes": 4096}});
            let job = client.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned();
            assert_eq!(client.output(&job, "stdout").await.len(), 100_000);
            assert_eq!(client.event_of("job.closed", &job).await["totals"]["stdout"]["dropped"], 0);
        }
    });
}

/// More than the tail that is kept of a job once it is read, and all of it in the pipe before it is read.
#[test]
fn a_job_that_ends_at_once_is_kept_whole_for_its_starter() {
    let gateway = Gateway::start();
    run(async {
        let one = async || {
            let mut client = Client::connect(&gateway).await;
            for _ in 0..50 {
                let job = client.start(&["head", "-c", "60000", "/dev/zero"]).await;
                assert_eq!(client.output(&job, "stdout").await.len(), 60_000);
            }
        };
        tokio::join!(one(), one(), one(), one());
    });
}

#[test]
fn a_default_session_that_ended_by_itself_is_made_anew() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["true"]).await;
        let session = client.call("job.get", json!({"job": job})).await.unwrap()["session"].clone();
        client.call("session.close", json!({"session": session})).await.unwrap();
        let job = client.start(&["echo", "again"]).await;
        assert_eq!(client.output(&job, "stdout").await, b"again\n");
    });
}

/// A group of the v1 freezer: what is frozen in it does not die of SIGKILL until it is thawed. The nearest thing to a process
/// that is stuck in the kernel.
struct Freezer(std::path::PathBuf);

impl Freezer {
    /// `None` where there is no v1 freezer to be had.
    fn holding(pid: i32) -> Option<Self> {
        let group = std::path::Path::new("/sys/fs/cgroup/freezer").join(format!("execgate-test-{pid}"));
        std::fs::create_dir(&group).ok()?;
        let freezer = Self(group);
        std::fs::write(freezer.0.join("cgroup.procs"), pid.to_string()).ok()?;
        freezer.turn("FROZEN").ok()?;
        Some(freezer)
    }

    fn turn(&self, state: &str) -> std::io::Result<()> {
        std::fs::write(self.0.join("freezer.state"), state)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = self.turn("THAWED");
        eventually(PATIENCE, "the group is left", || std::fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn what_the_kernel_will_not_give_up_is_kill_pending_stays_charged_and_is_followed_to_its_end() {
    let gateway = Gateway::with("[limits]\njobs = 1\nrequests_per_second = 100000\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let started = client.call("job.start", json!({"argv": ["sleep", "1000"]})).await.unwrap();
        let job = started["job"].as_str().unwrap().to_owned();
        let freezer = Freezer::holding(started["pid"].as_i64().unwrap() as i32);
        needs(freezer.is_some(), "no v1 freezer can be written");
        let Some(freezer) = freezer else { return };
        let killed = client.call("job.kill", json!({"job": job})).await.unwrap();
        assert_eq!(killed["survivors"], 1, "{killed}");
        let closed = client.event_of("job.closed", &job).await;
        assert_eq!(
            (closed["survivors"].as_u64(), closed["reason"].as_str()),
            (Some(1), Some("kill_pending"))
        );
        let status = client.call("job.get", json!({"job": job})).await.unwrap();
        assert_eq!((status["state"].as_str(), status["survivors"].as_u64()), (Some("closed"), Some(1)));
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "limit_exceeded");
        freezer.turn("THAWED").unwrap();
        until("it is gone", async || {
            client.call("job.get", json!({"job": job})).await.unwrap()["survivors"] == 0
        })
        .await;
        let next = client.start(&["true"]).await;
        client.event_of("job.closed", &next).await;
        // It was told once.
        let told = rest(&mut client).await;
        assert!(
            !told.iter().any(|v| v["method"] == "job.closed" && v["params"]["job"] == json!(job)),
            "{told:?}"
        );
    });
}
