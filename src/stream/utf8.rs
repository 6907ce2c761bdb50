//! Splitting a stream into text and bytes for JSON.
//!
//! A chunk that is valid UTF-8 travels as text. A character that a chunk boundary splits is held back, at most three
//! bytes, and leads the next piece; it is never lost.

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Valid UTF-8.
    Text(u64, String),
    /// Anything else.
    Bytes(u64, Vec<u8>),
}

/// Splits one stream for one viewer.
#[derive(Debug, Default)]
pub struct Utf8Splitter {
    held: Vec<u8>,
    held_at: u64,
}

impl Utf8Splitter {
    /// Takes a chunk; `None` when all of it was held back.
    pub fn push(&mut self, offset: u64, chunk: &[u8]) -> Option<Piece> {
        let at = if self.held.is_empty() { offset } else { self.held_at };
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(chunk);
        let (whole, broken) = match std::str::from_utf8(&bytes) {
            Ok(_) => (bytes.len(), false),
            Err(error) => match error.error_len() {
                None => (error.valid_up_to(), false),
                Some(_) => (bytes.len(), true),
            },
        };
        self.held = bytes.split_off(whole);
        self.held_at = at + whole as u64;
        match (bytes.is_empty(), broken) {
            (true, _) => None,
            (false, true) => Some(Piece::Bytes(at, bytes)),
            (false, false) => Some(match String::from_utf8(bytes) {
                Ok(text) => Piece::Text(at, text),
                Err(error) => Piece::Bytes(at, error.into_bytes()),
            }),
        }
    }

    /// What is held back, when nothing that could complete it will come.
    pub fn flush(&mut self) -> Option<Piece> {
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then_some(Piece::Bytes(self.held_at, held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_split_over_chunks_arrives_whole() {
        let mut splitter = Utf8Splitter::default();
        assert_eq!(splitter.push(0, b"a\xe2\x82"), Some(Piece::Text(0, "a".to_owned())));
        assert_eq!(splitter.push(3, b"\xac"), Some(Piece::Text(1, "\u{20ac}".to_owned())));
        assert_eq!(splitter.push(4, b"\xf0"), None);
        assert_eq!(splitter.flush(), Some(Piece::Bytes(4, vec![0xf0])));
        assert_eq!(splitter.flush(), None);
    }

    #[test]
    fn what_is_not_text_travels_as_bytes() {
        let mut splitter = Utf8Splitter::default();
        assert_eq!(splitter.push(0, b"a\xff"), Some(Piece::Bytes(0, b"a\xff".to_vec())));
        assert_eq!(splitter.push(2, b"b"), Some(Piece::Text(2, "b".to_owned())));
    }
}
