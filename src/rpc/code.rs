//! The one table from failures to codes, kinds and data.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::domain::{DecisionId, Denied, Failure, SpawnStage, Whose};

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

/// The HTTP status that says what the failure says, for those who run a command by one request.
pub(super) fn http_status(failure: &Failure) -> u16 {
    match failure {
        Failure::Parse(_) | Failure::InvalidRequest(_) | Failure::InvalidParams(_) => 400,
        Failure::Unauthenticated => 401,
        Failure::Forbidden(_) | Failure::PolicyDenied(_) | Failure::PolicyFailed { .. } => 403,
        Failure::MethodNotFound(_) | Failure::NotFound(_) => 404,
        Failure::Conflict(_) | Failure::Finished => 409,
        // The command was understood and cannot be executed.
        Failure::SpawnFailed { .. } => 422,
        // Not the caller's doing: another time, or another server.
        Failure::LimitExceeded { whose: Whose::Server, .. } => 503,
        Failure::LimitExceeded { whose: Whose::Caller, .. }
        | Failure::RateLimited { .. }
        | Failure::Busy { .. } => 429,
        Failure::Internal(_) => 500,
        Failure::Draining | Failure::Unavailable { .. } => 503,
    }
}

/// Every code with its kind and when it is told, for the published description.
pub(super) const CODES: [(i32, &str, &str); 18] = [
    (-32700, "parse_error", "the text is not JSON, or beyond the bounds of a message"),
    (-32600, "invalid_request", "the JSON is not a JSON-RPC 2.0 request"),
    (-32601, "method_not_found", "there is no such method"),
    (-32602, "invalid_params", "the parameters are not those of the method"),
    (-32603, "internal", "a fault of the gateway"),
    (-32001, "unauthenticated", "the credential expired or was revoked in mid-connection"),
    (-32002, "forbidden", "a method for admins"),
    (-32003, "policy_denied", "policy refused: policy, denial, rules, remedy, decision"),
    (-32004, "not_found", "no such session or job, or somebody else's"),
    (-32005, "conflict", "owned elsewhere, or a key used with other parameters"),
    (-32006, "limit_exceeded", "a hard limit or a claim: limit, value"),
    (-32007, "rate_limited", "a rate: bucket, retry_after_ms"),
    (-32008, "spawn_failed", "the command could not be started: stage, errno"),
    (-32009, "draining", "the gateway is shutting down"),
    (-32010, "unavailable", "exhausted, or a circuit is open: retry_after_ms"),
    (-32011, "finished", "the job has ended"),
    (-32012, "busy", "the stdin queue is full; nothing of the call was taken: free"),
    (-32013, "policy_failed", "a policy broke, and what cannot be decided is denied"),
];

/// The table.
pub(super) fn tell(failure: &Failure) -> Told {
    let none = Value::Null;
    match failure {
        Failure::Parse(why) => told(-32700, "parse_error", format!("not taken as JSON: {why}"), none),
        Failure::InvalidRequest(why) => {
            told(-32600, "invalid_request", format!("not a JSON-RPC 2.0 request: {why}"), none)
        }
        Failure::MethodNotFound(name) => {
            let message = format!("there is no method {name:?}; rpc.discover lists them");
            told(-32601, "method_not_found", message, none)
        }
        Failure::InvalidParams(why) => told(-32602, "invalid_params", why, none),
        Failure::Internal(why) => {
            let message = format!("a fault of the gateway: {why}; its log has more under the request id");
            told(-32603, "internal", message, none)
        }
        Failure::Unauthenticated => {
            let message = "the credential is no longer valid; connect again with a fresh one";
            told(-32001, "unauthenticated", message, none)
        }
        Failure::Forbidden(method) => told(-32002, "forbidden", format!("{method} is for admins"), none),
        Failure::PolicyDenied(denied) => policy_denied(denied),
        Failure::NotFound(what) => told(-32004, "not_found", format!("there is no such {what}"), none),
        Failure::Conflict(why) => told(-32005, "conflict", why, none),
        Failure::LimitExceeded { limit, value, .. } => limit_exceeded(limit, *value),
        Failure::RateLimited { bucket, retry_after } => rate_limited(bucket, *retry_after),
        Failure::SpawnFailed { stage, errno, subject } => spawn_failed(*stage, *errno, subject),
        Failure::Draining => {
            told(-32009, "draining", "the gateway is shutting down; use another, or try later", none)
        }
        Failure::Unavailable { what, retry_after } => unavailable(what, *retry_after),
        Failure::Finished => told(-32011, "finished", "the job has ended", none),
        Failure::Busy { free } => busy(*free),
        Failure::PolicyFailed { policy, fault, decision } => policy_failed(policy, fault, *decision),
    }
}

fn policy_denied(denied: &Denied) -> Told {
    let mut data = json!({
        "policy": denied.policy, "denial": denied.code, "rules": denied.rules, "decision": denied.decision.to_string(),
    });
    if let (Some(remedy), Value::Object(map)) = (&denied.remedy, &mut data) {
        map.insert("remedy".to_owned(), Value::String(remedy.clone()));
    }
    told(-32003, "policy_denied", &denied.message, data)
}

fn limit_exceeded(limit: &str, value: u64) -> Told {
    let message = match value {
        // There is none that could be ended.
        0 => format!("{limit}: the limit is 0; do without, or have it raised"),
        _ => format!("{limit} are limited to {value}; end some, or have the limit raised"),
    };
    told(-32006, "limit_exceeded", message, json!({"limit": limit, "value": value}))
}

fn rate_limited(bucket: &str, retry_after: Duration) -> Told {
    let wait = ms(retry_after);
    let message = format!("too many at once ({bucket}); try again in {wait} ms");
    told(-32007, "rate_limited", message, json!({"bucket": bucket, "retry_after_ms": wait}))
}

fn spawn_failed(stage: SpawnStage, errno: i32, subject: &str) -> Told {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    let message = format!("the job could not be started at stage {stage}: {subject}: {text}");
    told(-32008, "spawn_failed", message, json!({"stage": stage.as_str(), "errno": errno_name(errno)}))
}

fn unavailable(what: &str, retry_after: Duration) -> Told {
    let wait = ms(retry_after);
    let message = format!("{what}; try again in {wait} ms");
    told(-32010, "unavailable", message, json!({"retry_after_ms": wait}))
}

fn busy(free: u64) -> Told {
    let message = format!(
        "the job's stdin queue has {free} bytes free; nothing was taken, send less or wait for credit"
    );
    told(-32012, "busy", message, json!({"free": free}))
}

fn policy_failed(policy: &str, fault: &str, decision: DecisionId) -> Told {
    let message = format!(
        "the policy {policy:?} broke ({fault}), and what cannot be decided is denied; tell the operator the decision id"
    );
    let data = json!({"policy": policy, "fault": fault, "decision": decision.to_string()});
    told(-32013, "policy_failed", message, data)
}

/// Whole milliseconds, rounded up: a client that waits so long passes.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The errno's name, e.g. `ENOENT`.
fn errno_name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}
