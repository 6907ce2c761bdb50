//! The description of the protocol (OpenRPC 1.3), made by the decoders themselves.
//!
//! Each decoder is run once over members that are asked for and not read ([`Members::describing`]), so the document says
//! exactly what is taken: there is no second list that could fall behind.

use serde_json::{Map, Value, json};

use super::code::CODES;
use super::members::{Members, Need, Param, Shape};
use super::method::{self, Decoder, METHODS};

/// The notifications of the server, and what each says.
const NOTIFICATIONS: [(&str, &str); 11] = [
    ("job.output", "bytes of a stream at an offset: data when it is text, else data_b64"),
    ("job.gap", "a range of a stream that never comes, and why"),
    ("job.ack", "how much stdin may be sent: window bytes from offset on"),
    ("job.stdin_refused", "a stdin frame was dropped whole, and why"),
    ("job.state", "paused or running"),
    ("job.exited", "the leader is dead: code or signal, core, reason"),
    ("job.eof", "a stream ended at offset"),
    ("job.closed", "the tree is empty: survivors, reason, usage, totals; once, and last"),
    ("session.lost", "another connection took the session over"),
    ("session.closed", "the session is gone, and why"),
    ("server.draining", "the server shuts down; jobs end at the deadline"),
];

/// The document of this build.
pub fn discover(version: &str) -> Value {
    let methods: Vec<_> =
        METHODS.iter().map(|(name, summary, decoder)| method(name, summary, *decoder)).collect();
    let notifications: Map<_, _> =
        NOTIFICATIONS.iter().map(|(name, says)| ((*name).to_owned(), json!(says))).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "execgate", "version": version,
            "description": "JSON-RPC 2.0 over the WebSocket /v1/ws, parameters by name only; unknown ones are errors.",
        },
        "methods": methods,
        "components": {"errors": errors()},
        "x-notifications": notifications,
        "x-http": {"POST /v1/exec": {"params": params(&described(|m| method::exec(m).map(drop)))}},
    })
}

fn method(name: &str, summary: &str, decoder: Decoder) -> Value {
    json!({
        "name": name, "summary": summary, "paramStructure": "by-name",
        "params": params(&described(|m| decoder(m).map(drop))),
        "result": {"name": "result", "schema": {"type": "object"}},
    })
}

fn errors() -> Value {
    let entry =
        |(code, kind, when): &(i32, &str, &str)| ((*kind).to_owned(), json!({"code": code, "message": when}));
    Value::Object(CODES.iter().map(entry).collect())
}

/// What a decoder asks for.
fn described(decode: impl FnOnce(&mut Members) -> Result<(), crate::domain::Failure>) -> Vec<Param> {
    let mut members = Members::describing();
    // Every placeholder suits its decoder, so it asks for all it knows (a test holds that).
    let _ = decode(&mut members);
    members.described()
}

fn params(params: &[Param]) -> Value {
    let param =
        |p: &Param| json!({"name": p.name, "required": p.need == Need::Required, "schema": schema(&p.shape)});
    Value::Array(params.iter().map(param).collect())
}

/// The shape as JSON Schema (2020-12).
fn schema(shape: &Shape) -> Value {
    let texts = || json!({"type": "string", "pattern": "^[^\\u0000]*$"});
    match shape {
        Shape::Text { most: None } => texts(),
        Shape::Text { most: Some(most) } => {
            json!({"type": "string", "pattern": "^[^\\u0000]*$", "x-maxBytes": most})
        }
        Shape::Data => json!({"type": "string"}),
        Shape::Base64 => json!({"type": "string", "contentEncoding": "base64"}),
        Shape::Flag { default } => json!({"type": "boolean", "default": default}),
        Shape::Integer { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
        Shape::Id { prefix } => json!({"type": "string", "pattern": format!("^{prefix}[0-9a-f]{{32}}$")}),
        Shape::Words(words) => json!({"type": "string", "enum": words}),
        Shape::Signal => json!({"type": "string", "pattern": "^(SIG)?[A-Z0-9]+$"}),
        Shape::Texts => json!({"type": "array", "items": texts()}),
        Shape::TextMap => json!({"type": "object", "additionalProperties": texts()}),
        Shape::IntegerMap => {
            json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}})
        }
        Shape::Object(inner) => object(inner),
    }
}

fn object(inner: &[Param]) -> Value {
    let properties: Map<_, _> = inner.iter().map(|p| (p.name.to_owned(), schema(&p.shape))).collect();
    let required: Vec<_> = inner.iter().filter(|p| p.need == Need::Required).map(|p| p.name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decoder_asks_for_all_it_knows_when_it_is_described() {
        for (name, _, decoder) in METHODS {
            assert!(decoder(&mut Members::describing()).is_ok(), "{name} stops half-way");
        }
        assert!(method::exec(&mut Members::describing()).is_ok());
    }

    #[test]
    fn every_failure_that_can_be_told_is_in_the_list_of_codes() {
        use crate::domain::Failure;
        let some = [
            Failure::Parse(String::new()),
            Failure::Unauthenticated,
            Failure::Draining,
            Failure::Finished,
            Failure::Busy { free: 0 },
            Failure::Conflict(String::new()),
            Failure::NotFound("job"),
        ];
        for failure in some {
            let told = super::super::code::tell(&failure);
            assert!(
                CODES.iter().any(|(code, kind, _)| (*code, *kind) == (told.code, told.kind)),
                "{failure:?}"
            );
        }
    }
}
