//! From figment's errors to file, line and the nearest key.
//!
//! figment knows which layer a value came from, and no line; the line is looked up in the file's own spans. A value of
//! the wrong type is not told: in the wrong place or without its quotes it may be a secret, and this text ends up in logs.

use figment::error::{Actual, Kind};
use toml_edit::{ImDocument, Item};

use super::ConfigFailure;
use super::layers::{DEFAULTS, Named};

/// What is wrong, and where.
pub(super) fn explain(error: &figment::Error, files: &[Named]) -> ConfigFailure {
    if let Some(broken) = files.iter().find_map(syntax) {
        return broken;
    }
    let layer =
        error.metadata.as_ref().map_or_else(|| "the configuration".to_owned(), |m| m.name.to_string());
    let mut path = error.path.clone();
    let what = match &error.kind {
        Kind::UnknownField(field, known) => {
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            unknown(&path, field, known)
        }
        Kind::MissingField(field) => format!("{}: is missing", dotted(&path, field)),
        Kind::UnknownVariant(word, known) => {
            let known: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
            format!("{}: {word:?} is none of {}", path.join("."), known.join(", "))
        }
        Kind::InvalidType(found, wanted) if wanted.starts_with("struct ") => {
            let name = path.join(".");
            format!("{name}: must be a section: [{name}] with keys of its own, not {}", word(found))
        }
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            format!("{}: must be {}, not {}", path.join("."), kind(wanted), word(found))
        }
        other => format!("{}: {other}", path.join(".")),
    };
    let line = files.iter().find(|file| file.name == layer).and_then(|file| line_of(&file.text, &path));
    let place = line.map_or_else(|| layer.clone(), |line| format!("{layer}:{line}"));
    ConfigFailure::Wrong { place, what }
}

/// Where and why the file is no TOML, when that is what is wrong.
fn syntax(file: &Named) -> Option<ConfigFailure> {
    let error = ImDocument::parse(file.text.as_str()).err()?;
    let before = error.span().and_then(|span| file.text.get(..span.start)).unwrap_or_default();
    let place = format!("{}:{}", file.name, before.matches('\n').count() + 1);
    Some(ConfigFailure::Wrong { place, what: error.message().to_owned() })
}

/// What a value is, without the value.
fn word(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Signed(..0) => "a negative number",
        Actual::Unsigned(_) | Actual::Signed(_) => "this number",
        Actual::Float(_) => "a fraction",
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "this",
    }
}

/// What is wanted, in the words of the file instead of serde's.
pub(super) fn kind(wanted: &str) -> &str {
    match wanted {
        "i32" => "a whole number",
        "u8" => "a whole number up to 255",
        "u16" => "a whole number up to 65535",
        "u32" => "a whole number up to 4294967295",
        "u64" | "usize" => "a whole number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "a table",
        "string or map" => "a word",
        other => other,
    }
}

fn dotted(path: &[String], field: &str) -> String {
    [path, &[field.to_owned()]].concat().join(".")
}

fn unknown(path: &[String], field: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|k| strsim::levenshtein(k, field));
    let hint = match nearest {
        Some(key) if strsim::levenshtein(key, field) <= 3 => format!("did you mean {key:?}?"),
        Some(_) | None => format!("there are {}", known.join(", ")),
    };
    format!("{}: there is no such key; {hint}", path.join("."))
}

/// The line, from 1, on which the key stands.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let document = ImDocument::parse(text).ok()?;
    let mut item: &Item = document.as_item();
    let mut at = None;
    for name in path {
        let table = item.as_table_like()?;
        let (key, value) = table.get_key_value(name)?;
        at = key.span().or_else(|| value.span()).or(at);
        item = value;
    }
    let start = at?.start;
    Some(text.get(..start)?.lines().count().max(1) + usize::from(text.get(..start)?.ends_with('\n')))
}

/// Every key of the default configuration, dotted; used to show where values came from.
pub(super) fn known_keys() -> Vec<String> {
    fn walk(item: &Item, prefix: &str, keys: &mut Vec<String>) {
        let Some(table) = item.as_table() else { return };
        for (name, value) in table {
            let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            match value {
                Item::Table(_) => walk(value, &key, keys),
                Item::None | Item::Value(_) | Item::ArrayOfTables(_) => keys.push(key),
            }
        }
    }
    let mut keys = Vec::new();
    if let Ok(document) = ImDocument::parse(DEFAULTS) {
        walk(document.as_item(), "", &mut keys);
    }
    keys
}
