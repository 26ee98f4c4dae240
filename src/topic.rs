//! Topics, which are named ordered sequences of events, and the patterns of subscribers.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a topic: 1 to 255 bytes without white space, control characters, comma or `*`.
///
/// Cheap to clone. `user:`, `group:`, `job:`, `relay:` and `emitter:` are reserved prefixes. `all` is for broadcasts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

/// Selects topics: one topic, or, with a trailing `*`, all topics with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// One topic.
    Exact(Topic),
    /// All topics that begin with this text; empty for all topics.
    Prefix(Arc<str>),
}

/// Why a topic name or pattern is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The name is empty or too long.
    #[error("a topic name has 1 to 255 bytes, this one has {0}")]
    Length(usize),
    /// The name contains a forbidden character.
    #[error("topic `{0}` contains `{1}`: white space, control characters, comma and `*` are not allowed in a name")]
    Character(String, char),
    /// A reserved prefix without an id: all callers without an id would share one topic.
    #[error("`{0}` needs an id behind the colon")]
    Id(&'static str),
    /// A `*` is not at the end.
    #[error("in `{0}` the `*` must be the last character: it stands for the rest of the name")]
    Star(String),
}

/// Maximum length of a topic name in bytes.
pub const MAX_BYTES: usize = 255;

// === impl Topic ===

impl Topic {
    /// The topic for broadcasts. Connections receive it unless they decline broadcasts.
    pub const ALL: &'static str = "all";

    /// Checks a name.
    ///
    /// # Errors
    /// The broken rule.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Invalid> {
        let name = name.as_ref();
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The topic for broadcasts.
    pub fn all() -> Self {
        Self(Self::ALL.into())
    }

    /// The topic of a user.
    ///
    /// # Errors
    /// If the user id is empty or has characters that a topic must not have.
    pub fn user(id: &str) -> Result<Self, Invalid> {
        Self::with_id("user:", id)
    }

    /// The topic of a group.
    ///
    /// # Errors
    /// If the group id is empty or has characters that a topic must not have.
    pub fn group(id: &str) -> Result<Self, Invalid> {
        Self::with_id("group:", id)
    }

    /// The topic with the history of a job.
    ///
    /// # Errors
    /// If the id is empty or has characters that a topic must not have.
    pub fn job(id: &str) -> Result<Self, Invalid> {
        Self::with_id("job:", id)
    }

    /// The topic with the history of a relay.
    ///
    /// # Errors
    /// If the id is empty or has characters that a topic must not have.
    pub fn relay(id: &str) -> Result<Self, Invalid> {
        Self::with_id("relay:", id)
    }

    fn with_id(prefix: &'static str, id: &str) -> Result<Self, Invalid> {
        match id {
            "" => Err(Invalid::Id(prefix)),
            id => Self::new(format!("{prefix}{id}")),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for topics into which only the node publishes.
    pub fn internal(&self) -> bool {
        ["job:", "relay:", "emitter:"].iter().any(|prefix| self.0.starts_with(prefix))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Topic {
    type Error = Invalid;

    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.0.as_ref().to_owned()
    }
}

// === impl Pattern ===

impl Pattern {
    /// Parses a topic, or a prefix with a trailing `*`.
    ///
    /// # Errors
    /// The broken rule.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let Some(prefix) = text.strip_suffix('*') else {
            return if text.contains('*') {
                Err(Invalid::Star(text.into()))
            } else {
                Topic::new(text).map(Self::Exact)
            };
        };
        if prefix.contains('*') {
            return Err(Invalid::Star(text.into()));
        }
        if !prefix.is_empty() {
            check(prefix)?;
        }
        Ok(Self::Prefix(prefix.into()))
    }

    /// The pattern of all topics.
    pub fn any() -> Self {
        Self::Prefix("".into())
    }

    /// True if the pattern selects this topic.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Self::Exact(own) => own == topic,
            Self::Prefix(prefix) => topic.0.starts_with(&**prefix),
        }
    }

    /// The topics that both patterns select; `None` if there are none.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            return Some(other.clone());
        }
        other.covers(self).then(|| self.clone())
    }

    /// True if this pattern selects all topics of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(topic)) => self.matches(topic),
            (Self::Prefix(own), Self::Prefix(other)) => other.starts_with(&**own),
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self::Exact(topic)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(topic) => topic.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

fn check(name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.len() > MAX_BYTES {
        return Err(Invalid::Length(name.len()));
    }
    match name.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, ',' | '*')) {
        Some(c) => Err(Invalid::Character(name.escape_debug().to_string(), c)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "user:42", "order:é", "x/y.z#1", &"x".repeat(255)] {
            assert!(Topic::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a,b", "a*", "a\n", "a\u{85}", "\u{2003}", &"x".repeat(256)] {
            assert!(Topic::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_trailing_star_matches_the_rest() {
        let order = Pattern::new("order:*").unwrap();
        assert!(order.matches(&Topic::new("order:1").unwrap()));
        assert!(order.matches(&Topic::new("order:").unwrap()));
        assert!(!order.matches(&Topic::new("orders").unwrap()));
        assert!(Pattern::new("*").unwrap().matches(&Topic::all()));
        assert_eq!(order.to_string(), "order:*");
        for bad in ["a*b", "**", "a b*", ""] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
    }
}
