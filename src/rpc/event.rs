//! Notifications as text.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::domain::{
    EndReason, ExitStatus, Failure, GapReason, JobId, SessionId, Signal, StreamName, StreamTotals, Usage,
};

use super::code;

fn notification(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()
}

/// `job.output` of valid UTF-8. Written by hand: it is what a JSON client gets most of.
pub fn output_text(job: JobId, stream: StreamName, offset: u64, text: &str) -> String {
    let mut out = output_head(job, stream, offset, text.len() + text.len() / 2).into_bytes();
    out.extend_from_slice(b"\"data\":");
    // A string always serialises into memory, and as UTF-8; were it otherwise, the offsets would tell the client.
    let _ = serde_json::to_writer(&mut out, text);
    out.extend_from_slice(b"}}");
    String::from_utf8(out).unwrap_or_default()
}

/// `job.output` of anything else.
pub fn output_bytes(job: JobId, stream: StreamName, offset: u64, bytes: &[u8]) -> String {
    let mut out = output_head(job, stream, offset, bytes.len() / 3 * 4);
    out.push_str("\"data_b64\":\"");
    STANDARD.encode_string(bytes, &mut out);
    out.push_str("\"}}");
    out
}

fn output_head(job: JobId, stream: StreamName, offset: u64, more: usize) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(160 + more);
    let stream = stream.as_str();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        r#"{{"jsonrpc":"2.0","method":"job.output","params":{{"job":"{job}","stream":"{stream}","offset":{offset},"#
    );
    out
}

/// `job.gap`
pub fn gap(job: JobId, stream: StreamName, from: u64, to: u64, reason: GapReason) -> String {
    let params = json!({"job": job.to_string(), "stream": stream.as_str(), "from": from, "to": to, "reason": reason.as_str()});
    notification("job.gap", &params)
}

/// `job.ack`: how much stdin may be sent.
pub fn stdin_credit(job: JobId, offset: u64, free: u32) -> String {
    notification(
        "job.ack",
        &json!({"job": job.to_string(), "stream": "stdin", "offset": offset, "window": free}),
    )
}

/// `job.stdin_refused`
pub fn stdin_refused(job: JobId, offset: u64, why: &Failure) -> String {
    let params = json!({"job": job.to_string(), "offset": offset, "kind": code::tell(why).kind});
    notification("job.stdin_refused", &params)
}

/// `job.state`: paused, and whether exactly; `None` is running.
pub fn state(job: JobId, paused: Option<bool>) -> String {
    let params = match paused {
        Some(exact) => json!({"job": job.to_string(), "state": "paused", "exact": exact}),
        None => json!({"job": job.to_string(), "state": "running"}),
    };
    notification("job.state", &params)
}

/// `job.exited`
pub fn exited(job: JobId, status: ExitStatus, reason: EndReason) -> String {
    let mut params = status_members(status);
    params.insert("job".to_owned(), job.to_string().into());
    params.insert("reason".to_owned(), reason.as_str().into());
    notification("job.exited", &Value::Object(params))
}

/// `code`, `signal` and `core`; an unknown status has null for all.
pub(super) fn status_members(status: ExitStatus) -> Map<String, Value> {
    let (code, signal, core) = match status {
        ExitStatus::Code(code) => (code.into(), Value::Null, false.into()),
        ExitStatus::Signal { number, core } => (Value::Null, Signal::name_of(number).into(), core.into()),
        ExitStatus::Unknown => (Value::Null, Value::Null, Value::Null),
    };
    Map::from_iter([("code".to_owned(), code), ("signal".to_owned(), signal), ("core".to_owned(), core)])
}

/// `job.eof`
pub fn eof(job: JobId, stream: StreamName, offset: u64) -> String {
    notification("job.eof", &json!({"job": job.to_string(), "stream": stream.as_str(), "offset": offset}))
}

/// `job.closed`
pub fn closed(
    job: JobId,
    survivors: u32,
    reason: EndReason,
    usage: &Usage,
    totals: &[(StreamName, StreamTotals)],
) -> String {
    let total = |(stream, t): &(StreamName, StreamTotals)| {
        let value = json!({"produced": t.produced, "delivered": t.delivered, "dropped": t.dropped});
        (stream.as_str().to_owned(), value)
    };
    let params = json!({
        "job": job.to_string(), "survivors": survivors, "reason": reason.as_str(), "usage": usage_value(usage),
        "totals": totals.iter().map(total).collect::<Map<_, _>>(),
    });
    notification("job.closed", &params)
}

/// Usage; null is what the tier cannot know.
pub(super) fn usage_value(usage: &Usage) -> Value {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    json!({
        "user_ms": usage.user.map(ms), "system_ms": usage.system.map(ms), "max_rss": usage.max_rss,
        "processes_peak": usage.processes_peak,
    })
}

/// `session.lost`
pub fn session_lost(session: SessionId) -> String {
    notification("session.lost", &json!({"session": session.to_string()}))
}

/// `session.closed`
pub fn session_closed(session: SessionId, reason: &str) -> String {
    notification("session.closed", &json!({"session": session.to_string(), "reason": reason}))
}

/// `server.draining`: jobs are told to end when this is over.
pub fn draining(left: Duration) -> String {
    let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    notification("server.draining", &json!({"deadline_ms": ms}))
}
