//! `POST /v1/exec`: one command by one HTTP request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::http::Exchange;
use crate::support::pki::Pki;
use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run, until};
use crate::transport::speak;

async fn exec(gateway: &Gateway, body: Value) -> Exchange {
    Exchange::post(gateway, "/v1/exec", &body.to_string()).await
}

async fn waited(gateway: &Gateway, body: Value) -> Value {
    let mut exchange = Exchange::post(gateway, "/v1/exec?wait=true", &body.to_string()).await;
    assert_eq!(exchange.status, 200, "{}", exchange.head);
    exchange.json().await
}

#[test]
fn one_request_gets_the_notifications_of_its_job_line_by_line() {
    let gateway = Gateway::start();
    run(async {
        let body = json!({"argv": ["sh", "-c", "printf out; printf err >&2; exit 4"]});
        let mut exchange = exec(&gateway, body).await;
        assert_eq!(exchange.status, 200);
        assert!(exchange.head.contains("content-type: application/x-ndjson"), "{}", exchange.head);
        assert!(exchange.head.contains("x-request-id: r_"), "{}", exchange.head);
        let first = exchange.line().await.unwrap();
        assert_eq!((&first["id"], first["result"]["pid"].is_u64()), (&Value::Null, true), "{first}");
        let job = first["result"]["job"].clone();
        let mut events = Vec::new();
        while let Some(event) = exchange.line().await {
            assert_eq!(event["params"]["job"], job);
            events.push(event);
        }
        let of = |method: &str| events.iter().filter(|e| e["method"] == method).collect::<Vec<_>>();
        assert_eq!(of("job.exited")[0]["params"]["code"], 4);
        let mut output: Vec<_> = of("job.output").iter().map(|e| e["params"]["data"].to_string()).collect();
        output.sort();
        assert_eq!(output, ["\"err\"", "\"out\""]);
        assert_eq!((of("job.eof").len(), of("job.closed").len()), (2, 1));
        assert_eq!(events.last().unwrap()["method"], "job.closed");
    });
}

#[test]
fn a_request_that_waits_gets_one_object() {
    let gateway = Gateway::start();
    run(async {
        let body = json!({"argv": ["sh", "-c", "cat; printf oops >&2; exit 3"], "stdin_data": "in\n", "labels": {"a": "b"}});
        let whole = waited(&gateway, body).await;
        assert_eq!((&whole["stdout"], &whole["stderr"]), (&json!("in\n"), &json!("oops")));
        assert_eq!(
            (&whole["code"], &whole["reason"], &whole["state"]),
            (&json!(3), &json!("exited"), &json!("closed"))
        );
        assert_eq!(whole["totals"]["stdout"], json!({"produced": 3, "delivered": 3, "dropped": 0}));
        assert_eq!((&whole["survivors"], &whole["labels"]), (&json!(0), &json!({"a": "b"})));
        let binary = waited(&gateway, json!({"argv": ["printf", "\\377\\000"]})).await;
        assert_eq!(binary["stdout_b64"], STANDARD.encode([255, 0]));
    });
}

#[test]
fn output_that_is_waited_for_is_bounded_and_says_what_is_missing() {
    let gateway = Gateway::start();
    run(async {
        let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done";
        let body = json!({"argv": ["sh", "-c", script], "output": {"ring_bytes": 4096}});
        let since = std::time::Instant::now();
        let whole = waited(&gateway, body).await;
        // The rings are the answer: the job is not held back for a viewer, who would be awaited for longer.
        assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
        let all: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
        let text = whole["stdout"].as_str().unwrap();
        assert!(all.ends_with(text) && text.len() == 4096, "{} bytes", text.len());
        let produced = all.len();
        assert_eq!(
            whole["totals"]["stdout"],
            json!({"produced": produced, "delivered": 4096, "dropped": produced - 4096})
        );
    });
}

/// More than the tail that is kept of a job once it is read, and all of it in the pipe before it is read.
#[test]
fn a_job_that_ends_at_once_is_answered_in_whole() {
    let gateway = Gateway::start();
    run(async {
        let one = async || {
            for _ in 0..50 {
                let body = json!({"argv": ["head", "-c", "60000", "/dev/zero"]});
                let whole = waited(&gateway, body).await;
                assert_eq!(whole["stdout"].as_str().map(str::len), Some(60_000), "{}", whole["totals"]);
            }
        };
        tokio::join!(one(), one(), one(), one());
    });
}

#[test]
fn stdin_data_larger_than_any_queue_goes_in_whole() {
    let gateway = Gateway::start();
    run(async {
        let data = "0123456789abcdef".repeat(40_000);
        let whole = waited(&gateway, json!({"argv": ["wc", "-c"], "stdin_data": data})).await;
        assert_eq!(whole["stdout"].as_str().unwrap().trim(), data.len().to_string());
        let b64 = STANDARD.encode([0u8, 1, 2, 255]);
        let whole = waited(&gateway, json!({"argv": ["od", "-An", "-tx1"], "stdin_data_b64": b64})).await;
        assert_eq!(whole["stdout"], " 00 01 02 ff\n");
        // A job that reads nothing of it ends all the same.
        let whole = waited(&gateway, json!({"argv": ["true"], "stdin_data": data})).await;
        assert_eq!(whole["code"], 0);
    });
}

#[test]
fn dropping_the_request_kills_the_job() {
    let gateway = Gateway::start();
    run(async {
        for path in ["/v1/exec", "/v1/exec?wait=true"] {
            for script in ["setsid sleep 1000 & sleep 1000", "yes"] {
                let body = json!({"argv": ["sh", "-c", script]}).to_string();
                let exchange = Exchange::post(&gateway, path, &body).await;
                eventually(PATIENCE, "it runs", || !gateway.survivors().is_empty());
                drop(exchange);
                let took = eventually(PATIENCE, "nothing is left", || gateway.survivors().is_empty());
                eprintln!("{path} dropped -> {script:?} gone: {took:?}");
            }
        }
    });
}

#[test]
fn a_dropped_request_is_noticed_even_behind_bytes_that_nobody_reads() {
    // Bytes sent ahead hide the end of the connection from a server that does not read on; writing shows it.
    let gateway = Gateway::with("[limits]\nping = \"100ms\"\n");
    run(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let body = json!({"argv": ["sleep", "1000"]}).to_string();
        let request = format!(
            "POST /v1/exec HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}GET / HTTP/1.1\r\n",
            gateway.token(),
            body.len()
        );
        let mut socket = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut some = [0; 16];
        socket.read_exact(&mut some).await.unwrap();
        eventually(PATIENCE, "it runs", || !gateway.survivors().is_empty());
        drop(socket);
        eventually(PATIENCE, "nothing is left", || gateway.survivors().is_empty());
    });
}

#[test]
fn a_reader_that_stalls_is_ended_and_costs_no_memory() {
    let gateway = Gateway::with("[streams]\nstall = \"500ms\"\n");
    run(async {
        let before = proc::rss(gateway.pid());
        let exchange = exec(&gateway, json!({"argv": ["yes"]})).await;
        eventually(PATIENCE, "it runs", || !gateway.survivors().is_empty());
        eventually(PATIENCE, "the stalled request is ended", || gateway.survivors().is_empty());
        let grown = proc::rss(gateway.pid()).saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes");
        drop(exchange);
    });
}

#[test]
fn a_body_in_chunks_of_one_byte_costs_what_it_costs_in_one() {
    let gateway = Gateway::start();
    run(async {
        let mut body = json!({"argv": ["true"]}).to_string();
        body.push_str(&" ".repeat((1 << 20) - body.len()));
        assert_eq!(Exchange::post(&gateway, "/v1/exec?wait=true", &body).await.status, 200);
        let before = proc::peak(gateway.pid());
        let chunks: String = body.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
        let request = format!(
            "POST /v1/exec?wait=true HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n",
            gateway.token()
        );
        let answer = speak(&gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let grown = proc::peak(gateway.pid()) - before;
        assert!(grown < 4 << 20, "{grown} bytes for a body of {}", body.len());
    });
}

#[test]
fn an_expired_credential_ends_an_execution_that_goes_on_printing_whether_or_not_it_is_read() {
    let pki = Pki::make();
    let gateway = Gateway::with(&pki.jwt());
    run(async {
        for is_read in [true, false] {
            let token = pki.token("acme", "ada", Duration::from_secs(2), json!({}));
            let bearer = format!("Authorization: Bearer {token}\r\n");
            let body = json!({"argv": ["yes"]}).to_string();
            let mut exchange = Exchange::send(&gateway, "POST", "/v1/exec", &bearer, &body).await;
            assert_eq!(exchange.status, 200, "{}", exchange.head);
            eventually(PATIENCE, "it runs", || !gateway.survivors().is_empty());
            if is_read {
                let read = async { while exchange.piece().await.is_some() {} };
                tokio::time::timeout(PATIENCE, read).await.expect("it prints on");
            }
            eventually(PATIENCE, "the job is gone", || gateway.survivors().is_empty());
        }
    });
}

#[test]
fn whoever_reads_what_a_job_goes_on_printing_is_told_of_the_drain_within_it() {
    let gateway = Gateway::with("[drain]\ngrace = \"1h\"\n");
    run(async {
        let mut exchange = exec(&gateway, json!({"argv": ["yes"]})).await;
        assert_eq!(exchange.status, 200);
        exchange.line().await.unwrap();
        gateway.signal(Signal::SIGTERM);
        let told = async {
            loop {
                let line = exchange.line().await.expect("the job goes on");
                if line["method"] == "server.draining" {
                    break line;
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await.expect("nothing but output");
        assert!(told["params"]["deadline_ms"].as_u64().unwrap() > 3_500_000, "{told}");
        assert_eq!(exchange.line().await.unwrap()["method"], "job.output", "the job was to have its grace");
    });
}

#[test]
fn what_is_refused_has_a_status_and_the_same_error_as_a_websocket() {
    let gateway = Gateway::start();
    run(async {
        let table = [
            (json!({"argv": ["mount"]}).to_string(), 403, "policy_denied"),
            (json!({"argv": ["no-such-program"]}).to_string(), 422, "spawn_failed"),
            (json!({"argv": []}).to_string(), 400, "invalid_params"),
            (json!({"argv": ["ls"], "session": "s_0"}).to_string(), 400, "invalid_params"),
            (json!({"argv": ["ls"], "argw": 1}).to_string(), 400, "invalid_params"),
            (json!({"argv": ["ls"], "stdin": "null", "stdin_data": ""}).to_string(), 400, "invalid_params"),
            ("{\"argv\": [\"ls\"], \"argv\": [\"id\"]}".to_owned(), 400, "invalid_request"),
            ("[\"ls\"]".to_owned(), 400, "invalid_params"),
            ("nonsense".to_owned(), 400, "parse_error"),
            ("".to_owned(), 400, "parse_error"),
        ];
        for (body, status, kind) in table {
            let mut exchange = Exchange::post(&gateway, "/v1/exec", &body).await;
            assert_eq!(exchange.status, status, "{body}");
            let answer = exchange.json().await;
            assert_eq!(answer["error"]["data"]["kind"], kind, "{body}");
            assert_eq!(answer["id"], Value::Null);
        }
        let wrong = Exchange::send(&gateway, "POST", "/v1/exec", "Authorization: Bearer no\r\n", "{}").await;
        assert_eq!(wrong.status, 401);
        let queried = format!("/v1/exec?token={}", gateway.token());
        assert_eq!(Exchange::post(&gateway, &queried, "{}").await.status, 401);
        assert_eq!(Exchange::post(&gateway, "/v1/exec?wait=maybe", "{}").await.status, 400);
        assert_eq!(Exchange::post(&gateway, "/v1/exec", &"x".repeat((1 << 20) + 1)).await.status, 413);
        assert_eq!(Exchange::send(&gateway, "GET", "/v1/exec", "", "").await.status, 405);
        assert!(gateway.survivors().is_empty());
    });
}

#[test]
fn an_execution_is_charged_and_counted_as_any_job() {
    let gateway = Gateway::with("[limits]\njobs = 1\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let mut refused = exec(&gateway, json!({"argv": ["true"]})).await;
        assert_eq!((refused.status, refused.json().await["error"]["data"]["limit"].is_string()), (503, true));
        client.call("job.kill", json!({"job": job})).await.unwrap();
        assert_eq!(waited(&gateway, json!({"argv": ["true"]})).await["code"], 0);
        until("the session of a finished request is gone with it", async || {
            let list = client.call("session.list", json!({})).await.unwrap();
            list["sessions"].as_array().unwrap().len() == 1
        })
        .await;
    });
}
