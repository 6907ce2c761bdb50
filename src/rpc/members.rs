//! Taking an object apart, member by member, and complaining about what is left.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::domain::Failure;

/// The members of an object that have not been taken yet.
#[derive(Debug)]
pub(super) struct Members {
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

fn invalid(message: String) -> Failure {
    Failure::InvalidParams(message)
}

impl Members {
    pub(super) const fn new(map: Map<String, Value>) -> Self {
        Self { map, known: Vec::new() }
    }

    /// The value of a member; `null` counts as absent nowhere: it is a value of the wrong type.
    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name)
    }

    /// Every member must have been taken.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Some(unknown) = self.map.keys().next() else { return Ok(()) };
        let nearest = self.known.iter().min_by_key(|known| strsim::levenshtein(known, unknown));
        let hint = match nearest {
            Some(name) if strsim::levenshtein(name, unknown) <= 3 => format!("; did you mean {name:?}?"),
            Some(_) if !self.known.is_empty() => format!("; there are {}", self.known.join(", ")),
            Some(_) | None => "; there are none".to_owned(),
        };
        Err(invalid(format!("{unknown:?} is not a parameter of this method{hint}")))
    }

    pub(super) fn opt_text(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.contains('\0') => {
                Err(invalid(format!("{name}: holds a NUL character")))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("{name}: must be a string"))),
        }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<String, Failure> {
        self.opt_text(name)?.ok_or_else(|| missing(name))
    }

    /// A string of at most `most` bytes.
    pub(super) fn opt_short(&mut self, name: &'static str, most: usize) -> Result<Option<String>, Failure> {
        match self.opt_text(name)? {
            Some(text) if text.len() > most => Err(invalid(format!("{name}: at most {most} bytes"))),
            other => Ok(other),
        }
    }

    /// Text as it is, NUL included: stream data.
    pub(super) fn data(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let plain = match self.take("data") {
            None => None,
            Some(Value::String(text)) => Some(text.into_bytes()),
            Some(_) => return Err(invalid("data: must be a string".to_owned())),
        };
        let encoded = match self.take("data_b64") {
            None => None,
            Some(Value::String(text)) => Some(
                STANDARD
                    .decode(text)
                    .map_err(|e| invalid(format!("data_b64: not base64 (RFC 4648 section 4): {e}")))?,
            ),
            Some(_) => return Err(invalid("data_b64: must be a string".to_owned())),
        };
        match (plain, encoded) {
            (Some(_), Some(_)) => Err(invalid("data, data_b64: one of them, not both".to_owned())),
            (one, None) | (None, one) => Ok(one),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, Failure> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(invalid(format!("{name}: must be true or false"))),
        }
    }

    /// An integer within bounds.
    pub(super) fn opt_integer(
        &mut self,
        name: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (least..=most).contains(&n) => Ok(Some(n)),
            Some(_) | None => Err(invalid(format!("{name}: must be an integer from {least} to {most}"))),
        }
    }

    pub(super) fn integer(&mut self, name: &'static str, least: u64, most: u64) -> Result<u64, Failure> {
        self.opt_integer(name, least, most)?.ok_or_else(|| missing(name))
    }

    /// A number of milliseconds, up to a year.
    pub(super) fn opt_ms(&mut self, name: &'static str) -> Result<Option<Duration>, Failure> {
        const YEAR_MS: u64 = 366 * 24 * 60 * 60 * 1000;
        Ok(self.opt_integer(name, 0, YEAR_MS)?.map(Duration::from_millis))
    }

    /// An id. What is no id at all answers as one that never was.
    pub(super) fn id<T: FromStr>(&mut self, name: &'static str) -> Result<T, Failure> {
        self.opt_id(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn opt_id<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        let Some(text) = self.opt_text(name)? else { return Ok(None) };
        let what = if name == "job" { "job" } else { "session" };
        text.parse().map(Some).map_err(|_| Failure::NotFound(what))
    }

    /// One of a few words.
    pub(super) fn opt_word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, Failure> {
        let Some(text) = self.opt_text(name)? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            invalid(format!("{name}: must be one of {}", words.join(", ")))
        })
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Failure> {
        let Some(Value::Array(items)) = self.take(name) else {
            return Err(invalid(format!("{name}: must be a list of strings")));
        };
        let text = |item| match item {
            Value::String(text) if !text.contains('\0') => Ok(text),
            Value::String(_) => Err(invalid(format!("{name}: holds a NUL character"))),
            _ => Err(invalid(format!("{name}: must be a list of strings"))),
        };
        items.into_iter().map(text).collect()
    }

    /// An object of strings; empty when absent.
    pub(super) fn text_map(&mut self, name: &'static str) -> Result<BTreeMap<String, String>, Failure> {
        let map = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(invalid(format!("{name}: must be an object of strings"))),
        };
        let pair = |(key, value): (String, Value)| match value {
            Value::String(text) if !text.contains('\0') && !key.contains('\0') => Ok((key, text)),
            _ => Err(invalid(format!("{name}.{key}: must be a string without NUL characters"))),
        };
        map.into_iter().map(pair).collect()
    }

    /// A member that is an object, read by `read`.
    pub(super) fn opt_object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        let map = match self.take(name) {
            None => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(invalid(format!("{name}: must be an object"))),
        };
        let mut members = Self::new(map);
        let value = read(&mut members)?;
        members.finish()?;
        Ok(Some(value))
    }

    /// The keys and values of an object of integers.
    pub(super) fn integer_map(&mut self, name: &'static str) -> Result<Vec<(String, u64)>, Failure> {
        let map = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(invalid(format!("{name}: must be an object of integers"))),
        };
        let pair = |(key, value): (String, Value)| match value.as_u64() {
            Some(n) => Ok((key, n)),
            None => Err(invalid(format!("{name}.{key}: must be an integer from 0"))),
        };
        map.into_iter().map(pair).collect()
    }
}

fn missing(name: &str) -> Failure {
    invalid(format!("{name}: is missing"))
}
