//! Authentication and tenancy: one test a line of what must not get through the door, with real sockets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::tungstenite::Error;

use crate::support::http::Exchange;
use crate::support::pki::Pki;
use crate::support::{Client, Gateway, PATIENCE, eventually, run};
use crate::transport::speak;

/// `[auth.token.NAME]` for a token that reads like its name.
pub fn token_table(name: &str, tenant: &str, groups: &[&str]) -> String {
    use sha2::{Digest as _, Sha256};
    let digest: String = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "[auth.token.{name}]\nsha256 = \"{digest}\"\ntenant = \"{tenant}\"\nsubject = \"{name}\"\ngroups = {groups:?}\n"
    )
}

pub async fn with_token(gateway: &Gateway, token: &str) -> Result<Client, Error> {
    Client::with(gateway, &[("authorization", &format!("Bearer {token}"))]).await
}

pub fn refused(outcome: Result<Client, Error>) -> u16 {
    match outcome {
        Ok(_) => 101,
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(_) => 0,
    }
}

/// The answer to a request with these headers, without what is the request's own.
pub async fn answer(gateway: &Gateway, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let whole = speak(gateway, &request).await;
    whole
        .lines()
        .filter(|l| !l.starts_with("x-request-id") && !l.starts_with("date"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn no_token_an_empty_a_wrong_and_a_huge_one_get_the_same_401() {
    let gateway = Gateway::start();
    run(async {
        let none = answer(&gateway, "/v1/ws", "").await;
        assert!(none.starts_with("HTTP/1.1 401"), "{none}");
        for token in ["", "x", &"y".repeat(9000)] {
            assert_eq!(answer(&gateway, "/v1/ws", &format!("Authorization: Bearer {token}\r\n")).await, none);
        }
        // Over the bound of all headers it is not even looked at.
        let huge =
            answer(&gateway, "/v1/ws", &format!("Authorization: Bearer {}\r\n", "z".repeat(1 << 20))).await;
        assert!(huge.starts_with("HTTP/1.1 431") || huge.is_empty(), "{huge:.200}");
    });
}

#[test]
fn a_signed_token_names_tenant_subject_and_groups_and_a_forged_one_nobody() {
    let pki = Pki::make();
    let gateway = Gateway::with(&pki.jwt());
    run(async {
        let token = pki.token("acme", "ada", Duration::from_secs(60), json!({"groups": ["admin"]}));
        let mut client = with_token(&gateway, &token).await.unwrap();
        let principal = client.call("server.info", json!({})).await.unwrap()["principal"].clone();
        assert_eq!((&principal["tenant"], &principal["subject"]), (&json!("acme"), &json!("ada")));
        client.call("policy.list", json!({})).await.expect("the group makes an admin");
        let forger = Pki::make();
        for forged in [
            forger.token("acme", "ada", Duration::from_secs(60), json!({})),
            pki.token("acme", "ada", Duration::from_secs(60), json!({"aud": "other"})),
            pki.token("acme", "ada", Duration::from_secs(60), json!({"exp": "9999999999"})),
            pki.token("../acme", "ada", Duration::from_secs(60), json!({})),
            format!("{token}x"),
        ] {
            assert_eq!(refused(with_token(&gateway, &forged).await), 401, "{forged}");
        }
        assert!(!gateway.log().contains(&token), "the token is in the log");
    });
}

#[test]
fn a_token_that_expires_in_mid_session_ends_it_within_5_s() {
    let pki = Pki::make();
    let gateway = Gateway::with(&pki.jwt());
    run(async {
        let token = pki.token("acme", "ada", Duration::from_secs(2), json!({}));
        let mut client = with_token(&gateway, &token).await.unwrap();
        client.start(&["sleep", "1000"]).await;
        let since = Instant::now();
        assert_eq!(client.close_code().await, Some(4003));
        assert!(since.elapsed() < Duration::from_secs(5), "closed after {:?}", since.elapsed());
        eventually(Duration::from_secs(5), "the job is gone", || gateway.survivors().is_empty());
        assert_eq!(refused(with_token(&gateway, &token).await), 401);
    });
}

#[test]
fn an_expired_token_may_only_watch_when_the_operator_says_refuse() {
    let pki = Pki::make();
    let gateway = Gateway::with(&format!("[auth]\non_expiry = \"refuse\"\n{}", pki.jwt()));
    run(async {
        let token = pki.token("acme", "ada", Duration::from_secs(2), json!({}));
        let mut client = with_token(&gateway, &token).await.unwrap();
        client.start(&["sleep", "1000"]).await;
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let asking = async {
            loop {
                tick.tick().await;
                if let Err(error) = client.call("session.list", json!({})).await {
                    return error["data"]["kind"].as_str().unwrap().to_owned();
                }
            }
        };
        assert_eq!(timeout(PATIENCE, asking).await.expect("never refused"), "unauthenticated");
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "unauthenticated");
        assert!(!gateway.survivors().is_empty(), "what runs goes on");
    });
}

pub async fn ticket(gateway: &Gateway) -> Value {
    let request = format!(
        "POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        gateway.token()
    );
    let answer = speak(gateway, &request).await;
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap_or_else(|_| panic!("{answer}"))
}

pub async fn upgrade(gateway: &Gateway, query: &str, origin: &str) -> u16 {
    let request = format!(
        "GET /v1/ws?{query} HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        gateway.address()
    );
    let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

#[test]
fn a_ticket_lets_a_browser_in_once_and_only_from_its_own_page() {
    let gateway = Gateway::start();
    run(async {
        let own = gateway.url.clone();
        let made = ticket(&gateway).await;
        assert_eq!(made["expires_in_ms"], 30_000);
        let query = format!("ticket={}", made["ticket"].as_str().unwrap());
        assert_eq!(upgrade(&gateway, &query, "http://evil.example").await, 403);
        assert_eq!(upgrade(&gateway, &query, &own).await, 101);
        assert_eq!(upgrade(&gateway, &query, &own).await, 401, "a second time");
        let query = format!("ticket={}", ticket(&gateway).await["ticket"].as_str().unwrap());
        assert!(answer(&gateway, &format!("/v1/tickets?{query}"), "").await.contains(" 405"));
        assert!(!gateway.log().contains(&query), "the ticket is in the log");
    });
}

#[test]
fn too_many_tickets_of_one_subject_are_refused_as_any_excess_of_a_caller() {
    let gateway = Gateway::start();
    run(async {
        for _ in 0..64 {
            ticket(&gateway).await;
        }
        let mut refused = Exchange::post(&gateway, "/v1/tickets", "").await;
        assert_eq!(refused.status, 429, "{}", refused.head);
        assert!(refused.head.contains("retry-after: "), "{}", refused.head);
        let data = &refused.json().await["error"]["data"];
        assert_eq!(
            (&data["kind"], &data["limit"], &data["value"]),
            (&json!("limit_exceeded"), &json!("tickets of the subject that wait to be used"), &json!(64))
        );
    });
}

#[test]
fn an_auth_flood_from_one_source_is_penalised_and_others_are_not() {
    let gateway = Gateway::with("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n");
    run(async {
        let wrong = |from: &str| format!("Authorization: Bearer wrong\r\nX-Forwarded-For: {from}\r\n");
        for _ in 0..11 {
            assert!(answer(&gateway, "/v1/ws", &wrong("198.51.100.1")).await.starts_with("HTTP/1.1 401"));
        }
        let penalised = answer(&gateway, "/v1/ws", &wrong("10.9.9.9, 198.51.100.1")).await;
        assert!(penalised.starts_with("HTTP/1.1 429") && penalised.contains("retry-after: "), "{penalised}");
        let body: Value = serde_json::from_str(penalised.lines().last().unwrap()).unwrap();
        let data = &body["error"]["data"];
        assert_eq!(data["kind"], "rate_limited", "{body}");
        assert!(data["retry_after_ms"].as_u64().is_some_and(|left| left <= 1000), "{body}");
        assert!(answer(&gateway, "/v1/ws", &wrong("198.51.100.2")).await.starts_with("HTTP/1.1 401"));
        Client::connect(&gateway).await.call("server.info", json!({})).await.unwrap();
    });
}

#[test]
fn a_job_that_shows_wrong_tokens_from_this_host_locks_nobody_out() {
    let pki = Pki::make();
    let gateway = Gateway::with(&(token_table("ada", "acme", &[]) + &pki.jwt()));
    run(async {
        drop(with_token(&gateway, "ada").await.unwrap());
        for _ in 0..11 {
            assert_eq!(refused(with_token(&gateway, "wrong").await), 401);
        }
        assert_eq!(refused(with_token(&gateway, "wrong").await), 429);
        with_token(&gateway, "ada").await.unwrap().call("server.info", json!({})).await.unwrap();
        let token = pki.token("acme", "eve", Duration::from_secs(60), json!({}));
        with_token(&gateway, &token).await.unwrap().call("server.info", json!({})).await.unwrap();
    });
}

#[test]
fn a_forwarded_address_from_a_peer_that_is_no_trusted_proxy_is_not_believed() {
    let gateway = Gateway::start();
    run(async {
        for n in 0..11 {
            let headers = format!("Authorization: Bearer wrong\r\nX-Forwarded-For: 198.51.100.{n}\r\n");
            assert!(answer(&gateway, "/v1/ws", &headers).await.starts_with("HTTP/1.1 401"));
        }
        let headers = "Authorization: Bearer wrong\r\nX-Forwarded-For: 203.0.113.1\r\n";
        assert!(answer(&gateway, "/v1/ws", headers).await.starts_with("HTTP/1.1 429"));
    });
}

#[test]
fn a_client_certificate_names_its_bearer_by_the_name_the_operator_mapped() {
    let pki = Pki::make();
    let mapped = "[auth.mtls.builder]\nname = \"uri:spiffe://acme/builder\"\ntenant = \"acme\"\nsubject = \"builder\"\n";
    let gateway = Gateway::with(&format!("{}{mapped}", pki.tls()));
    run(async {
        let mut client = Client::tls(&gateway, pki.client(Some("builder")), &[]).await.unwrap();
        let principal = client.call("server.info", json!({})).await.unwrap()["principal"].clone();
        assert_eq!((&principal["tenant"], &principal["subject"]), (&json!("acme"), &json!("builder")));
        assert_eq!(
            refused(Client::tls(&gateway, pki.client(None), &[]).await),
            401,
            "no certificate, no token"
        );
        let wrong = ("authorization", "Bearer wrong");
        let outcome = Client::tls(&gateway, pki.client(Some("builder")), &[wrong]).await;
        assert_eq!(refused(outcome), 401, "a wrong token is not made good by a certificate");
        // A certificate of another authority ends the handshake.
        let mut stranger: ClientConfig = pki.client(None);
        stranger.client_auth_cert_resolver = Pki::make().client(Some("builder")).client_auth_cert_resolver;
        let outcome = Client::tls(&gateway, stranger, &[]).await;
        assert_ne!(refused(outcome), 101);
    });
}

#[test]
fn plaintext_a_stalled_handshake_and_an_old_version_on_the_tls_port_are_cut_off() {
    let pki = Pki::make();
    let gateway = Gateway::with(&format!(
        "[limits]\nfirst_byte = \"300ms\"\nhandshake = \"300ms\"\n{}{}",
        pki.tls(),
        pki.jwt()
    ));
    assert!(gateway.url.starts_with("https://"), "{}", gateway.url);
    run(async {
        let plain = speak(&gateway, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(!plain.contains("HTTP/1.1 200"), "{plain:?}");
        assert_eq!(speak(&gateway, "").await, "", "a silent peer");
        // The beginning of a ClientHello, and nothing more.
        assert_eq!(speak(&gateway, "\u{16}\u{3}\u{1}\u{1}").await, "", "a stalled handshake");
        let token = pki.token("acme", "ada", Duration::from_secs(60), json!({}));
        let bearer = format!("Bearer {token}");
        let old = Client::tls(&gateway, pki.old_client(), &[("authorization", &bearer)]).await;
        assert_eq!(refused(old), 0, "TLS 1.2 was spoken");
        let mut client = Client::tls(&gateway, pki.client(None), &[("authorization", &bearer)])
            .await
            .expect("a good one works");
        client.call("server.info", json!({})).await.unwrap();
    });
}

#[test]
fn tenant_a_that_guesses_an_id_of_b_hears_what_it_would_of_one_that_never_was() {
    let config = token_table("ada", "acme", &[])
        + &token_table("bob", "bolt", &[])
        + &token_table("lea", "acme", &["tenant-admin"]);
    let gateway = Gateway::with(&config);
    run(async {
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        let session = bob.call("session.open", json!({})).await.unwrap()["session"].clone();
        let started =
            bob.call("job.start", json!({"argv": ["sleep", "1000"], "session": session})).await.unwrap();
        let job = started["job"].clone();
        let never = |id: &Value| json!(format!("{}{}", &id.as_str().unwrap()[..2], "0".repeat(32)));
        for name in ["ada", "lea"] {
            let mut other = with_token(&gateway, name).await.unwrap();
            for (method, of) in [
                ("session.get", "session"),
                ("session.close", "session"),
                ("session.attach", "session"),
                ("job.get", "job"),
                ("job.kill", "job"),
                ("job.pause", "job"),
                ("job.wait", "job"),
                ("job.attach", "job"),
                ("job.detach", "job"),
            ] {
                let id = if of == "job" { &job } else { &session };
                let mut guessed = other.call(method, json!({of: id})).await.unwrap_err();
                let mut unknown = other.call(method, json!({of: never(id)})).await.unwrap_err();
                for error in [&mut guessed, &mut unknown] {
                    error["data"].as_object_mut().unwrap().remove("request_id");
                }
                assert_eq!(guessed, unknown, "{name}: {method}");
            }
            for (method, list) in [("session.list", "sessions"), ("job.list", "jobs")] {
                let listed = other.call(method, json!({})).await.unwrap();
                assert!(!listed[list].to_string().contains("bob"), "{name}: {listed}");
            }
        }
        bob.call("job.get", json!({"job": job})).await.expect("bob's own job is untouched");
    });
}

#[test]
fn a_hundred_parallel_opens_for_one_slot_give_exactly_one_session() {
    let gateway = Gateway::with("[limits]\nsessions = 1\n");
    run(async {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(Client::connect(&gateway).await);
        }
        let mut ids = Vec::new();
        for client in &mut clients {
            for _ in 0..10 {
                ids.push(client.send("session.open", json!({})).await);
            }
        }
        let (mut won, mut lost) = (0, 0);
        for (n, client) in clients.iter_mut().enumerate() {
            for id in &ids[n * 10..n * 10 + 10] {
                match client.answer(*id).await {
                    Ok(_) => won += 1,
                    Err(error) => {
                        lost += 1;
                        assert!(
                            ["limit_exceeded", "rate_limited"]
                                .contains(&error["data"]["kind"].as_str().unwrap()),
                            "{error}"
                        );
                    }
                }
            }
        }
        assert_eq!((won, lost), (1, 99));
    });
}
