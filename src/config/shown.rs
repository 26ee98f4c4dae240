//! The settings as they are shown: without what is secret.

use serde_json::{Map, Value};

use super::Config;

/// What stands in place of a secret.
const REDACTED: &str = "***";

impl Config {
    /// The settings in force as TOML-like JSON, without what is secret: values of header fields that go to remotes, and
    /// queries of URLs.
    pub fn to_json(&self) -> Value {
        let mut json = self.all();
        for remote in json["remotes"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            for value in remote["headers"].as_object_mut().into_iter().flat_map(Map::values_mut) {
                *value = REDACTED.into();
            }
        }
        hide_queries(&mut json);
        json
    }
}

/// Keys like to stand in queries.
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
