//! Filters of events, and the metadata of emitters that filters use.
//!
//! A filter is an equality map or an expression (`expression.rs`). It limits the receivers of an event; it does not give
//! any access right.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod cost;
mod expression;
mod refused;

use self::expression::Expression;
pub use self::refused::Refused;

/// Metadata that a client sets when it connects: `meta.KEY=VALUE`. Each value is a JSON scalar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Meta(pub BTreeMap<String, Value>);

/// Selects the subscribers of an event: an equality map over their metadata, or a CEL expression over a [`Subscriber`].
///
/// It is serialised as the publisher sent it: an object or a string.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Filter(Kind);

/// Cheap to clone: expressions are shared.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Kind {
    /// All pairs must be in the metadata.
    Pairs(BTreeMap<String, Value>),
    Expression(Arc<Expression>),
    /// A stored filter that is not valid (any more). It matches no subscriber.
    NoMatch(Option<Arc<str>>),
}

/// The properties of a subscriber that a filter can use.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    /// Metadata of the emitter: `metadata` in an expression.
    pub meta: &'a Meta,
    /// Name of the user: `user` in an expression; `null` for anonymous subscribers.
    pub user: Option<&'a str>,
    /// Groups of the user: `groups` in an expression.
    pub groups: &'a [String],
    /// Id of the emitter: `emitterId` in an expression.
    pub emitter_id: &'a str,
}

/// The filter cannot be evaluated for this subscriber: a key is missing or has another type. It does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter cannot be applied to this subscriber")]
pub struct Undecided;

// === impl Meta ===

impl Meta {
    /// Maximum number of keys of one emitter.
    pub const MAX_KEYS: usize = 32;
    /// Maximum number of bytes of all keys and values.
    pub const MAX_BYTES: usize = 4096;

    /// Parses a value of a query string: as a JSON scalar if it is one, else as a string.
    pub fn parse_value(text: &str) -> Value {
        match serde_json::from_str(text) {
            Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::Null | Value::String(_))) => value,
            _ => Value::from(text),
        }
    }

    /// True if all values are scalars and both limits are kept.
    pub fn is_small(&self) -> bool {
        let scalar = |value: &Value| !value.is_object() && !value.is_array();
        self.0.len() <= Self::MAX_KEYS && self.size() <= Self::MAX_BYTES && self.0.values().all(scalar)
    }

    /// Bytes of keys and values, for [`Meta::MAX_BYTES`].
    pub fn size(&self) -> usize {
        size(&self.0)
    }
}

// === impl Filter ===

impl Filter {
    /// A filter with these pairs. An empty one matches all subscribers.
    pub fn new(pairs: BTreeMap<String, Value>) -> Self {
        Self(Kind::Pairs(pairs))
    }

    /// A filter with a CEL expression, within the limits of docs/filters.md.
    ///
    /// # Errors
    /// Names the fault or the exceeded limit, and the place.
    pub fn expression(source: &str) -> Result<Self, Refused> {
        Ok(Self(Kind::Expression(Arc::new(Expression::new(source)?))))
    }

    /// A filter as publishers write it: an object of names and values, or an expression as a string.
    ///
    /// # Errors
    /// Names the fault or the exceeded limit, and the place.
    pub fn from_json(json: Value) -> Result<Self, Refused> {
        match json {
            Value::Object(pairs) => Ok(Self::new(pairs.into_iter().collect())),
            Value::String(source) => Self::expression(&source),
            _ => Err(Refused::Form),
        }
    }

    /// A filter as the journal stores it: the JSON text that the publisher wrote.
    ///
    /// If it is not a valid filter (any more), it matches no subscriber: a filtered event must not reach all.
    pub fn restore(json: &str) -> Self {
        static WARNED: AtomicBool = AtomicBool::new(false);
        let stored: Value = serde_json::from_str(json).unwrap_or_default();
        let source = stored.as_str().map(Arc::from);
        Self::from_json(stored).unwrap_or_else(|error| {
            if !WARNED.swap(true, Relaxed) {
                tracing::warn!(%error, filter = json, "a stored filter is not accepted (any more): its event is not delivered");
            }
            Self(Kind::NoMatch(source))
        })
    }

    /// True if an event with this filter is for this subscriber.
    ///
    /// # Errors
    /// If a key that the expression needs is missing or has another type. This means no match.
    pub fn matches(&self, subscriber: &Subscriber<'_>) -> Result<bool, Undecided> {
        match &self.0 {
            Kind::Pairs(pairs) => {
                let meta = &subscriber.meta.0;
                Ok(pairs.iter().all(|(key, want)| meta.get(key).is_some_and(|have| same(have, want))))
            }
            Kind::Expression(expression) => expression.evaluate(subscriber),
            Kind::NoMatch(_) => Ok(false),
        }
    }

    /// Cost of offering an event with this filter, as a multiple of the cost without a filter.
    pub fn weight(&self, subscriber: &Subscriber<'_>) -> usize {
        match &self.0 {
            Kind::Pairs(_) | Kind::NoMatch(_) => 1,
            Kind::Expression(expression) => expression.weight(subscriber),
        }
    }

    /// Size of the filter in bytes, which counts for the size of an event.
    pub fn size(&self) -> usize {
        match &self.0 {
            Kind::Pairs(pairs) => size(pairs),
            Kind::Expression(expression) => expression.source().len(),
            Kind::NoMatch(source) => source.as_ref().map_or(0, |source| source.len()),
        }
    }
}

/// Compares values. `1` and `1.0` are equal.
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
        Filter::from_json(serde_json::from_str(json).unwrap()).unwrap()
    }

    fn matches(filter: &Filter, meta: &Meta) -> bool {
        filter.matches(&Subscriber { meta, user: None, groups: &[], emitter_id: "e" }).unwrap()
    }

    #[test]
    fn all_pairs_must_match() {
        let meta = meta(&[("premium", "true"), ("level", "3"), ("lang", "pt-BR")]);
        assert!(matches(&filter(r#"{"premium":true}"#), &meta));
        assert!(matches(&filter(r#"{"premium":true,"level":3.0,"lang":"pt-BR"}"#), &meta));
        assert!(!matches(&filter(r#"{"premium":"true"}"#), &meta));
        assert!(!matches(&filter(r#"{"premium":true,"admin":true}"#), &meta));
        assert!(matches(&filter("{}"), &Meta::default()));
    }

    #[test]
    fn only_scalars_are_read_as_json() {
        assert_eq!(Meta::parse_value("[1]"), Value::from("[1]"));
        assert_eq!(Meta::parse_value("\"3\""), Value::from("3"));
        assert_eq!(Meta::parse_value("abc"), Value::from("abc"));
    }

    #[test]
    fn a_filter_is_stored_as_it_was_written() {
        for json in [r#"{"premium":true,"level":3}"#, r#""metadata.level > 3""#, "{}"] {
            let stored = serde_json::to_string(&filter(json)).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), serde_json::from_str::<Value>(json).unwrap());
            assert_eq!(Filter::restore(&stored), filter(json));
        }
    }

    #[test]
    fn a_stored_filter_that_is_not_valid_any_more_matches_nothing_and_is_kept() {
        for json in
            [r#""metadata.level >""#, r#""matches(user, 'x')""#, "5", "true", "[1]", "null", "", "{\"a\":", "\u{0}"]
        {
            let restored = Filter::restore(json);
            assert!(matches!(&restored.0, Kind::NoMatch(_)), "{json}");
            assert!(!matches(&restored, &Meta::default()), "{json}");
            assert_eq!(Filter::restore(&serde_json::to_string(&restored).unwrap()), restored, "{json}");
        }
    }
}
