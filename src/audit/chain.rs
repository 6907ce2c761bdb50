//! The chain: every line carries its number and the SHA-256 of the line before.

use std::io::{BufRead, Read as _};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Longest line, bytes, the line feed included.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// What stands for the line before the first.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The end of a chain: what the next line is joined to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) lines: u64,
    pub(super) hash: String,
}

impl Head {
    pub(super) fn start() -> Self {
        Self { lines: 0, hash: NOTHING.to_owned() }
    }

    /// The text of the next line, and the head after it. A line that is too long keeps who, when and what it came to.
    pub(super) fn join(&self, mut value: Value) -> (String, Self) {
        let mut text = self.text(&value);
        if text.len() >= MAX_LINE {
            if let Value::Object(map) = &mut value {
                map.insert("command".to_owned(), json!({"cut": true}));
                map.insert("policies".to_owned(), json!([]));
            }
            text = self.text(&value);
        }
        let head = Self { lines: self.lines + 1, hash: hash(&text) };
        text.push('\n');
        (text, head)
    }

    fn text(&self, value: &Value) -> String {
        json!({"seq": self.lines + 1, "prev": self.hash, "entry": value}).to_string()
    }
}

fn hash(line: &str) -> String {
    format!("{:x}", Sha256::digest(line.as_bytes()))
}

/// A log whose chain holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many lines.
    pub lines: u64,
    /// The hash of the last: whoever kept it elsewhere can tell that no line was taken away from the end.
    pub head: String,
}

/// The first line that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {why}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong.
    pub why: String,
}

/// Reads a log and proves its chain.
///
/// # Errors
/// The first line that does not fit, or that the file cannot be read (as line 0).
pub fn verify(path: &Path) -> Result<Verified, BadLine> {
    let unreadable = |error: std::io::Error| BadLine { line: 0, why: format!("cannot be read: {error}") };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let head = follow(&mut std::io::BufReader::new(file))?;
    Ok(Verified { lines: head.lines, head: head.hash })
}

pub(super) fn follow(reader: &mut impl BufRead) -> Result<Head, BadLine> {
    let mut head = Head::start();
    let mut line = Vec::new();
    loop {
        line.clear();
        let number = head.lines + 1;
        let bad = |why: &str| BadLine { line: number, why: why.to_owned() };
        let read = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line);
        match read {
            Err(error) => return Err(bad(&format!("cannot be read: {error}"))),
            Ok(0) => return Ok(head),
            Ok(_) => {}
        }
        let Some(text) = line.strip_suffix(b"\n").and_then(|l| std::str::from_utf8(l).ok()) else {
            return Err(bad("is cut off or too long"));
        };
        let value: Value = serde_json::from_str(text).map_err(|_| bad("is not JSON"))?;
        if value.get("seq").and_then(Value::as_u64) != Some(number) {
            return Err(bad("has the wrong number: a line is missing or was added before it"));
        }
        if value.get("prev").and_then(Value::as_str) != Some(&head.hash) {
            return Err(bad("does not follow from the line before: one of the two was changed"));
        }
        head = Head { lines: number, hash: hash(text) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: u64) -> Vec<u8> {
        let mut head = Head::start();
        let mut log = Vec::new();
        for n in 0..lines {
            let (line, next) = head.join(json!({"n": n}));
            log.extend(line.into_bytes());
            head = next;
        }
        log
    }

    #[test]
    fn a_whole_chain_holds_and_any_flipped_byte_is_found_where_it_is() {
        let good = log(20);
        assert_eq!(follow(&mut &good[..]).unwrap().lines, 20);
        for at in 0..good.len() - 200 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let line = good[..at].iter().filter(|b| **b == b'\n').count() as u64 + 1;
            let found = follow(&mut &bad[..]).expect_err("a flipped byte went unnoticed");
            assert!(found.line == line || found.line == line + 1, "byte {at}: line {line}, found {found}");
        }
    }

    #[test]
    fn a_line_taken_away_is_missed() {
        let good = log(3);
        let second = good.split_inclusive(|b| *b == b'\n').nth(1).unwrap().len();
        let first = good.split_inclusive(|b| *b == b'\n').next().unwrap().len();
        let bad = [&good[..first], &good[first + second..]].concat();
        assert_eq!(follow(&mut &bad[..]).unwrap_err().line, 2);
    }

    #[test]
    fn no_line_is_longer_than_the_bound() {
        let (line, _) =
            Head::start().join(json!({"command": {"argv": ["x".repeat(20_000)]}, "outcome": "deny"}));
        assert!(line.len() <= MAX_LINE && line.contains("\"outcome\":\"deny\""));
    }
}
