//! The answer to an execution that was waited for: one JSON object, made in pieces of bounded size.
//!
//! A ring of control characters is six times as large in JSON; whole, and of many executions at once, that would be
//! memory nobody counted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::domain::StreamName;

/// Bytes of output that one piece is made of; a multiple of 3, so that base64 can be cut there.
const PIECE: usize = 48 * 1024;

/// The object up to the first stream's output, unclosed. `totals` are each stream's bytes produced and bytes dropped.
pub fn head(mut status: Value, totals: &[(StreamName, u64, u64)]) -> String {
    let total = |(stream, produced, dropped): &(StreamName, u64, u64)| {
        let value = json!({"produced": produced, "delivered": produced - dropped, "dropped": dropped});
        (stream.as_str().to_owned(), value)
    };
    if let Value::Object(map) = &mut status {
        map.remove("streams");
        map.insert("totals".to_owned(), Value::Object(totals.iter().map(total).collect::<Map<_, _>>()));
    }
    let mut text = status.to_string();
    text.pop();
    text
}

/// A stream's member: its name and a string when it is text, else its name with `_b64` and base64.
pub fn pieces(stream: StreamName, bytes: &[u8]) -> impl Iterator<Item = String> {
    let stream = stream.as_str();
    let (name, content) = match std::str::from_utf8(bytes) {
        Ok(text) => (format!(",\"{stream}\":\""), Content::Text(text)),
        Err(_) => (format!(",\"{stream}_b64\":\""), Content::Bytes(bytes)),
    };
    std::iter::once(name).chain(content).chain(std::iter::once("\"".to_owned()))
}

/// What is left to be put into pieces.
enum Content<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Iterator for Content<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        match self {
            Self::Text("") | Self::Bytes([]) => None,
            Self::Text(text) => {
                let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
                *text = rest;
                let quoted = serde_json::to_string(piece).unwrap_or_default();
                let inside = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
                Some(inside.unwrap_or_default().to_owned())
            }
            Self::Bytes(bytes) => {
                let (piece, rest) = bytes.split_at(PIECE.min(bytes.len()));
                *bytes = rest;
                Some(STANDARD.encode(piece))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Value {
        let mut text = head(json!({"job": "j"}), &[(StreamName::Stdout, bytes.len() as u64, 0)]);
        pieces(StreamName::Stdout, bytes).for_each(|piece| text.push_str(&piece));
        text.push('}');
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_pieces_make_one_object_with_every_byte() {
        let text = "a\u{20ac}\u{0}\"\\\n".repeat(40_000);
        assert_eq!(whole(text.as_bytes())["stdout"], json!(text));
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        assert_eq!(whole(&bytes)["stdout_b64"], json!(STANDARD.encode(&bytes)));
        assert_eq!(whole(b"")["stdout"], json!(""));
    }
}
