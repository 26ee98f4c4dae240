//! Finds the environment variables that contain secrets of the node.

use std::collections::BTreeSet;

use serde_json::Value;

/// Environment variables that the settings name as secrets: the values of all keys that end in `_env`. `env` and
/// `pass_env` are excluded: they list variables for programs.
pub(super) fn variables(json: &Value) -> BTreeSet<String> {
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
