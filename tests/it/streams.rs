//! Bytes through the whole gateway, by both planes.

use serde_json::json;

use crate::support::client::Frame;
use crate::support::{Client, Gateway, run};

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
