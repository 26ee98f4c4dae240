//! The settings as shown to operators, without secrets.

use serde_json::{Map, Value};

use super::Config;

/// Replacement for a secret.
const REDACTED: &str = "***";

impl Config {
    /// The effective settings as TOML-like JSON. Secrets are redacted: values of header fields for remotes, values of
    /// variables for programs, and queries of URLs.
    pub fn to_json(&self) -> Value {
        let mut json = self.all();
        for (section, key) in [("remotes", "headers"), ("handlers", "env")] {
            let entries = json[section].as_object_mut().into_iter().flat_map(Map::values_mut);
            let values = entries.filter_map(|entry| entry.get_mut(key)?.as_object_mut());
            values.flat_map(Map::values_mut).for_each(|value| *value = REDACTED.into());
        }
        hide_queries(&mut json);
        json
    }
}

/// Redacts the queries of URLs, which often contain API keys.
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
