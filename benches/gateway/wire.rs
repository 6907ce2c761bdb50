//! A WebSocket client of a few lines on a blocking socket: it must cost next to nothing beside what it measures.

use std::io::{Read, Write};
use std::net::TcpStream;

pub struct Wire {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

/// A frame's opcode and where its payload is.
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
}

impl Wire {
    /// Connects to `path` with these headers.
    pub fn connect(address: &str, path: &str, headers: &str) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut wire = Self { socket, buffer: vec![0; 512 * 1024], from: 0, to: 0 };
        let end = loop {
            wire.fill();
            if let Some(at) = wire.buffer[..wire.to].windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&wire.buffer[..end]).into_owned();
        assert!(head.contains(" 101 "), "{head}");
        wire.from = end;
        wire
    }

    fn fill(&mut self) {
        if self.from > 0 && (self.from == self.to || self.to == self.buffer.len()) {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        if self.to == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = self.socket.read(&mut self.buffer[self.to..]).unwrap();
        assert!(count > 0, "the connection ended");
        self.to += count;
    }

    /// The next frame, whole.
    pub fn next(&mut self) -> Frame<'_> {
        let (head, length) = loop {
            if let Some(header) = header(&self.buffer[self.from..self.to])
                && self.to - self.from >= header.0 + header.1
            {
                break header;
            }
            self.fill();
        };
        let start = self.from;
        self.from += head + length;
        Frame {
            opcode: self.buffer[start] & 0x0f,
            payload: &self.buffer[start + head..start + head + length],
        }
    }

    /// Sends a masked frame; the mask is all zeroes.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mut bytes = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..=125 => bytes.push(0x80 | short as u8),
            long => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.extend(payload);
        self.socket.write_all(&bytes).unwrap();
    }

    pub fn text(&mut self, text: &str) {
        self.send(1, text.as_bytes());
    }

    /// The next text frame that holds `part`.
    pub fn find(&mut self, part: &str) -> String {
        loop {
            let frame = self.next();
            if frame.opcode == 1 {
                let text = std::str::from_utf8(frame.payload).unwrap();
                if text.contains(part) {
                    return text.to_owned();
                }
            }
        }
    }
}

fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let short = usize::from(*bytes.get(1)? & 0x7f);
    let wide = |count: usize| {
        let digits = bytes.get(2..2 + count)?;
        Some((2 + count, digits.iter().fold(0, |n, d| n << 8 | usize::from(*d))))
    };
    match short {
        126 => wide(2),
        127 => wide(8),
        short => Some((2, short)),
    }
}
