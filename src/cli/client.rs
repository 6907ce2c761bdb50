//! A WebSocket client of the gateway: JSON-RPC in text frames, stream data in binary ones.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::output::Trouble;
use super::target::{Credential, Target};
use super::tls;

/// How long the last frame may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long a gateway may take to accept a connection, TLS and the handshake included.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// When to ask a gateway that says nothing whether it is there.
const ASK: Duration = Duration::from_secs(20);
/// When a gateway that says nothing, not even to that, is gone; also the longest that it may not take what is sent.
const SILENCE: Duration = Duration::from_secs(60);

/// What the gateway sends.
#[derive(Debug)]
pub(super) enum Incoming {
    /// An answer to the request with this id.
    Answer(u64, Result<Value, Value>),
    /// A notification.
    Event(String, Value),
    /// Stream data.
    Frame(Vec<u8>),
    /// The end of the connection, and why.
    Closed(String),
}

/// A connection to a gateway.
pub(super) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    /// When something was heard of the gateway.
    heard_at: Instant,
    /// When it was asked since whether it is there.
    asked_at: Option<Instant>,
    /// What came while an answer was awaited.
    early: VecDeque<Incoming>,
}

impl Client {
    pub(super) async fn connect(target: &Target) -> Result<Self, Trouble> {
        let mut request = target
            .socket()
            .into_client_request()
            .map_err(|error| Trouble::usage(format!("{}: not a URL: {error}", target.url)))?;
        let authority = request.uri().authority();
        if authority.is_some_and(|a| a.port().is_none() && a.as_str() != a.host()) {
            return Err(Trouble::usage(format!("{}: a port is a number from 1 to 65535", target.url)));
        }
        if let Some(token) = &target.token {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
            let bearer =
                bearer.map_err(|_| Trouble::usage("the token holds characters that no token has"))?;
            request.headers_mut().insert("authorization", bearer);
        }
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("execgate.v1"));
        let connector = tls::connector(target)?;
        let connecting = tokio_tungstenite::connect_async_tls_with_config(request, None, true, connector);
        match tokio::time::timeout(HANDSHAKE, connecting).await {
            Ok(Ok((socket, _))) => Ok(Self::over(socket)),
            Ok(Err(error)) => Err(unconnected(target, &error)),
            Err(_) => Err(Trouble::unreachable(format!(
                "{} said nothing within {} s; see whether a gateway is there, and whether it is well (its /livez)",
                target.url,
                HANDSHAKE.as_secs()
            ))),
        }
    }

    fn over(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self { socket, last_id: 0, heard_at: Instant::now(), asked_at: None, early: VecDeque::new() }
    }

    /// Sends a request; its answer comes by [`Self::next`].
    pub(super) async fn send(&mut self, method: &str, params: Value) -> Result<u64, Trouble> {
        self.last_id += 1;
        let text =
            json!({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params}).to_string();
        self.put(Message::text(text)).await?;
        Ok(self.last_id)
    }

    /// Sends a binary frame.
    pub(super) async fn frame(&mut self, frame: Vec<u8>) -> Result<(), Trouble> {
        self.put(Message::binary(frame)).await
    }

    /// Takes leave, so that the gateway need not wonder what became of us.
    pub(super) async fn close(&mut self) {
        // A gateway that is gone, or does not answer, is left all the same.
        let _ = tokio::time::timeout(GOODBYE, self.socket.close(None)).await;
    }

    async fn put(&mut self, message: Message) -> Result<(), Trouble> {
        match tokio::time::timeout(SILENCE, self.socket.send(message)).await {
            Ok(sent) => sent.map_err(|error| Trouble::unreachable(format!("the gateway is gone: {error}"))),
            Err(_) => Err(Trouble::unreachable(format!("the gateway is gone: {}", silent()))),
        }
    }

    /// Sends a request and waits for its answer. What else comes meanwhile is kept for [`Self::next`].
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Result<Value, Trouble> {
        self.ask(method, params).await?.map_err(|error| refusal(&error))
    }

    /// The same, with the error as it came.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<Result<Value, Value>, Trouble> {
        let id = self.send(method, params).await?;
        loop {
            match self.receive().await {
                Incoming::Answer(answered, outcome) if answered == id => return Ok(outcome),
                Incoming::Closed(why) => {
                    return Err(Trouble::unreachable(format!("the gateway ended the connection: {why}")));
                }
                other => self.early.push_back(other),
            }
        }
    }

    /// What comes next.
    pub(super) async fn next(&mut self) -> Incoming {
        match self.early.pop_front() {
            Some(early) => early,
            None => self.receive().await,
        }
    }

    /// Cancel safe.
    async fn receive(&mut self) -> Incoming {
        loop {
            // From the asking on, not from what was heard: who was stopped for a while has not listened.
            let deadline = self.asked_at.map_or(self.heard_at + ASK, |at| at + (SILENCE - ASK));
            let Ok(received) = timeout_at(deadline, self.socket.next()).await else {
                if self.asked_at.is_some() {
                    return Incoming::Closed(silent());
                }
                self.asked_at = Some(Instant::now());
                // What becomes of it shows in what is heard.
                let _ = self.socket.send(Message::Ping(Bytes::new())).now_or_never();
                continue;
            };
            (self.heard_at, self.asked_at) = (Instant::now(), None);
            match received {
                None => return Incoming::Closed("it is gone".to_owned()),
                Some(Err(error)) => return Incoming::Closed(error.to_string()),
                Some(Ok(Message::Binary(bytes))) => return Incoming::Frame(bytes.into()),
                Some(Ok(Message::Close(frame))) => {
                    return Incoming::Closed(
                        frame.map_or_else(String::new, |f| format!("{} {}", f.code, f.reason)),
                    );
                }
                Some(Ok(Message::Text(text))) => {
                    if let Some(incoming) = read(&text) {
                        return incoming;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }
}

fn silent() -> String {
    format!("nothing was heard of it for {} s", SILENCE.as_secs())
}

fn read(text: &str) -> Option<Incoming> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    if let Some(id) = value.get("id").and_then(Value::as_u64) {
        let error = value.get_mut("error").map(Value::take);
        let result = value.get_mut("result").map(Value::take);
        return Some(Incoming::Answer(id, error.map_or_else(|| Ok(result.unwrap_or_default()), Err)));
    }
    let method = value.get("method")?.as_str()?.to_owned();
    Some(Incoming::Event(method, value.get_mut("params").map(Value::take).unwrap_or_default()))
}

fn unconnected(target: &Target, error: &Error) -> Trouble {
    let url = &target.url;
    match error {
        Error::Http(response) => turned_away(target, response.status(), response.body().as_deref()),
        Error::Io(error)
            if error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>()) =>
        {
            Trouble::unreachable(format!(
                "{url} does not speak TLS as it should ({error}); a gateway without TLS is reached by http://, and --ca names who may \
                 have signed another's certificate"
            ))
        }
        Error::Protocol(_) | Error::HttpFormat(_) => Trouble::unreachable(format!(
            "{url} does not answer as a gateway does ({error}); one with TLS is reached by https://"
        )),
        other => Trouble::unreachable(format!(
            "no gateway at {url} ({other}); start one with `execgate serve`, name another with --url, or use `execgate exec --local`"
        )),
    }
}

/// A gateway, or what stands before it, answered the handshake with a status.
fn turned_away(target: &Target, status: StatusCode, body: Option<&[u8]>) -> Trouble {
    let url = &target.url;
    let body = String::from_utf8_lossy(body.unwrap_or_default()).trim().to_owned();
    let typed: Option<Value> = serde_json::from_str(&body).ok();
    let message = typed.as_ref().and_then(|typed| typed.pointer("/error/message")?.as_str()).unwrap_or(&body);
    match status {
        StatusCode::UNAUTHORIZED => Trouble::refused(format!(
            "the gateway at {url} does not accept {}",
            match &target.credential {
                Credential::Made(file) => format!(
                    "the token of {}: it was started by another user, with another state directory, or has tokens of its own; give one of \
                     them by --token-file or EXECGATE_TOKEN",
                    file.display()
                ),
                Credential::Named(from) => format!(
                    "the token of {from}: it is not one of the gateway's, or ran out, or was revoked; ask its operator for another"
                ),
                Credential::Certificate =>
                    "the certificate of --cert; ask its operator who may connect".to_owned(),
            }
        )),
        StatusCode::FORBIDDEN => Trouble::refused(format!("the gateway at {url} refuses: {message}")),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            Trouble::later(format!("the gateway at {url} takes no more now: {message}"))
        }
        _ => Trouble::unreachable(format!("the gateway at {url} answered {status}: {message}")),
    }
}

/// What a refused request tells people, and the exit code it means.
pub(super) fn refusal(error: &Value) -> Trouble {
    let text = |pointer: &str| error.pointer(pointer).and_then(Value::as_str);
    let mut lines = vec![text("/message").unwrap_or("the gateway refused").to_owned()];
    if let Some(policy) = text("/data/policy").filter(|p| !p.is_empty()) {
        let rules = error.pointer("/data/rules").and_then(Value::as_array);
        let rules: Vec<_> = rules.into_iter().flatten().filter_map(Value::as_str).collect();
        lines.push(format!("  refused by policy {policy:?}, rule {}", rules.join(", ")));
    }
    lines.extend(text("/data/remedy").map(|remedy| format!("  what to do: {remedy}")));
    if text("/data/kind") == Some("not_found") {
        lines.push("  what to do: `execgate ps --all` lists the jobs that can be named".to_owned());
    }
    lines.extend(text("/data/decision").map(|decision| format!("  decision: {decision}")));
    let message = lines.join("\n");
    match text("/data/kind") {
        // The operator's word: this tenant runs no jobs.
        Some("spawn_failed")
            if text("/data/stage") == Some("identity") && text("/data/errno") == Some("EPERM") =>
        {
            Trouble::refused(message)
        }
        Some("spawn_failed") if text("/data/stage") == Some("exec") => match text("/data/errno") {
            Some("ENOENT") => Trouble::no_such_program(message),
            Some("EACCES" | "ENOEXEC") => Trouble::not_executable(message),
            Some(_) | None => Trouble::failed(message),
        },
        Some("policy_denied" | "policy_failed" | "forbidden" | "unauthenticated") => {
            Trouble::refused(message)
        }
        Some("rate_limited" | "unavailable" | "busy" | "draining" | "limit_exceeded") => {
            Trouble::later(message)
        }
        _ => Trouble::failed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// Somebody who accepts connections, and who never says anything.
    async fn mute() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, url)
    }

    #[test]
    fn a_tenant_that_was_given_no_identity_is_refused() {
        let error = json!({"message": "none", "data": {"kind": "spawn_failed", "stage": "identity", "errno": "EPERM"}});
        assert!(format!("{:?}", refusal(&error)).contains("code: 77"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_never_answers_the_handshake_is_given_up() {
        let (_listener, url) = mute().await;
        let target = Target { token: Some("x".to_owned()), ..Target::at(url) };
        let begun = Instant::now();
        let Err(trouble) = Client::connect(&target).await else { panic!("nobody answered") };
        assert!(begun.elapsed() <= HANDSHAKE + Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(format!("{trouble:?}").contains("said nothing within 10 s"), "{trouble:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_falls_silent_is_asked_and_then_given_up() {
        let (listener, _) = mute().await;
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket =
            WebSocketStream::from_raw_socket(MaybeTlsStream::Plain(stream), Role::Client, None).await;
        let mut client = Client::over(socket);
        let begun = Instant::now();
        let Incoming::Closed(why) = client.next().await else { panic!("nobody spoke") };
        assert_eq!(why, "nothing was heard of it for 60 s");
        assert!(begun.elapsed() >= SILENCE && client.asked_at.is_some());
        let error = client.call("job.list", json!({})).await.unwrap_err();
        assert!(format!("{error:?}").contains("nothing was heard"), "{error:?}");
    }
}
