//! Bytes through the whole gateway, by both planes.

use serde_json::json;

use crate::support::client::Frame;
use crate::support::{Client, Gateway, PATIENCE, eventually, run, tenants};

#[test]
fn every_byte_arrives_in_both_planes() {
    let gateway = Gateway::start();
    run(async {
        let script = "head -c 3000000 /dev/urandom | tee /dev/stderr | sha256sum | cut -d' ' -f1";
        let mut client = Client::binary(&gateway).await;
        let started =
            client.call("job.start", json!({"argv": ["sh", "-c", script], "window": 65536})).await.unwrap();
        let (job, channel) =
            (started["job"].as_str().unwrap().to_owned(), started["channel"].as_u64().unwrap() as u32);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let message = client.next().await.unwrap();
            let frame = &message["frame"];
            if message["method"] == "job.closed" {
                break;
            }
            if frame["kind"] != 1 {
                continue;
            }
            let bytes: Vec<u8> = serde_json::from_value(frame["payload"].clone()).unwrap();
            let stream = frame["stream"].as_u64().unwrap() as u8;
            let to = if stream == 1 { &mut out } else { &mut err };
            assert_eq!(frame["offset"], json!(to.len()));
            to.extend(bytes);
            let (offset, payload) = (to.len() as u64, 65536u32.to_be_bytes().to_vec());
            client.frame(&Frame { kind: 3, stream, flags: 0, channel, offset, payload }).await;
        }
        use sha2::Digest as _;
        let digest = format!("{:x}\n", sha2::Sha256::digest(&err));
        assert_eq!((err.len(), String::from_utf8(out).unwrap()), (3_000_000, digest));

        let mut json_client = Client::connect(&gateway).await;
        let again = json_client
            .sh("i=0; while [ $i -lt 20000 ]; do echo \"zeile \u{e4}\u{20ac} $i\"; i=$((i+1)); done")
            .await;
        let text = String::from_utf8(json_client.output(&again, "stdout").await).unwrap();
        assert_eq!(text, (0..20000).map(|i| format!("zeile \u{e4}\u{20ac} {i}\n")).collect::<String>());
        drop(job);
    });
}

#[test]
fn a_terminal_that_its_job_lets_go_of_for_a_while_goes_on() {
    let gateway = Gateway::start();
    let directory = tempfile::tempdir().unwrap();
    let (closed, go) = (directory.path().join("closed"), directory.path().join("go"));
    run(async {
        let mut client = Client::connect(&gateway).await;
        // More than a terminal holds, so that it takes a reader.
        let script = "exec </dev/null >/dev/null 2>&1; : >closed; until [ -e go ]; do :; done; \
            head -c 300000 /dev/zero | tr '\\0' x >/dev/tty";
        let argv =
            json!({"argv": ["sh", "-c", script], "cwd": directory.path(), "pty": {"rows": 24, "cols": 80}});
        let started = client.call("job.start", argv).await.unwrap();
        eventually(PATIENCE, "it lets go of its terminal", || closed.exists());
        // The gateway has seen that nobody held it, if it ever does.
        client.call("server.info", json!({})).await.unwrap();
        std::fs::write(go, "").unwrap();
        let job = started["job"].as_str().unwrap();
        let got = client.output(job, "pty").await;
        assert!(got == [b'x'; 300_000], "{} bytes", got.len());
        assert_eq!(client.event_of("job.closed", job).await["reason"], "exited");
    });
}

#[test]
fn a_viewer_gets_no_more_than_its_window_and_an_ack_beyond_ends_the_connection() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::binary(&gateway).await;
        let started = client.call("job.start", json!({"argv": ["yes"], "window": 4096})).await.unwrap();
        let channel = started["channel"].as_u64().unwrap() as u32;
        let mut got = 0;
        while got < 4096 {
            let message = client.find("output", |v| v["frame"]["kind"] == 1).await;
            got += message["frame"]["payload"].as_array().unwrap().len();
        }
        assert_eq!(got, 4096);
        client.call("server.info", json!({})).await.unwrap();
        client
            .frame(&Frame { kind: 3, stream: 1, flags: 0, channel, offset: 4097, payload: vec![0, 0, 0, 0] })
            .await;
        assert_eq!(client.close_code().await, Some(1002));
    });
}

#[test]
fn stdin_frames_at_another_offset_or_beyond_credit_are_refused_whole() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::binary(&gateway).await;
        let started = client.call("job.start", json!({"argv": ["cat"], "stdin": "pipe"})).await.unwrap();
        let channel = started["channel"].as_u64().unwrap() as u32;
        let stdin = |offset: u64, payload: &[u8], last: bool| Frame {
            kind: 2,
            stream: 0,
            flags: u16::from(last),
            channel,
            offset,
            payload: payload.to_vec(),
        };
        client.frame(&stdin(5, b"no", false)).await;
        assert_eq!(client.event("job.stdin_refused").await["offset"], 5);
        client.frame(&stdin(0, b"yes", true)).await;
        let message = client.find("output", |v| v["frame"]["kind"] == 1 && v["frame"]["stream"] == 1).await;
        assert_eq!(message["frame"]["payload"], json!(b"yes".to_vec()));
        client.event_of("job.closed", started["job"].as_str().unwrap()).await;
    });
}

#[test]
fn ten_megabytes_in_and_out_at_once_do_not_wedge() {
    use std::io::{Read as _, Write as _};
    let gateway = Gateway::start();
    let mut cat = gateway.cli(&["exec", "--", "cat"]);
    let mut child =
        cat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(received == bytes, "{} bytes came back", received.len());
}

#[test]
fn the_streams_of_all_jobs_have_one_budget_which_ended_jobs_hold_until_they_are_read() {
    // A job takes two rings of 256 KiB, an index of 128 KiB and a queue of 64 KiB while it runs, and what it really holds
    // once it has ended: two that run fit into three quarters of this, but not beside two that nobody has read.
    let gateway = Gateway::with("[streams]\nbudget = \"2000KiB\"\n");
    assert!(
        gateway.banner.iter().any(|line| line.starts_with("memory:") && line.contains("129 MiB")),
        "{:?}",
        gateway.banner
    );
    run(async {
        let mut client = Client::binary(&gateway).await;
        let mut ended = Vec::new();
        for _ in 0..2 {
            let params = json!({"argv": ["head", "-c", "200000", "/dev/zero"], "window": 4096});
            let started = client.call("job.start", params).await.unwrap();
            client.event_of("job.exited", started["job"].as_str().unwrap()).await;
            ended.push(started["job"].clone());
        }
        let sleep = json!({"argv": ["sleep", "1000"]});
        start_soon(&mut client, &sleep).await;
        let error = client.call("job.start", sleep.clone()).await.unwrap_err();
        assert_eq!(
            (error["data"]["kind"].as_str(), error["data"]["value"].as_u64()),
            (Some("limit_exceeded"), Some(1_536_000))
        );
        // Read out, they keep their tails and give the rest back.
        for job in ended {
            client.call("job.detach", json!({"job": job})).await.unwrap();
        }
        start_soon(&mut client, &sleep).await;
    });
}

#[test]
fn one_tenants_streams_leave_room_for_anothers() {
    // A job takes 704 KiB. Three quarters of 4 MiB hold four of them, and three quarters of the rest one.
    let gateway = Gateway::with(&(tenants::two() + "[streams]\nbudget = \"4MiB\"\n"));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let endless = json!({"argv": ["yes"], "output": {"overflow": "ring"}});
        let mut held = Vec::new();
        for _ in 0..4 {
            let started = a.call("job.start", endless.clone()).await.unwrap();
            a.call("job.detach", json!({"job": started["job"]})).await.unwrap();
            held.push(started["job"].clone());
        }
        let error = a.call("job.start", endless.clone()).await.unwrap_err();
        assert_eq!(error["data"]["value"], json!(3 << 20), "{error}");
        // The other one is served whatever the first holds, byte by byte.
        for number in 0..3 {
            let job = b.sh(&format!("seq {number} 20000")).await;
            let expected: String = (number..=20000).map(|line| format!("{line}\n")).collect();
            assert_eq!(String::from_utf8(b.output(&job, "stdout").await).unwrap(), expected);
            b.event_of("job.closed", &job).await;
        }
        start_soon(&mut b, &json!({"argv": ["sleep", "1000"]})).await;
        assert_eq!(b.refused("job.start", endless.clone()).await, "limit_exceeded");
        // And the first one's jobs are all still there.
        for job in held {
            assert_eq!(a.call("job.get", json!({"job": job})).await.unwrap()["state"], "running");
        }
    });
}

/// Starts it as soon as there is room.
async fn start_soon(client: &mut Client, params: &serde_json::Value) {
    let since = std::time::Instant::now();
    loop {
        match client.call("job.start", params.clone()).await {
            Ok(_) => return,
            Err(error) => {
                assert!(since.elapsed() < crate::support::PATIENCE, "{error}");
                assert_eq!(error["data"]["kind"], "limit_exceeded");
            }
        }
    }
}

#[test]
fn what_a_job_printed_while_its_owner_was_away_is_kept_though_it_has_ended() {
    const BYTES: usize = 200_000;
    let gateway = Gateway::start();
    run(async {
        let mut first = Client::binary(&gateway).await;
        let open = json!({"on_disconnect": "detach", "detach_ttl_ms": 60_000});
        let session = first.call("session.open", open).await.unwrap()["session"].clone();
        let script = format!("read x; seq -f %015.0f 1 {}", BYTES / 16);
        let start =
            json!({"session": session, "argv": ["sh", "-c", script], "stdin": "pipe", "window": 4096});
        let job = first.call("job.start", start).await.unwrap()["job"].clone();
        first.call("job.stdin", json!({"job": job, "data": "\n"})).await.unwrap();
        first.find("some output", |v| v["frame"]["kind"] == 1).await;
        drop(first);
        let mut second = Client::connect(&gateway).await;
        second.call("session.attach", json!({"session": session, "takeover": true})).await.unwrap();
        second.call("job.wait", json!({"job": job})).await.unwrap();
        let attached = second.call("job.attach", json!({"job": job, "mode": "write"})).await.unwrap();
        assert_eq!(attached["streams"]["stdout"], json!({"oldest": 0, "next": BYTES}));
        // Without a viewer it was told of the ends already.
        second.forget();
        let text = String::from_utf8(second.output(job.as_str().unwrap(), "stdout").await).unwrap();
        let all: String = (1..=BYTES / 16).map(|n| format!("{n:015}\n")).collect();
        assert!(text == all, "{} of {BYTES} bytes", text.len());
    });
}

#[test]
fn a_takeover_does_not_wait_for_a_connection_that_hangs() {
    let gateway = Gateway::start();
    run(async {
        // The first owner reads nothing any more: its writer hangs in the socket and hears no news.
        let mut hung = Client::binary(&gateway).await;
        let open = json!({"on_disconnect": "detach", "detach_ttl_ms": 60_000});
        let session = hung.call("session.open", open).await.unwrap()["session"].clone();
        let job = hung.call("job.start", json!({"session": session, "argv": ["yes"]})).await.unwrap()["job"]
            .clone();
        let mut next = Client::connect(&gateway).await;
        next.call("session.attach", json!({"session": session, "takeover": true})).await.unwrap();
        next.call("job.attach", json!({"job": job, "mode": "write"})).await.unwrap();
        next.event_of("job.output", job.as_str().unwrap()).await;
        let killed = next.call("job.kill", json!({"job": job}));
        // The old viewer, an observer now, keeps no answer back.
        assert_eq!(killed.await.unwrap()["survivors"], 0);
        drop(hung);
    });
}

#[test]
fn ended_jobs_keep_no_descriptor() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["true"]).await;
        client.event_of("job.closed", &job).await;
        let before = crate::support::proc::descriptors(gateway.pid());
        for number in 0..60 {
            let pty = if number % 2 == 0 { json!({"rows": 24, "cols": 80}) } else { json!(null) };
            let mut params = json!({"argv": ["true"]});
            if !pty.is_null() {
                params["pty"] = pty;
            }
            let started = client.call("job.start", params).await.unwrap();
            client.event_of("job.closed", started["job"].as_str().unwrap()).await;
        }
        crate::support::eventually(crate::support::PATIENCE, "descriptors return", || {
            crate::support::proc::descriptors(gateway.pid()) <= before
        });
        assert_eq!(client.call("job.list", json!({})).await.unwrap()["jobs"].as_array().unwrap().len(), 61);
    });
}

#[test]
fn output_comes_in_pieces_no_larger_than_a_frame_in_either_plane() {
    let gateway = Gateway::start();
    run(async {
        let mut binary = Client::binary(&gateway).await;
        let started =
            binary.call("job.start", json!({"argv": ["head", "-c", "300000", "/dev/zero"]})).await.unwrap();
        let (mut total, mut largest) = (0, 0);
        loop {
            let message = binary.next().await.unwrap();
            let piece = message["frame"]["payload"].as_array().map_or(0, Vec::len);
            (total, largest) = (total + piece, largest.max(piece));
            if message["method"] == "job.closed" {
                assert_eq!(message["params"]["job"], started["job"]);
                break;
            }
        }
        assert!(total == 300_000 && largest <= 64 * 1024, "{total} {largest}");
        let mut text = Client::connect(&gateway).await;
        let job = text.sh("yes \u{20ac} | head -c 300000").await;
        let mut whole = 0;
        while whole < 300_000 {
            let piece = text.event_of("job.output", &job).await;
            assert_eq!((&piece["offset"], &piece["stream"]), (&json!(whole), &json!("stdout")), "{piece}");
            let bytes = piece["data"].as_str().map_or_else(
                || {
                    use base64::Engine as _;
                    base64::engine::general_purpose::STANDARD
                        .decode(piece["data_b64"].as_str().unwrap())
                        .unwrap()
                        .len()
                },
                str::len,
            );
            assert!(bytes <= 64 * 1024, "{bytes}");
            whole += bytes;
        }
    });
}
