//! Peers that speak WebSocket badly, slowly, too much, or not at all any more.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::raw::{self, BINARY, PING, PONG, Raw, TEXT, frame, handshake};
use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run};

/// Quick to notice a peer that is gone.
const QUICK: &str = "[limits]\nping = \"100ms\"\ndead_after = \"400ms\"\n";

async fn is_still_served(gateway: &Gateway) {
    let mut client = Client::connect(gateway).await;
    let job = client.start(&["echo", "served"]).await;
    assert_eq!(client.output(&job, "stdout").await, b"served\n");
}

#[test]
fn frames_that_break_rfc_6455_close_with_1002() {
    let gateway = Gateway::start();
    run(async {
        let mut unmasked = frame(0x80 | TEXT, b"{}");
        unmasked[1] &= 0x7f;
        let table: [(&str, Vec<u8>); 7] = [
            ("unmasked", unmasked),
            ("a reserved bit", frame(0x80 | 0x40 | TEXT, b"{}")),
            ("a reserved opcode", frame(0x80 | 3, b"{}")),
            ("a reserved control opcode", frame(0x80 | 11, b"")),
            ("a fragmented control frame", frame(PING, b"")),
            ("a control frame of 126 bytes", frame(0x80 | PING, &[0; 126])),
            ("a continuation of nothing", frame(0x80, b"{}")),
        ];
        for (what, bytes) in table {
            let mut peer = Raw::connect(&gateway).await;
            peer.send(&bytes).await;
            assert_eq!(peer.close_code().await, Some(1002), "{what}");
        }
        let mut peer = Raw::connect(&gateway).await;
        peer.send(&frame(0x80 | TEXT, &[0xff, 0xfe])).await;
        assert_eq!(peer.close_code().await, Some(1007), "text that is not UTF-8");
        is_still_served(&gateway).await;
    });
}

#[test]
fn a_frame_that_says_it_has_two_to_the_63_bytes_closes_with_1009_and_allocates_nothing() {
    let gateway = Gateway::start();
    run(async {
        let before = proc::rss(gateway.pid());
        for length in [1u64 << 63, u64::MAX, 1 << 40, (1 << 20) + 1] {
            let mut peer = Raw::connect(&gateway).await;
            let mut bytes = vec![0x80 | BINARY, 0x80 | 127];
            bytes.extend(length.to_be_bytes());
            bytes.extend([0; 4]);
            peer.send(&bytes).await;
            let code = peer.close_code().await;
            assert!(matches!(code, Some(1009 | 1002)), "{length}: {code:?}");
        }
        assert!(proc::rss(gateway.pid()) < before + (8 << 20));
    });
}

#[test]
fn a_message_in_one_byte_fragments_is_bounded_as_a_whole() {
    let gateway = Gateway::with("[limits]\nmessage = \"4KiB\"\n");
    run(async {
        let mut peer = Raw::connect(&gateway).await;
        let mut bytes = frame(TEXT, b"[");
        (0..5000).for_each(|_| bytes.extend(frame(0, b" ")));
        peer.send(&bytes).await;
        assert_eq!(peer.close_code().await, Some(1009));
        // A message in a few fragments is a message.
        let mut peer = Raw::connect(&gateway).await;
        let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\"}";
        peer.send(&frame(TEXT, &request[..10])).await;
        peer.send(&frame(0x80 | PING, b"between")).await;
        peer.send(&frame(0x80, &request[10..])).await;
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.push(peer.next().await.unwrap());
        }
        assert!(seen.contains(&(0x80 | PONG, b"between".to_vec())));
        assert!(
            seen.iter().any(|(first, payload)| *first == 0x80 | TEXT && payload.starts_with(b"{\"id\":1")
                || payload.windows(9).any(|w| w == b"\"result\":"))
        );
    });
}

#[test]
fn a_message_in_more_fragments_than_there_may_be_closes_with_1009_though_it_is_short() {
    const MOST: usize = 1024;
    let gateway = Gateway::start();
    run(async {
        let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\"}";
        let message = |fragments: usize| {
            let mut bytes = frame(TEXT, request);
            (2..fragments).for_each(|_| bytes.extend(frame(0, b"")));
            bytes.extend(frame(0x80, b""));
            bytes
        };
        let mut peer = Raw::connect(&gateway).await;
        for _ in 0..3 {
            peer.send(&message(MOST)).await;
            let (first, payload) = peer.next().await.expect("an answer");
            assert!(first == 0x80 | TEXT && payload.windows(9).any(|w| w == b"\"result\":"));
        }
        peer.send(&message(MOST + 1)).await;
        assert_eq!(peer.close_code().await, Some(1009));
        // One that never ends, of nothing: the goodbye is read however much is still under way.
        let mut peer = Raw::connect(&gateway).await;
        peer.send(&frame(BINARY, b"")).await;
        let flood: Vec<u8> = (0..100_000).flat_map(|_| frame(0, b"")).collect();
        peer.send(&flood).await;
        assert_eq!(peer.close_code().await, Some(1009));
        is_still_served(&gateway).await;
    });
}

#[test]
fn compression_is_never_negotiated() {
    let gateway = Gateway::start();
    run(async {
        let raw = Raw::upgrade(&gateway, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
        assert!(!raw.head.contains("sec-websocket-extensions"), "{}", raw.head);
    });
}

#[test]
fn a_bad_handshake_is_refused_by_its_status() {
    let gateway = Gateway::start();
    run(async {
        let good = handshake(&gateway, "");
        let table = [
            (good.replace("Version: 13", "Version: 8"), "http/1.1 426"),
            (good.replace("Version: 13", "Version: 014"), "http/1.1 426"),
            (good.replace("Sec-WebSocket-Version: 13\r\n", ""), "http/1.1 426"),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "http/1.1 400"),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", ""), "http/1.1 400"),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j!!!!"), "http/1.1 400"),
            (good.replace("GET", "POST"), "http/1.1 405"),
            (good.replace("HTTP/1.1", "HTTP/1.0"), "http/1."),
            (good.replace("Upgrade: websocket", "Upgrade: h2c"), "http/1.1 400"),
        ];
        for (request, expected) in table {
            let raw = Raw::ask(&gateway, &request).await;
            assert!(raw.head.starts_with(expected) && !raw.head.contains(" 101 "), "{request}: {}", raw.head);
        }
        is_still_served(&gateway).await;
    });
}

#[test]
fn a_ping_flood_closes_with_1008() {
    let gateway = Gateway::start();
    run(async {
        let mut peer = Raw::connect(&gateway).await;
        peer.send(&frame(0x80 | PING, b"one")).await;
        assert_eq!(peer.next().await, Some((0x80 | PONG, b"one".to_vec())), "a ping is answered");
        let flood: Vec<u8> = (0..2000).flat_map(|_| frame(0x80 | PING, b"flood")).collect();
        peer.send(&flood).await;
        assert_eq!(peer.close_code().await, Some(1008));
        is_still_served(&gateway).await;
    });
}

#[test]
fn a_client_that_never_answers_pings_is_gone_and_so_is_its_tree() {
    let gateway = Gateway::with(QUICK);
    run(async {
        let mut peer = Raw::connect(&gateway).await;
        peer.call("job.start", json!({"argv": ["sh", "-c", "setsid sleep 1000 & sleep 1000"]})).await;
        eventually(PATIENCE, "it runs", || gateway.survivors().len() >= 2);
        let since = Instant::now();
        // It reads on, and answers nothing.
        assert_eq!(peer.close_code().await, Some(1001));
        eventually(PATIENCE, "nothing is left", || gateway.survivors().is_empty());
        eprintln!("no pong for {:?} of 400 ms: disconnected", since.elapsed());
    });
}

#[test]
fn a_client_that_answers_pings_may_be_silent_for_ever() {
    let gateway = Gateway::with(QUICK);
    run(async {
        let mut client = Client::connect(&gateway).await;
        // Reading is what makes the library answer; this job is silent for five times as long as a dead peer would live.
        let job = client.sh("sleep 2; echo done").await;
        assert_eq!(client.output(&job, "stdout").await, b"done\n");
    });
}

#[test]
fn a_fast_reader_of_endless_output_is_not_taken_for_dead() {
    let gateway = Gateway::with(QUICK);
    run(async {
        let mut client = Client::binary(&gateway).await;
        client.call("job.start", json!({"argv": ["yes"]})).await.unwrap();
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(2) {
            assert!(client.next().await.is_some(), "it was cut off after {:?}", since.elapsed());
        }
    });
}

#[test]
fn a_zero_window_blocks_the_child_keeps_memory_flat_and_is_a_disconnect() {
    let gateway = Gateway::with("[limits]\nping = \"200ms\"\ndead_after = \"5s\"\n");
    run(async {
        let mut peer = Raw::connect(&gateway).await;
        let before = proc::rss(gateway.pid());
        peer.call(
            "job.start",
            json!({"argv": ["sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"]}),
        )
        .await;
        eventually(PATIENCE, "it runs", || !gateway.survivors().is_empty());
        let pid = gateway.survivors()[0];
        // The peer reads nothing at all from here on. The child blocks when it writes nothing while others' jobs come and go.
        let mut other = Client::connect(&gateway).await;
        let since = Instant::now();
        loop {
            let written = proc::written(pid);
            for _ in 0..3 {
                let job = other.start(&["true"]).await;
                other.event_of("job.closed", &job).await;
            }
            if proc::written(pid) == written {
                assert!(written > 0, "it was not taken for dead before it could block");
                break;
            }
            assert!(since.elapsed() < PATIENCE, "the child never blocks: {written} bytes and more");
        }
        drop(other);
        let grown = proc::rss(gateway.pid()).saturating_sub(before);
        assert!(grown < 8 << 20, "{grown} bytes");
        eventually(PATIENCE, "the tree is gone", || gateway.survivors().is_empty());
    });
}

#[test]
fn a_viewer_without_a_window_that_stalls_is_ended_with_1013() {
    let gateway = Gateway::with("[streams]\nstall = \"300ms\"\n");
    run(async {
        let mut peer = Raw::connect(&gateway).await;
        peer.call("job.start", json!({"argv": ["yes"]})).await;
        eventually(PATIENCE, "it is ended", || gateway.log().contains("stalled"));
        // What was on its way is still read, and then why it ended.
        assert_eq!(peer.close_code().await, Some(1013));
        eventually(PATIENCE, "the tree is gone", || gateway.survivors().is_empty());
    });
}

#[test]
fn a_viewer_with_a_window_may_stall_as_long_as_it_answers_pings() {
    let gateway =
        Gateway::with("[limits]\nping = \"100ms\"\ndead_after = \"600ms\"\n[streams]\nstall = \"300ms\"\n");
    run(async {
        let mut client = Client::binary(&gateway).await;
        let started = client.call("job.start", json!({"argv": ["yes"], "window": 65536})).await.unwrap();
        let channel = started["channel"].as_u64().unwrap() as u32;
        // Takes its window and acknowledges nothing, like a pager whose reader has gone for coffee; pings are answered.
        let payload =
            |message: &serde_json::Value| message["frame"]["payload"].as_array().map_or(0, Vec::len);
        let mut got = 0;
        while got < 65536 {
            got += payload(&client.next().await.unwrap());
        }
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(2) {
            match tokio::time::timeout(Duration::from_millis(100), client.next()).await {
                Ok(Some(message)) => got += payload(&message),
                Ok(None) => panic!("it was cut off after {:?}", since.elapsed()),
                Err(_) => {}
            }
        }
        assert_eq!(got, 65536);
        let (offset, payload) = (65536, 65536u32.to_be_bytes().to_vec());
        client
            .frame(&crate::support::client::Frame { kind: 3, stream: 1, flags: 0, channel, offset, payload })
            .await;
        client.find("more", |v| v["frame"]["offset"] == 65536).await;
    });
}

#[test]
fn a_reset_in_mid_frame_is_an_ordinary_disconnect() {
    let gateway = Gateway::start();
    run(async {
        for cut in [1, 2, 5, 9] {
            let mut peer = Raw::connect(&gateway).await;
            peer.call("job.start", json!({"argv": ["sh", "-c", "setsid yes & yes"]})).await;
            eventually(PATIENCE, "it runs", || gateway.survivors().len() >= 2);
            let request = frame(0x80 | TEXT, b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"server.info\"}");
            peer.send(&request[..cut]).await;
            nix::sys::socket::setsockopt(
                &peer.socket,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 0 },
            )
            .unwrap();
            drop(peer);
            let took = eventually(PATIENCE, "the tree is gone", || gateway.survivors().is_empty());
            eprintln!("reset after {cut} bytes of a frame -> tree gone: {took:?}");
        }
        is_still_served(&gateway).await;
    });
    assert!(!gateway.log().contains("panic"), "{}", gateway.log());
}

#[test]
fn a_message_after_the_close_is_not_acted_on() {
    let gateway = Gateway::start();
    run(async {
        let mut peer = Raw::connect(&gateway).await;
        let mut bytes = frame(0x80 | raw::CLOSE, &1000u16.to_be_bytes());
        let request =
            json!({"jsonrpc": "2.0", "id": 1, "method": "job.start", "params": {"argv": ["sleep", "1000"]}});
        bytes.extend(frame(0x80 | TEXT, request.to_string().as_bytes()));
        peer.send(&bytes).await;
        assert_eq!(peer.close_code().await, Some(1000));
        assert!(gateway.survivors().is_empty());
    });
}
