//! Metadata of an emitter, and the filter that an event may carry over it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a client said about itself when it connected: `meta.KEY=VALUE`, each value a JSON scalar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Meta(pub BTreeMap<String, Value>);

/// An equality map over metadata: every pair must be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter(BTreeMap<String, Value>);

// === impl Meta ===

impl Meta {
    /// Most keys that one emitter may carry.
    pub const MAX_KEYS: usize = 32;
    /// Most bytes of keys and values together.
    pub const MAX_BYTES: usize = 4096;

    /// Reads a value from a query string: a JSON scalar where it is one, else a string.
    pub fn parse_value(text: &str) -> Value {
        match serde_json::from_str(text) {
            Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::Null | Value::String(_))) => value,
            _ => Value::from(text),
        }
    }

    /// True for scalars within both bounds.
    pub fn is_small(&self) -> bool {
        let scalar = |value: &Value| !value.is_object() && !value.is_array();
        self.0.len() <= Self::MAX_KEYS && self.size() <= Self::MAX_BYTES && self.0.values().all(scalar)
    }

    /// Bytes of keys and values, against [`Meta::MAX_BYTES`].
    pub fn size(&self) -> usize {
        size(&self.0)
    }
}

// === impl Filter ===

impl Filter {
    /// A filter over these pairs; an empty one matches everybody.
    pub fn new(pairs: BTreeMap<String, Value>) -> Self {
        Self(pairs)
    }

    /// True when `meta` has every pair of the filter.
    pub fn matches(&self, meta: &Meta) -> bool {
        self.0.iter().all(|(key, want)| meta.0.get(key).is_some_and(|have| same(have, want)))
    }

    /// Bytes of the filter, as they count against the size of an event.
    pub fn size(&self) -> usize {
        size(&self.0)
    }
}

/// `1` and `1.0` are the same number to the one who writes a filter.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn size(pairs: &BTreeMap<String, Value>) -> usize {
    pairs.iter().map(|(key, value)| key.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(pairs: &[(&str, &str)]) -> Meta {
        Meta(pairs.iter().map(|(k, v)| ((*k).to_owned(), Meta::parse_value(v))).collect())
    }

    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_pair_must_be_there() {
        let meta = meta(&[("premium", "true"), ("level", "3"), ("lang", "pt-BR")]);
        assert!(filter(r#"{"premium":true}"#).matches(&meta));
        assert!(filter(r#"{"premium":true,"level":3.0,"lang":"pt-BR"}"#).matches(&meta));
        assert!(!filter(r#"{"premium":"true"}"#).matches(&meta));
        assert!(!filter(r#"{"premium":true,"admin":true}"#).matches(&meta));
        assert!(filter("{}").matches(&Meta::default()));
    }

    #[test]
    fn only_scalars_are_read_as_json() {
        assert_eq!(Meta::parse_value("[1]"), Value::from("[1]"));
        assert_eq!(Meta::parse_value("\"3\""), Value::from("3"));
        assert_eq!(Meta::parse_value("abc"), Value::from("abc"));
    }
}
