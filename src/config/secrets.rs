//! What must not leave the node: which settings are redacted, and which environment variables hold secrets.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What stands in place of a secret.
const REDACTED: &str = "***";

/// Hides values of header fields that go to remotes and of variables that go to programs, and queries of URLs.
pub fn redact(json: &mut Value) {
    for (section, key) in [("remotes", "headers"), ("handlers", "env")] {
        let entries = json[section].as_object_mut().into_iter().flat_map(Map::values_mut);
        let values = entries.filter_map(|entry| entry.get_mut(key)?.as_object_mut());
        values.flat_map(Map::values_mut).for_each(|value| *value = REDACTED.into());
    }
    hide_queries(json);
}

/// Environment variables that settings name: each key that ends in `_env` does so, except the list of those that
/// programs get.
pub fn variables(json: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match json {
        Value::Array(items) => items.iter().for_each(|item| found.extend(variables(item))),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    _ if key == "pass_env" || key == "env" => {}
                    Value::String(name) if key.ends_with("_env") => found.extend([name.clone()]),
                    Value::Array(names) if key.ends_with("_env") => {
                        found.extend(names.iter().filter_map(|name| name.as_str().map(str::to_owned)));
                    }
                    other => found.extend(variables(other)),
                }
            }
        }
        _ => {}
    }
    found
}

/// Queries often contain keys.
fn hide_queries(json: &mut Value) {
    match json {
        Value::String(text) if text.starts_with("http://") || text.starts_with("https://") => {
            if let Some(query) = text.find('?') {
                text.replace_range(query + 1.., REDACTED);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_queries),
        Value::Object(fields) => fields.values_mut().for_each(hide_queries),
        _ => {}
    }
}
