//! A WebSocket by hand (RFC 6455): a peer that sends what no library would.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Gateway, PATIENCE};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

pub struct Raw {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    pub head: String,
}

/// A masked frame; the mask is all zeroes, which is as good as any. `first` is FIN, RSV and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        long @ 126..=65535 => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
        longer => {
            bytes.push(0x80 | 127);
            bytes.extend((longer as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

impl Raw {
    /// An upgraded connection.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::upgrade(gateway, "Sec-WebSocket-Protocol: execgate.v1\r\n").await
    }

    pub async fn upgrade(gateway: &Gateway, headers: &str) -> Self {
        let raw = Self::ask(gateway, &handshake(gateway, headers)).await;
        assert!(raw.head.starts_with("http/1.1 101"), "{}", raw.head);
        raw
    }

    /// Whatever is asked, and the head of what is answered.
    pub async fn ask(gateway: &Gateway, request: &str) -> Self {
        let socket = TcpStream::connect(gateway.address()).await.unwrap();
        let mut raw = Self { socket, buffer: Vec::new(), head: String::new() };
        raw.socket.write_all(request.as_bytes()).await.unwrap();
        let end = loop {
            if let Some(at) = raw.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !raw.more().await {
                break raw.buffer.len();
            }
        };
        raw.head = String::from_utf8(raw.buffer.drain(..end).collect()).unwrap().to_ascii_lowercase();
        raw
    }

    async fn more(&mut self) -> bool {
        let read =
            timeout(PATIENCE, self.socket.read_buf(&mut self.buffer)).await.expect("nothing came in time");
        read.unwrap_or(0) > 0
    }

    /// Sends bytes as they are; a peer that has closed by now is not the sender's trouble.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    pub async fn call(&mut self, method: &str, params: serde_json::Value) {
        let request = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        assert!(self.send(&frame(0x80 | TEXT, request.to_string().as_bytes())).await);
    }

    /// The next frame: its first byte and payload; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((head, length)) = self.header()
                && self.buffer.len() >= head + length
            {
                let mut frame: Vec<u8> = self.buffer.drain(..head + length).collect();
                return Some((frame[0], frame.split_off(head)));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    fn header(&self) -> Option<(usize, usize)> {
        let short = usize::from(*self.buffer.get(1)? & 0x7f);
        let wide = |bytes: usize| {
            let digits = self.buffer.get(2..2 + bytes)?;
            Some((2 + bytes, digits.iter().fold(0, |n, d| n << 8 | usize::from(*d))))
        };
        match short {
            126 => wide(2),
            127 => wide(8),
            short => Some((2, short)),
        }
    }

    /// Reads to the end and returns the close code.
    pub async fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.next().await {
            if first & 0x0f == CLOSE {
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
        None
    }
}

/// A good handshake with further headers.
pub fn handshake(gateway: &Gateway, headers: &str) -> String {
    handshake_as(gateway, &gateway.token(), headers)
}

/// The same by the bearer of another token.
pub fn handshake_as(gateway: &Gateway, token: &str, headers: &str) -> String {
    format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
        gateway.address(),
        token
    )
}
