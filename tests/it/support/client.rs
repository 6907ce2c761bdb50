//! A small client in the tests' own terms; it shares no code with the program.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use super::{Gateway, PATIENCE};

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last: u64,
    seen: VecDeque<Value>,
}

/// What a frame of the binary plane says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub stream: u8,
    pub flags: u16,
    pub channel: u32,
    pub offset: u64,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.stream];
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.channel.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            kind: bytes[0],
            stream: bytes[1],
            flags: u16::from_be_bytes(bytes[2..4].try_into().unwrap()),
            channel: u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
            offset: u64::from_be_bytes(bytes[8..16].try_into().unwrap()),
            payload: bytes[16..].to_vec(),
        }
    }
}

impl Client {
    /// Connects with the gateway's token; no subprotocol, so JSON only.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::with(gateway, &[]).await.unwrap()
    }

    /// Connects with the binary plane.
    pub async fn binary(gateway: &Gateway) -> Self {
        Self::with(gateway, &[("sec-websocket-protocol", "execgate.v1")]).await.unwrap()
    }

    pub async fn with(gateway: &Gateway, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let token = format!("Bearer {}", gateway.token());
        let mut request = format!("ws://{}/v1/ws", gateway.address()).into_client_request().unwrap();
        request.headers_mut().insert("authorization", token.parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().remove(*name);
            if !value.is_empty() {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Self { socket, last: 0, seen: VecDeque::new() })
    }

    /// Connects by TLS, trusting `ca`, and with a client certificate when one is given.
    pub async fn tls(
        gateway: &Gateway,
        tls: ClientConfig,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Error> {
        let port = gateway.address().rsplit_once(':').unwrap().1.to_owned();
        let mut request = format!("wss://localhost:{port}/v1/ws").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let connector = Some(Connector::Rustls(Arc::new(tls)));
        let (socket, _) = connect_async_tls_with_config(request, None, true, connector).await?;
        Ok(Self { socket, last: 0, seen: VecDeque::new() })
    }

    pub async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params});
        self.raw(&request.to_string()).await;
        self.last
    }

    pub async fn raw(&mut self, text: &str) {
        self.socket.send(Message::text(text.to_owned())).await.unwrap();
    }

    pub async fn frame(&mut self, frame: &Frame) {
        self.socket.send(Message::binary(frame.encode())).await.unwrap();
    }

    /// Sends and waits for the answer: its result, or its error.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params).await;
        self.answer(id).await
    }

    pub async fn answer(&mut self, id: u64) -> Result<Value, Value> {
        let answer = self.find(&format!("the answer to {id}"), |v| v.get("id") == Some(&json!(id))).await;
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    /// Sends and wants this kind of error.
    pub async fn refused(&mut self, method: &str, params: Value) -> String {
        match self.call(method, params).await {
            Ok(result) => panic!("{method} was not refused: {result}"),
            Err(error) => error["data"]["kind"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// The next notification of this method.
    pub async fn event(&mut self, method: &str) -> Value {
        let found = self.find(method, |v| v["method"] == method).await;
        found["params"].clone()
    }

    /// The next notification of this method about this job.
    pub async fn event_of(&mut self, method: &str, job: &str) -> Value {
        let found = self.find(method, |v| v["method"] == method && v["params"]["job"] == job).await;
        found["params"].clone()
    }

    /// The first message, seen already or to come, that fits; the others are kept in order.
    pub async fn find(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&fits) {
            return self.seen.remove(at).unwrap();
        }
        loop {
            let next = self.next().await;
            let Some(next) = next else {
                panic!("the connection ended before {what}; seen: {:?}", self.seen)
            };
            if fits(&next) {
                return next;
            }
            self.seen.push_back(next);
        }
    }

    /// The next message: JSON as it is, a binary frame as `{"frame": …}`. `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("nothing came in time");
            match message {
                None | Some(Err(_)) => return None,
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Binary(bytes))) => {
                    let f = Frame::decode(&bytes);
                    return Some(json!({"frame": {
                        "kind": f.kind, "stream": f.stream, "flags": f.flags, "channel": f.channel, "offset": f.offset, "payload": f.payload,
                    }}));
                }
                Some(Ok(Message::Close(frame))) => {
                    self.seen.push_back(json!({"closed": frame.map(|f: CloseFrame| u16::from(f.code))}));
                    return None;
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// Forgets what was seen and not asked for.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// Reads to the end of the connection and returns the close code.
    pub async fn close_code(&mut self) -> Option<u64> {
        while let Some(message) = self.next().await {
            self.seen.push_back(message);
        }
        self.seen.iter().find_map(|v| v.get("closed")?.as_u64())
    }

    /// Starts a job and returns its id.
    pub async fn start(&mut self, argv: &[&str]) -> String {
        let started = self.call("job.start", json!({"argv": argv})).await.unwrap();
        started["job"].as_str().unwrap().to_owned()
    }

    /// Starts a shell script and returns the job's id.
    pub async fn sh(&mut self, script: &str) -> String {
        self.start(&["sh", "-c", script]).await
    }

    /// All output of one stream up to the job's end, from JSON, checking offsets on the way. Everything else is left.
    pub async fn output(&mut self, job: &str, stream: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let of = |v: &Value| {
                v["params"]["job"] == job && v["params"]["stream"] == stream && v["method"] != "job.ack"
            };
            let message = self.find("output or its end", of).await;
            let params = &message["params"];
            match message["method"].as_str().unwrap() {
                "job.output" => {
                    assert_eq!(params["offset"], json!(bytes.len()), "an offset that does not follow");
                    match params["data"].as_str() {
                        Some(text) => bytes.extend(text.as_bytes()),
                        None => bytes.extend(
                            base64::engine::general_purpose::STANDARD
                                .decode(params["data_b64"].as_str().unwrap())
                                .unwrap(),
                        ),
                    }
                }
                "job.eof" => return bytes,
                other => panic!("{other} in the middle of a stream"),
            }
        }
    }
}
