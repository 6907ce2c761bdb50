//! The resolved settings, each with the layer it came from. Digests of tokens are shown as what they are, variables of
//! jobs without their values.

use std::fmt::Write as _;

use figment::value::{Dict, Value};

use super::layers::BUILT_IN;
use super::{Loaded, locate};

/// As TOML, one key a line; what does not come from the defaults says where it comes from.
pub fn show(loaded: &Loaded) -> String {
    let mut text = String::new();
    for (key, value) in entries(loaded) {
        let from = source(loaded, &key);
        let comment = if from == BUILT_IN { String::new() } else { format!("   # {from}") };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} = {}{comment}", quoted(&key), written(&showable(&key, value)));
    }
    text
}

/// As JSON: each key with its value and where it came from.
pub fn show_json(loaded: &Loaded) -> String {
    let entry = |(key, value): (String, Value)| {
        let from = source(loaded, &key);
        let value = showable(&key, value);
        (key, serde_json::json!({"value": value, "from": from}))
    };
    let map: serde_json::Map<_, _> = entries(loaded).into_iter().map(entry).collect();
    format!("{:#}", serde_json::Value::Object(map))
}

/// Every key with its value.
pub(super) fn values(loaded: &Loaded) -> serde_json::Map<String, serde_json::Value> {
    let value = |(key, value): (String, Value)| (key.clone(), serde_json::json!(showable(&key, value)));
    entries(loaded).into_iter().map(value).collect()
}

fn source(loaded: &Loaded, key: &str) -> String {
    loaded.figment.find_metadata(key).map_or_else(|| "unknown".to_owned(), |m| m.name.to_string())
}

/// The keys whose values differ, dotted.
pub fn changed(before: &Loaded, after: &Loaded) -> Vec<String> {
    let (before, after) = (entries(before), entries(after));
    let differs = |all: &[(String, Value)], (key, value): &(String, Value)| {
        !all.iter().any(|(other, same)| other == key && written(same) == written(value))
    };
    let mut keys: Vec<_> =
        after.iter().filter(|entry| differs(&before, entry)).map(|(key, _)| key.clone()).collect();
    keys.extend(
        before
            .iter()
            .filter(|(key, _)| !after.iter().any(|(other, _)| other == key))
            .map(|(key, _)| key.clone()),
    );
    keys
}

/// Every key that has a value, dotted: those of the defaults, then those of named tables.
fn entries(loaded: &Loaded) -> Vec<(String, Value)> {
    let known = locate::known_keys();
    let mut entries: Vec<_> =
        known.iter().filter_map(|key| Some((key.clone(), loaded.figment.find_value(key).ok()?))).collect();
    for table in ["auth.token", "auth.mtls", "auth.jwt", "tenant", "policy", "profile"] {
        if let Ok(Value::Dict(_, dict)) = loaded.figment.find_value(table) {
            flatten(table, dict, &mut entries);
        }
    }
    entries
}

/// Keys whose values may be secrets: shown as that they are set.
const SECRET: &str = "jobs.env";

/// The value as it may be shown.
fn showable(key: &str, value: Value) -> Value {
    match value {
        Value::Dict(tag, dict) if key == SECRET => {
            let redacted = |(name, _)| (name, Value::from("(redacted)"));
            Value::Dict(tag, dict.into_iter().map(redacted).collect())
        }
        other => other,
    }
}

fn flatten(prefix: &str, dict: Dict, entries: &mut Vec<(String, Value)>) {
    for (name, value) in dict {
        let key = format!("{prefix}.{name}");
        match value {
            // A table without keys may be one that is asked for by its name.
            Value::Dict(_, inner) if !key.ends_with(".settings") && !inner.is_empty() => {
                flatten(&key, inner, entries)
            }
            other => entries.push((key, other)),
        }
    }
}

/// A dotted key as TOML has it. No name of ours holds a dot.
fn quoted(key: &str) -> String {
    key.split('.').map(bare).collect::<Vec<_>>().join(".")
}

/// A key, in quotes where it needs them.
fn bare(key: &str) -> String {
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !key.is_empty() && key.bytes().all(is_bare) { key.to_owned() } else { string(key) }
}

/// The escapes of JSON are some of those of TOML.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn written(value: &Value) -> String {
    match value {
        Value::String(_, text) => string(text),
        Value::Array(_, items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, dict) => {
            let pairs: Vec<_> = dict.iter().map(|(k, v)| format!("{} = {}", bare(k), written(v))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Char(_, c) => string(&c.to_string()),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, n) => match (n.to_u128(), n.to_i128()) {
            (Some(n), _) => n.to_string(),
            (None, Some(n)) => n.to_string(),
            (None, None) => n.to_f64().unwrap_or(f64::NAN).to_string(),
        },
        Value::Empty(..) => "\"\"".to_owned(),
    }
}
