//! Taking an object apart, member by member, and complaining about what is left.
//!
//! The same code tells what it would take: a decoder that is given [`Members::describing`] reads nothing, and each
//! member it asks for is written down instead. So the published description of a method is what its decoder does.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::domain::{Failure, Signal};

/// The members of an object that have not been taken yet.
#[derive(Debug)]
pub(super) struct Members {
    map: Map<String, Value>,
    known: Vec<&'static str>,
    /// What was asked for, when nothing is read.
    described: Option<Vec<Param>>,
}

/// A member as its decoder asks for it.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) need: Need,
    pub(super) shape: Shape,
}

/// Whether a member may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Optional,
}

/// What a member may hold.
#[derive(Debug)]
pub(super) enum Shape {
    /// A string without NUL, of at most so many bytes.
    Text {
        most: Option<usize>,
    },
    /// Any string.
    Data,
    Base64,
    Flag {
        default: bool,
    },
    Integer {
        least: u64,
        most: u64,
    },
    Id {
        prefix: &'static str,
    },
    Words(Vec<&'static str>),
    Signal,
    Texts,
    TextMap,
    IntegerMap,
    Object(Vec<Param>),
}

/// Longest time in milliseconds: a year.
const YEAR_MS: u64 = 366 * 24 * 60 * 60 * 1000;

fn invalid(message: String) -> Failure {
    Failure::InvalidParams(message)
}

impl Members {
    pub(super) const fn new(map: Map<String, Value>) -> Self {
        Self { map, known: Vec::new(), described: None }
    }

    /// Members that are asked for, not read: those that must be there hold a placeholder.
    pub(super) fn describing() -> Self {
        Self { described: Some(Vec::new()), ..Self::new(Map::new()) }
    }

    /// What was asked for.
    pub(super) fn described(self) -> Vec<Param> {
        self.described.unwrap_or_default()
    }

    pub(super) const fn describes(&self) -> bool {
        self.described.is_some()
    }

    /// The value of a member; `null` counts as absent nowhere: it is a value of the wrong type.
    fn take(&mut self, name: &'static str, need: Need, shape: impl FnOnce() -> Shape) -> Option<Value> {
        self.known.push(name);
        match &mut self.described {
            Some(described) => {
                described.push(Param { name, need, shape: shape() });
                None
            }
            None => self.map.remove(name),
        }
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
        let value = self.take(name, Need::Optional, || Shape::Text { most: None });
        text_of(name, value)
    }

    /// A string of at most `most` bytes.
    pub(super) fn opt_short(&mut self, name: &'static str, most: usize) -> Result<Option<String>, Failure> {
        let value = self.take(name, Need::Optional, || Shape::Text { most: Some(most) });
        match text_of(name, value)? {
            Some(text) if text.len() > most => Err(invalid(format!("{name}: at most {most} bytes"))),
            other => Ok(other),
        }
    }

    /// Text as it is, NUL included, or bytes in base64: stream data, under one of two names.
    pub(super) fn opt_data(
        &mut self,
        name: &'static str,
        name_b64: &'static str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let plain = match self.take(name, Need::Optional, || Shape::Data) {
            None => None,
            Some(Value::String(text)) => Some(text.into_bytes()),
            Some(_) => return Err(invalid(format!("{name}: must be a string"))),
        };
        let encoded = match self.take(name_b64, Need::Optional, || Shape::Base64) {
            None => None,
            Some(Value::String(text)) => {
                let not = |e| invalid(format!("{name_b64}: not base64 (RFC 4648 section 4): {e}"));
                Some(STANDARD.decode(text).map_err(not)?)
            }
            Some(_) => return Err(invalid(format!("{name_b64}: must be a string"))),
        };
        match (plain, encoded) {
            (Some(_), Some(_)) => Err(invalid(format!("{name}, {name_b64}: one of them, not both"))),
            (one, None) | (None, one) => Ok(one),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, Failure> {
        match self.take(name, Need::Optional, || Shape::Flag { default }) {
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
        let value = self.take(name, Need::Optional, || Shape::Integer { least, most });
        value.map(|value| integer_of(name, &value, least, most)).transpose()
    }

    pub(super) fn integer(&mut self, name: &'static str, least: u64, most: u64) -> Result<u64, Failure> {
        match self.take(name, Need::Required, || Shape::Integer { least, most }) {
            Some(value) => integer_of(name, &value, least, most),
            None if self.describes() => Ok(least),
            None => Err(missing(name)),
        }
    }

    /// A number of milliseconds, up to a year.
    pub(super) fn opt_ms(&mut self, name: &'static str) -> Result<Option<Duration>, Failure> {
        Ok(self.opt_integer(name, 0, YEAR_MS)?.map(Duration::from_millis))
    }

    /// An id. What is no id at all answers as one that never was.
    pub(super) fn id<T: FromStr>(&mut self, name: &'static str) -> Result<T, Failure> {
        let prefix = prefix_of(name);
        let value = self.take(name, Need::Required, || Shape::Id { prefix });
        match text_of(name, value)? {
            Some(text) => id_of(name, &text),
            None if self.describes() => id_of(name, &format!("{prefix}{:032x}", 0)),
            None => Err(missing(name)),
        }
    }

    pub(super) fn opt_id<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        let value = self.take(name, Need::Optional, || Shape::Id { prefix: prefix_of(name) });
        text_of(name, value)?.map(|text| id_of(name, &text)).transpose()
    }

    /// One of a few words.
    pub(super) fn opt_word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
    ) -> Result<Option<T>, Failure> {
        let value = self.take(name, Need::Optional, || Shape::Words(words_of(words)));
        text_of(name, value)?.map(|text| word_of(name, &text, words)).transpose()
    }

    /// One of a few words, of which there is at least one.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
    ) -> Result<T, Failure> {
        let value = self.take(name, Need::Required, || Shape::Words(words_of(words)));
        match text_of(name, value)? {
            Some(text) => word_of(name, &text, words),
            None if self.describes() => words.first().map(|(_, value)| *value).ok_or_else(|| missing(name)),
            None => Err(missing(name)),
        }
    }

    /// A signal by its name.
    pub(super) fn signal(&mut self, name: &'static str) -> Result<Signal, Failure> {
        let value = self.take(name, Need::Required, || Shape::Signal);
        match text_of(name, value)? {
            Some(text) => signal_of(name, &text),
            None if self.describes() => Ok(Signal::TERM),
            None => Err(missing(name)),
        }
    }

    pub(super) fn opt_signal(&mut self, name: &'static str) -> Result<Option<Signal>, Failure> {
        let value = self.take(name, Need::Optional, || Shape::Signal);
        text_of(name, value)?.map(|text| signal_of(name, &text)).transpose()
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Failure> {
        let items = match self.take(name, Need::Required, || Shape::Texts) {
            Some(Value::Array(items)) => items,
            Some(_) => return Err(invalid(format!("{name}: must be a list of strings"))),
            None if self.describes() => return Ok(vec!["true".to_owned()]),
            None => return Err(missing(name)),
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
        let map = match self.take(name, Need::Optional, || Shape::TextMap) {
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
        if self.describes() {
            let mut inner = Self::describing();
            read(&mut inner)?;
            self.take(name, Need::Optional, || Shape::Object(inner.described()));
            return Ok(None);
        }
        let map = match self.take(name, Need::Optional, || Shape::Object(Vec::new())) {
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
        let map = match self.take(name, Need::Optional, || Shape::IntegerMap) {
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

fn text_of(name: &str, value: Option<Value>) -> Result<Option<String>, Failure> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) if text.contains('\0') => {
            Err(invalid(format!("{name}: holds a NUL character")))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format!("{name}: must be a string"))),
    }
}

fn integer_of(name: &str, value: &Value, least: u64, most: u64) -> Result<u64, Failure> {
    let number = value.as_u64().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| invalid(format!("{name}: must be an integer from {least} to {most}")))
}

fn prefix_of(name: &str) -> &'static str {
    if name == "job" { "j_" } else { "s_" }
}

fn id_of<T: FromStr>(name: &str, text: &str) -> Result<T, Failure> {
    let what = if name == "job" { "job" } else { "session" };
    text.parse().map_err(|_| Failure::NotFound(what))
}

fn words_of<T>(words: &[(&'static str, T)]) -> Vec<&'static str> {
    words.iter().map(|(word, _)| *word).collect()
}

fn word_of<T: Copy>(name: &str, text: &str, words: &[(&'static str, T)]) -> Result<T, Failure> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| invalid(format!("{name}: must be one of {}", words_of(words).join(", "))))
}

fn signal_of(name: &str, text: &str) -> Result<Signal, Failure> {
    Signal::from_name(text).ok_or_else(|| {
        invalid(format!("{name}: {text:?} is no signal; say for example SIGTERM, INT or SIGUSR1"))
    })
}
