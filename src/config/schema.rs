//! The JSON Schema of the configuration: types from the settings, defaults and meanings from the file of defaults.
//!
//! For editors that complete and check TOML. What it cannot say, such as what goes together, `config check` does.

use serde_json::{Map, Value, json};
use toml_edit::{DocumentMut, Item, Table};

use super::layers::DEFAULTS;
use super::{Loaded, Raw, show};

/// The schema as text.
pub fn schema(defaults: &Loaded) -> String {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12();
    generator.inline_subschemas = true;
    let mut schema = generator.into_generator().into_root_schema_for::<Raw>().to_value();
    if let Some(top) = schema.as_object_mut() {
        top.insert("title".to_owned(), json!("execgate"));
    }
    let values = show::values(defaults);
    // The mutable document is the one that owns its comments.
    if let Ok(document) = DEFAULTS.parse::<DocumentMut>() {
        describe(&mut schema, document.as_table(), "", &values);
    }
    format!("{schema:#}")
}

/// Writes default and meaning beside the type of each key.
fn describe(schema: &mut Value, table: &Table, prefix: &str, values: &Map<String, Value>) {
    let mut meaning = String::new();
    for (name, item) in table {
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let Some(node) = schema.get_mut("properties").and_then(|p| p.get_mut(name)) else { continue };
        if let Item::Table(inner) = item {
            describe(node, inner, &key, values);
            continue;
        }
        let said = table.key(name).and_then(|key| key.leaf_decor().prefix()).and_then(|p| p.as_str());
        let said = said.map(comment).filter(|text| !text.is_empty());
        // One comment may stand for the keys that follow it.
        meaning = said.unwrap_or(meaning);
        if let Some(node) = node.as_object_mut() {
            node.insert("description".to_owned(), json!(meaning));
            node.extend(values.get(&key).map(|value| ("default".to_owned(), value.clone())));
        }
    }
}

/// The last comment before a key, as one text.
fn comment(decor: &str) -> String {
    let last = decor.rsplit("\n\n").next().unwrap_or_default();
    let lines = last.lines().filter_map(|line| line.trim().strip_prefix('#'));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}
