//! A WebSocket client of the gateway: JSON-RPC in text frames, stream data in binary ones.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::output::Trouble;
use super::target::Target;
use super::tls;

/// How long the last frame may take.
const GOODBYE: Duration = Duration::from_millis(500);

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
    /// What came while an answer was awaited.
    early: VecDeque<Incoming>,
}

impl Client {
    pub(super) async fn connect(target: &Target) -> Result<Self, Trouble> {
        let mut request = target
            .socket()
            .into_client_request()
            .map_err(|error| Trouble::usage(format!("{}: not a URL: {error}", target.url)))?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", target.token));
        let bearer = bearer.map_err(|_| Trouble::usage("the token holds characters that no token has"))?;
        request.headers_mut().insert("authorization", bearer);
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("execgate.v1"));
        let connector = tls::connector(target)?;
        match tokio_tungstenite::connect_async_tls_with_config(request, None, true, connector).await {
            Ok((socket, _)) => Ok(Self { socket, last_id: 0, early: VecDeque::new() }),
            Err(error) => Err(unconnected(target, &error)),
        }
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
        self.socket
            .send(message)
            .await
            .map_err(|error| Trouble::unreachable(format!("the gateway is gone: {error}")))
    }

    /// Sends a request and waits for its answer. What else comes meanwhile is kept for [`Self::next`].
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Result<Value, Trouble> {
        let id = self.send(method, params).await?;
        loop {
            match self.receive().await {
                Incoming::Answer(answered, outcome) if answered == id => {
                    return outcome.map_err(|e| refusal(&e));
                }
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

    async fn receive(&mut self) -> Incoming {
        loop {
            match self.socket.next().await {
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
        Error::Http(response) if response.status() == StatusCode::UNAUTHORIZED => Trouble::refused(format!(
            "the gateway at {url} does not accept the token; it was started by another user or with another state directory: \
             give its token by --token-file or EXECGATE_TOKEN"
        )),
        Error::Http(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
            Trouble::later(format!("the gateway at {url} is shutting down; try again when it is back"))
        }
        Error::Http(response) => {
            let body = response
                .body()
                .as_ref()
                .map(|b| String::from_utf8_lossy(b).trim().to_owned())
                .unwrap_or_default();
            Trouble::unreachable(format!("the gateway at {url} answered {}: {body}", response.status()))
        }
        Error::Io(error)
            if error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>()) =>
        {
            Trouble::unreachable(format!(
                "{url} does not speak TLS as it should ({error}); a gateway without TLS is reached by http://, and --ca names who may \
                 have signed another's certificate"
            ))
        }
        other => Trouble::unreachable(format!(
            "no gateway at {url} ({other}); start one with `execgate serve`, name another with --url, or use `execgate exec --local`"
        )),
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
