//! Metadata of an emitter, and the filter that an event may carry over it.
//!
//! A filter is an equality map or an expression (`expression.rs`), and only says whom an event reaches: it gives nobody a
//! right.

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

/// What a client said about itself when it connected: `meta.KEY=VALUE`, each value a JSON scalar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Meta(pub BTreeMap<String, Value>);

/// Whom an event reaches: an equality map over metadata, or a CEL expression over all of a [`Subscriber`].
///
/// Serialised it is what the publisher sent: an object, or a string.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Filter(Kind);

/// Cheap to clone where it is costly to make.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Kind {
    /// Every pair must be there.
    Pairs(BTreeMap<String, Value>),
    Expression(Arc<Expression>),
    /// Stored once, and no expression any more, or never a filter: it reaches nobody.
    Nobody(Option<Arc<str>>),
}

/// What a filter is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    /// `metadata` in an expression.
    pub meta: &'a Meta,
    /// `user`; `null` where nobody is named.
    pub user: Option<&'a str>,
    /// `groups`.
    pub groups: &'a [String],
    /// `emitterId`.
    pub emitter_id: &'a str,
}

/// The filter cannot be applied to this subscriber: a key is missing, or of another type. It does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter cannot be applied to this subscriber")]
pub struct Undecided;

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
        Self(Kind::Pairs(pairs))
    }

    /// A filter from a CEL expression, within the bounds that docs/filters.md names.
    ///
    /// # Errors
    /// Says what is wrong or too much, and where.
    pub fn expression(source: &str) -> Result<Self, Refused> {
        Ok(Self(Kind::Expression(Arc::new(Expression::new(source)?))))
    }

    /// A filter as publishers write it: an object of names and values, or an expression as a string.
    ///
    /// # Errors
    /// As [`Filter::expression`].
    pub fn from_json(json: Value) -> Result<Self, Refused> {
        match json {
            Value::Object(pairs) => Ok(Self::new(pairs.into_iter().collect())),
            Value::String(source) => Self::expression(&source),
            _ => Err(Refused::Form),
        }
    }

    /// A filter as the journal keeps it: the JSON text of what the publisher wrote.
    ///
    /// What is no filter (any more) becomes one that reaches nobody: an event for some must not reach all.
    pub fn restore(json: &str) -> Self {
        static TOLD: AtomicBool = AtomicBool::new(false);
        let stored: Value = serde_json::from_str(json).unwrap_or_default();
        let source = stored.as_str().map(Arc::from);
        Self::from_json(stored).unwrap_or_else(|error| {
            if !TOLD.swap(true, Relaxed) {
                tracing::warn!(%error, filter = json, "a stored filter is not accepted (any more): its event reaches nobody");
            }
            Self(Kind::Nobody(source))
        })
    }

    /// Says whether an event with this filter is for that subscriber.
    ///
    /// # Errors
    /// An expression may fail where a key is missing or of another type, which is as good as no match.
    pub fn matches(&self, subscriber: &Subscriber<'_>) -> Result<bool, Undecided> {
        match &self.0 {
            Kind::Pairs(pairs) => {
                let meta = &subscriber.meta.0;
                Ok(pairs.iter().all(|(key, want)| meta.get(key).is_some_and(|have| same(have, want))))
            }
            Kind::Expression(expression) => expression.evaluate(subscriber),
            Kind::Nobody(_) => Ok(false),
        }
    }

    /// About how many times more work than an event without a filter it is to offer one with this filter.
    pub fn weight(&self, subscriber: &Subscriber<'_>) -> usize {
        match &self.0 {
            Kind::Pairs(_) | Kind::Nobody(_) => 1,
            Kind::Expression(expression) => expression.weight(subscriber),
        }
    }

    /// Bytes of the filter, as they count against the size of an event.
    pub fn size(&self) -> usize {
        match &self.0 {
            Kind::Pairs(pairs) => size(pairs),
            Kind::Expression(expression) => expression.source().len(),
            Kind::Nobody(source) => source.as_ref().map_or(0, |source| source.len()),
        }
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
        Filter::from_json(serde_json::from_str(json).unwrap()).unwrap()
    }

    fn matches(filter: &Filter, meta: &Meta) -> bool {
        filter.matches(&Subscriber { meta, user: None, groups: &[], emitter_id: "e" }).unwrap()
    }

    #[test]
    fn every_pair_must_be_there() {
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
    fn what_is_no_filter_any_more_reaches_nobody_and_is_kept() {
        for json in
            [r#""metadata.level >""#, r#""matches(user, 'x')""#, "5", "true", "[1]", "null", "", "{\"a\":", "\u{0}"]
        {
            let restored = Filter::restore(json);
            assert!(matches!(&restored.0, Kind::Nobody(_)), "{json}");
            assert!(!matches(&restored, &Meta::default()), "{json}");
            assert_eq!(Filter::restore(&serde_json::to_string(&restored).unwrap()), restored, "{json}");
        }
    }
}
