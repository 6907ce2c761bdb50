//! A text frame to calls: strict JSON-RPC 2.0.

use serde_json::{Map, Value};

use crate::domain::Failure;

use super::Method;
use super::members::Members;
use super::method::{self, Exec};
use super::strict::{self, NotTaken};

/// Bounds of one message.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Nesting of arrays and objects.
    pub depth: usize,
    /// Values and keys in all.
    pub nodes: usize,
    /// Entries of a batch.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 64, nodes: 20_000, batch: 50 }
    }
}

/// Longest string id, bytes.
const MAX_ID: usize = 128;

/// A request id as the client gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Id {
    /// `null`: answered with null; unlike an absent id, which makes a notification.
    Null,
    /// Negative.
    Signed(i64),
    /// Not negative.
    Unsigned(u64),
    /// At most 128 bytes.
    Text(String),
}

impl Id {
    /// Whether it is `null`, which names nothing.
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Signed(n) => (*n).into(),
            Self::Unsigned(n) => (*n).into(),
            Self::Text(text) => Value::String(text.clone()),
        }
    }

    fn read(value: Value) -> Result<Self, Failure> {
        let bad = || {
            Failure::InvalidRequest(format!("id: a string of at most {MAX_ID} bytes, an integer, or null"))
        };
        match value {
            Value::Null => Ok(Self::Null),
            Value::String(text) if text.len() <= MAX_ID => Ok(Self::Text(text)),
            Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => Ok(Self::Unsigned(n)),
                (None, Some(n)) => Ok(Self::Signed(n)),
                (None, None) => Err(bad()),
            },
            Value::String(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(bad()),
        }
    }
}

/// A decoded request; without an id it is a notification and is never answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// How to answer.
    pub id: Option<Id>,
    /// What to do.
    pub method: Method,
}

/// A request that is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Whom to answer; `None` for a notification, which is never answered.
    pub id: Option<Id>,
    /// What is wrong with it.
    pub failure: Failure,
}

/// One request of a frame.
pub type Entry = Result<Call, Rejected>;

/// What a text frame holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// One request.
    Single(Entry),
    /// A batch of 1..=50.
    Batch(Vec<Entry>),
    /// Nothing that could be taken apart; answered once, with id null.
    Refused(Failure),
}

/// Decodes one text frame.
pub fn decode(text: &str, limits: &Limits) -> Incoming {
    match strict::read(text, limits) {
        Err(NotTaken::Syntax(why)) => Incoming::Refused(Failure::Parse(why)),
        Err(NotTaken::DuplicateKey(key)) => Incoming::Refused(twice(&key)),
        Ok(Value::Array(entries)) if entries.is_empty() => {
            Incoming::Refused(Failure::InvalidRequest("an empty batch".to_owned()))
        }
        Ok(Value::Array(entries)) if entries.len() > limits.batch => {
            let message = format!("a batch of {}; at most {} entries", entries.len(), limits.batch);
            Incoming::Refused(Failure::InvalidRequest(message))
        }
        Ok(Value::Array(entries)) => Incoming::Batch(entries.into_iter().map(entry).collect()),
        Ok(value) => Incoming::Single(entry(value)),
    }
}

/// Decodes the body of `POST /v1/exec`.
///
/// # Errors
/// As for a request: not JSON, or not these parameters.
pub fn decode_exec(body: &[u8], limits: &Limits) -> Result<Exec, Failure> {
    let text = std::str::from_utf8(body).map_err(|e| Failure::Parse(format!("not UTF-8: {e}")))?;
    let members = match strict::read(text, limits) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return Err(Failure::InvalidParams("the body is an object, as of job.start".to_owned())),
        Err(NotTaken::Syntax(why)) => return Err(Failure::Parse(why)),
        Err(NotTaken::DuplicateKey(key)) => return Err(twice(&key)),
    };
    let mut members = Members::new(members);
    let exec = method::exec(&mut members)?;
    members.finish()?;
    Ok(exec)
}

fn twice(key: &str) -> Failure {
    Failure::InvalidRequest(format!("the key {key:?} stands twice in one object"))
}

fn entry(value: Value) -> Entry {
    let nameless = |failure| Rejected { id: Some(Id::Null), failure };
    let Value::Object(mut members) = value else {
        return Err(nameless(Failure::InvalidRequest("a request is an object".to_owned())));
    };
    let id = members.remove("id").map(Id::read).transpose().map_err(nameless)?;
    match (method(members), id) {
        (Ok(method), id) => Ok(Call { id, method }),
        (Err(failure @ Failure::InvalidRequest(_)), None) => Err(nameless(failure)),
        (Err(failure), id) => Err(Rejected { id, failure }),
    }
}

fn method(mut members: Map<String, Value>) -> Result<Method, Failure> {
    if members.remove("jsonrpc") != Some(Value::String("2.0".to_owned())) {
        return Err(Failure::InvalidRequest("jsonrpc: must be exactly \"2.0\"".to_owned()));
    }
    let name = match members.remove("method") {
        Some(Value::String(name)) => name,
        Some(_) | None => return Err(Failure::InvalidRequest("method: must be a string".to_owned())),
    };
    let params = members.remove("params");
    if let Some(unknown) = members.keys().next() {
        return Err(Failure::InvalidRequest(format!("{unknown:?} is not a member of a request")));
    }
    let params = match params {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(Failure::InvalidParams("params: by name only, as an object".to_owned())),
    };
    Method::decode(&name, Members::new(params))
}
