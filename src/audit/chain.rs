//! The chain: every line carries its number and the SHA-256 of the line before.

use std::io::{BufRead, Read as _};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Longest line, bytes, the line feed included.
pub const MAX_LINE: usize = 16 * 1024;

/// How every line begins.
pub(super) const BEGIN: &[u8] = b"{\"entry\":";

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

    /// The text of the next line, and the head after it: the first of the values that fits a line, else only that there was
    /// one.
    pub(super) fn join(&self, values: impl IntoIterator<Item = Value>) -> (String, Self) {
        let fits = |value: Value| Some(self.text(&value)).filter(|text| text.len() < MAX_LINE);
        let mut text =
            values.into_iter().find_map(fits).unwrap_or_else(|| self.text(&json!({"hook": "too_long"})));
        let head = Self { lines: self.lines + 1, hash: hash(&text) };
        text.push('\n');
        (text, head)
    }

    /// Begins with [`BEGIN`]: names are sorted.
    fn text(&self, value: &Value) -> String {
        json!({"seq": self.lines + 1, "prev": self.hash, "entry": value}).to_string()
    }

    /// The next line of a file, and the head after it; `None` at the end. At the begin of a file that goes on with an older
    /// one, what it says of that one is believed.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub(super) fn next(
        &self,
        reader: &mut impl BufRead,
        believe: bool,
    ) -> Result<Option<(Value, Self)>, String> {
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line) {
            Err(error) => return Err(format!("cannot be read: {error}")),
            Ok(0) => return Ok(None),
            Ok(_) => {}
        }
        let Some(text) = line.strip_suffix(b"\n").and_then(|l| std::str::from_utf8(l).ok()) else {
            return Err("is cut off or too long".to_owned());
        };
        let value: Value = serde_json::from_str(text).map_err(|_| "is not JSON".to_owned())?;
        let number = value.get("seq").and_then(Value::as_u64);
        let previous = value.get("prev").and_then(Value::as_str);
        let (Some(number), Some(previous)) = (number, previous) else {
            return Err("has no place in the chain".to_owned());
        };
        if !(believe && number > 1) {
            if number != self.lines + 1 {
                return Err("has the wrong number: a line is missing or was added before it".to_owned());
            }
            if previous != self.hash {
                return Err("does not follow from the line before: one of the two was changed".to_owned());
            }
        }
        let head = Self { lines: number, hash: hash(text) };
        Ok(Some((value, head)))
    }
}

fn hash(line: &str) -> String {
    format!("{:x}", Sha256::digest(line.as_bytes()))
}
