//! One HTTP request by hand, so that a test decides when to read and when to go away.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Gateway, PATIENCE};

/// A request that was sent and whose answer has begun.
pub struct Exchange {
    socket: TcpStream,
    buffer: Vec<u8>,
    pub status: u16,
    pub head: String,
    chunked: bool,
    lines: String,
}

impl Exchange {
    /// A POST with the gateway's token.
    pub async fn post(gateway: &Gateway, path: &str, body: &str) -> Self {
        Self::send(gateway, "POST", path, &format!("Authorization: Bearer {}\r\n", gateway.token()), body)
            .await
    }

    pub async fn send(gateway: &Gateway, method: &str, path: &str, headers: &str, body: &str) -> Self {
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        // A peer that refuses a long body may close before it is sent.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut exchange = Self {
            socket,
            buffer: Vec::new(),
            status: 0,
            head: String::new(),
            chunked: false,
            lines: String::new(),
        };
        exchange.head = String::from_utf8(exchange.until(b"\r\n\r\n").await).unwrap().to_ascii_lowercase();
        exchange.status = exchange.head.split(' ').nth(1).unwrap().parse().unwrap();
        exchange.chunked = exchange.head.contains("transfer-encoding: chunked");
        exchange
    }

    async fn more(&mut self) -> bool {
        let read =
            timeout(PATIENCE, self.socket.read_buf(&mut self.buffer)).await.expect("nothing came in time");
        read.unwrap_or(0) > 0
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                let found = self.buffer.drain(..at + end.len()).collect();
                return found;
            }
            assert!(self.more().await, "the answer broke off");
        }
    }

    /// The next piece of the body; `None` at its proper end.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        let length = if self.chunked {
            let line = String::from_utf8(self.until(b"\r\n").await).unwrap();
            usize::from_str_radix(line.trim(), 16).unwrap()
        } else {
            let length = self.head.split("content-length: ").nth(1);
            let length = length.map_or(0, |l| l.lines().next().unwrap().trim().parse().unwrap());
            self.head = self.head.replace("content-length: ", "done: ");
            length
        };
        let end = length + if self.chunked { 2 } else { 0 };
        while self.buffer.len() < end {
            assert!(self.more().await, "the body broke off");
        }
        let mut piece: Vec<u8> = self.buffer.drain(..end).collect();
        piece.truncate(length);
        (length > 0).then_some(piece)
    }

    /// The rest of the body.
    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await {
            all.extend(piece);
        }
        String::from_utf8(all).unwrap()
    }

    /// The body as one JSON value.
    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.rest().await).unwrap()
    }

    /// The next line of an NDJSON body that is not blank.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.lines.split_once('\n') {
                let value = (!line.is_empty()).then(|| serde_json::from_str(line).unwrap());
                self.lines = rest.to_owned();
                match value {
                    Some(value) => return Some(value),
                    None => continue,
                }
            }
            let piece = self.piece().await?;
            self.lines.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}
