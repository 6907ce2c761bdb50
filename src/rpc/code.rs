//! The one table from failures to codes, kinds and data.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::domain::Failure;

/// What a client gets of a failure: the code, the kind for programs, the message for people, further facts.
pub(super) struct Told {
    pub(super) code: i32,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) data: Map<String, Value>,
}

fn told(code: i32, kind: &'static str, message: impl Into<String>, data: Value) -> Told {
    let data = match data {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    Told { code, kind, message: message.into(), data }
}

/// The table.
pub(super) fn tell(failure: &Failure) -> Told {
    protocol_error(failure).unwrap_or_else(|| refusal(failure))
}

/// Errors of JSON-RPC itself.
fn protocol_error(failure: &Failure) -> Option<Told> {
    let none = Value::Null;
    Some(match failure {
        Failure::Parse(why) => told(-32700, "parse_error", format!("not taken as JSON: {why}"), none),
        Failure::InvalidRequest(why) => {
            told(-32600, "invalid_request", format!("not a JSON-RPC 2.0 request: {why}"), none)
        }
        Failure::MethodNotFound(name) => told(
            -32601,
            "method_not_found",
            format!("there is no method {name:?}; rpc.discover lists them"),
            none,
        ),
        Failure::InvalidParams(why) => told(-32602, "invalid_params", why, none),
        Failure::Internal(why) => told(
            -32603,
            "internal",
            format!("a fault of the gateway: {why}; its log has more under the request id"),
            none,
        ),
        _ => return None,
    })
}

fn refusal(failure: &Failure) -> Told {
    match failure {
        Failure::Parse(why) | Failure::InvalidRequest(why) | Failure::MethodNotFound(why) => internal(why),
        Failure::InvalidParams(why) | Failure::Internal(why) => internal(why),
        Failure::Unauthenticated => told(
            -32001,
            "unauthenticated",
            "the credential is no longer valid; connect again with a fresh one",
            Value::Null,
        ),
        Failure::Forbidden(method) => {
            told(-32002, "forbidden", format!("{method} is for admins"), Value::Null)
        }
        Failure::PolicyDenied(denied) => {
            let mut data = json!({
                "policy": denied.policy, "denial": denied.code, "rules": denied.rules, "decision": denied.decision.to_string(),
            });
            if let (Some(remedy), Value::Object(map)) = (&denied.remedy, &mut data) {
                map.insert("remedy".to_owned(), Value::String(remedy.clone()));
            }
            told(-32003, "policy_denied", &denied.message, data)
        }
        Failure::NotFound(what) => told(-32004, "not_found", format!("there is no such {what}"), Value::Null),
        Failure::Conflict(why) => told(-32005, "conflict", why, Value::Null),
        Failure::LimitExceeded { limit, value } => told(
            -32006,
            "limit_exceeded",
            format!("{limit} are limited to {value}; end some, or have the limit raised"),
            json!({"limit": limit, "value": value}),
        ),
        Failure::RateLimited { bucket, retry_after } => told(
            -32007,
            "rate_limited",
            format!("too many at once ({bucket}); try again in {} ms", ms(*retry_after)),
            json!({"bucket": bucket, "retry_after_ms": ms(*retry_after)}),
        ),
        Failure::SpawnFailed { stage, errno, subject } => {
            let name = errno_name(*errno);
            let text = std::io::Error::from_raw_os_error(*errno).to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
            told(
                -32008,
                "spawn_failed",
                format!("the job could not be started at stage {stage}: {subject}: {text}"),
                json!({"stage": stage.as_str(), "errno": name}),
            )
        }
        Failure::Draining => {
            told(-32009, "draining", "the gateway is shutting down; use another, or try later", Value::Null)
        }
        Failure::Unavailable { what, retry_after } => told(
            -32010,
            "unavailable",
            format!("{what}; try again in {} ms", ms(*retry_after)),
            json!({"retry_after_ms": ms(*retry_after)}),
        ),
        Failure::Finished => told(-32011, "finished", "the job has ended", Value::Null),
        Failure::Busy { free } => told(
            -32012,
            "busy",
            format!(
                "the job's stdin queue has {free} bytes free; nothing was taken, send less or wait for credit"
            ),
            json!({"free": free}),
        ),
        Failure::PolicyFailed { policy, fault, decision } => told(
            -32013,
            "policy_failed",
            format!(
                "the policy {policy:?} broke ({fault}), and what cannot be decided is denied; tell the operator the decision id"
            ),
            json!({"policy": policy, "fault": fault, "decision": decision.to_string()}),
        ),
    }
}

fn internal(why: &str) -> Told {
    told(-32603, "internal", why, Value::Null)
}

/// Whole milliseconds, rounded up: a client that waits so long passes.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The errno's name, e.g. `ENOENT`.
fn errno_name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}
