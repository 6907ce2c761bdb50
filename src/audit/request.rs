//! A request as it was shown to guests, as JSON: masked, and cut where a line could not hold it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::{
    Call, CommandRequest, Executable, Origin, Principal, Script, SessionRequest, UsageCounts, When,
};

use super::mask::Masks;

/// A request, ready to be written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) value: Value,
    /// SHA-256 of the request, masked but not cut.
    pub(super) digest: String,
    pub(super) masked: bool,
    pub(super) cut: bool,
}

impl Written {
    fn new(value: Value, masked: bool, room: usize) -> Self {
        let text = value.to_string();
        let digest = format!("{:x}", Sha256::digest(&text));
        if text.len() <= room {
            return Self { value, digest, masked, cut: false };
        }
        Self { value: cut(value, room), digest, masked, cut: true }
    }
}

/// The request with its long parts cut to share the room; who, when and which program always stay.
fn cut(mut value: Value, room: usize) -> Value {
    let Value::Object(map) = &mut value else { return value };
    for (part, share) in [("argv", room / 2), ("env", room / 8), ("labels", room / 8), ("script", room / 8)] {
        if let Some(member) = map.get_mut(part)
            && member.to_string().len() > share
        {
            *member = match member.take() {
                Value::Array(items) => Value::Array(first(items, share)),
                _ => Value::Null,
            };
        }
    }
    if let Some(Value::Object(principal)) = map.get_mut("principal")
        && Value::Object(principal.clone()).to_string().len() > room / 8
    {
        principal.insert("attributes".to_owned(), json!({}));
        principal.insert("groups".to_owned(), json!([]));
    }
    value
}

fn first(items: Vec<Value>, mut left: usize) -> Vec<Value> {
    let mut kept = Vec::new();
    for item in items {
        let size = item.to_string().len() + 1;
        if size > left {
            break;
        }
        left -= size;
        kept.push(item);
    }
    kept
}

pub(super) fn command(request: &CommandRequest, grants: &[String], masks: &Masks, room: usize) -> Written {
    let (asked, facts) = (&request.resolved.command, &request.resolved.facts);
    let (argv, mut masked) = masks.argv(&asked.argv);
    let mut env = Map::new();
    for (name, value) in &asked.env {
        let shown = is_granted(grants, name).then(|| masks.value(name, value));
        masked |= shown.as_ref().is_some_and(|(_, masked)| *masked);
        env.insert(name.clone(), shown.map_or(Value::Null, |(value, _)| Value::String(value)));
    }
    let env: Vec<Value> = env.into_iter().map(|(name, value)| json!([name, value])).collect();
    let script = facts.script.as_ref().map(|script| {
        let (script, any) = script_of(script, masks);
        masked |= any;
        script
    });
    let mut value = json!({
        "principal": principal(&request.principal, masks, &mut masked), "origin": origin(&request.origin), "when": when(&request.when),
        "session": request.session.to_string(), "executable": executable(&facts.executable), "argv": argv, "cwd": facts.cwd,
        "env": env, "terminal": asked.terminal.is_some(), "labels": words(&request.labels, masks, &mut masked), "usage": usage(request.usage),
    });
    if let (Value::Object(map), Some(script)) = (&mut value, script) {
        map.insert("script".to_owned(), script);
    }
    Written::new(value, masked, room)
}

pub(super) fn session(request: &SessionRequest, masks: &Masks, room: usize) -> Written {
    let mut masked = false;
    let value = json!({
        "principal": principal(&request.principal, masks, &mut masked), "origin": origin(&request.origin), "when": when(&request.when),
        "session": request.session.to_string(), "labels": words(&request.labels, masks, &mut masked), "usage": usage(request.usage),
    });
    Written::new(value, masked, room)
}

pub(super) fn call(call: &Call, masks: &Masks, room: usize) -> Written {
    let mut masked = false;
    let value = json!({
        "principal": principal(&call.principal, masks, &mut masked), "origin": origin(&call.origin), "when": when(&call.when),
        "method": call.method.as_str(), "program": call.program,
    });
    Written::new(value, masked, room)
}

fn is_granted(grants: &[String], name: &str) -> bool {
    let fits =
        |grant: &String| grant.strip_suffix('*').map_or(grant == name, |prefix| name.starts_with(prefix));
    grants.iter().any(fits)
}

/// Words by their names, those of secrets masked.
fn words<'a>(
    words: &'a BTreeMap<String, String>,
    masks: &Masks,
    masked: &mut bool,
) -> BTreeMap<&'a String, String> {
    let one = |(name, value): (&'a String, &String)| {
        let (value, any) = masks.value(name, value);
        *masked |= any;
        (name, value)
    };
    words.iter().map(one).collect()
}

fn principal(principal: &Principal, masks: &Masks, masked: &mut bool) -> Value {
    let attributes = words(&principal.attributes, masks, masked);
    json!({
        "tenant": &*principal.tenant, "subject": &*principal.subject,
        "groups": principal.groups.iter().map(|g| &**g).collect::<Vec<_>>(), "attributes": attributes,
    })
}

fn origin(origin: &Origin) -> Value {
    json!({"address": origin.address.to_string(), "transport": origin.transport.as_str()})
}

fn when(when: &When) -> Value {
    json!({"unix_ms": when.unix_ms, "weekday": when.weekday, "minute": when.minute_of_day, "zone": &*when.zone})
}

fn usage(usage: UsageCounts) -> Value {
    json!({
        "server": [usage.server.0, usage.server.1], "tenant": [usage.tenant.0, usage.tenant.1],
        "subject": [usage.subject.0, usage.subject.1], "session": usage.session_jobs,
    })
}

fn executable(executable: &Executable) -> Value {
    let interpreter = executable.interpreter.as_ref().map(|i| {
        json!({"requested": i.requested, "canonical": i.canonical, "argument": i.argument, "setuid": i.setuid})
    });
    json!({
        "requested": executable.requested, "found": executable.found, "canonical": executable.canonical, "setuid": executable.setuid,
        "device": executable.identity.device, "inode": executable.identity.inode, "interpreter": interpreter,
    })
}

fn script_of(script: &Script, masks: &Masks) -> (Value, bool) {
    let mut masked = false;
    let commands: Vec<_> = script
        .commands
        .iter()
        .map(|argv| {
            let (argv, any) = masks.argv(argv);
            masked |= any;
            argv
        })
        .collect();
    (json!({"commands": commands, "opaque": script.opaque, "reasons": script.reasons}), masked)
}
