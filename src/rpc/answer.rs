//! Answers as text.

use serde_json::{Map, Value, json};

use crate::domain::{Failure, RequestId};

use super::code;
use super::request::Id;

/// An answer that failed. The request id goes into its data.
pub fn error(id: Option<&Id>, failure: &Failure, request: &RequestId) -> String {
    let told = code::tell(failure);
    let mut data = told.data;
    data.insert("kind".to_owned(), told.kind.into());
    data.insert("request_id".to_owned(), request.as_str().into());
    let id = id.map_or(Value::Null, Id::to_value);
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": told.code, "message": told.message, "data": data}})
        .to_string()
}

/// The HTTP status that says what the failure says (RFC 9110 section 15).
pub fn http_status(failure: &Failure) -> u16 {
    code::http_status(failure)
}

/// An answer that succeeded.
pub fn result(id: &Id, result: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id.to_value(), "result": result}).to_string()
}

/// The answers of a batch as one text; `None` when there are none.
pub fn batch(answers: &[String]) -> Option<String> {
    (!answers.is_empty()).then(|| format!("[{}]", answers.join(",")))
}

/// The body of a health page: each component with `ok` and what it says.
pub fn health(ready: bool, components: &[(&'static str, Result<String, String>)]) -> Value {
    let entry = |(name, outcome): &(&'static str, Result<String, String>)| {
        let (ok, says) = match outcome {
            Ok(says) => (true, says),
            Err(says) => (false, says),
        };
        ((*name).to_owned(), json!({"ok": ok, "detail": says}))
    };
    json!({"ready": ready, "components": components.iter().map(entry).collect::<Map<_, _>>()})
}
