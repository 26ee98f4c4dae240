//! The form of the sections `[webhooks.NAME]`; `check.rs` checks their values.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::signature::Scheme;

/// Settings of one section `[webhooks.NAME]`: POST `/api/webhooks/NAME`.
///
/// The secret is not among them, only the name of the environment variable that holds it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// The environment variable that holds the secret; several while a secret is being changed.
    pub secret_env: Option<EnvNames>,
    /// Without its secret the webhook is off (503); else the node does not start.
    pub optional: bool,
    /// How deliveries prove where they come from.
    pub scheme: Scheme,
    /// The header field that holds the secret, `x-secret-key` where nothing is said; for `secret-header`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// How many milliseconds the timestamp of a delivery may be from now; for `standard-webhooks`. Default 5 minutes, as the
    /// standard's own libraries have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_ms: Option<u64>,
    /// The event's name; or `event_from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Where the event's name stands: a JSON pointer, or `header:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_from: Option<String>,
    /// Renames what stands there; `*` is for all other names. Empty: it is the name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, String>,
    /// The fields of the event's data, and how each is made; left out, the data is the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<BTreeMap<String, Field>>,
    /// Other fields for single events, by the event's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub event_data: BTreeMap<String, BTreeMap<String, Field>>,
    /// The topic that the event is for; or `user`, or `group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<Target>,
    /// The user that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Target>,
    /// The group that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Target>,
}

/// One name of an environment variable, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the name of an environment variable, or a list of such names")]
pub enum EnvNames {
    /// One.
    One(String),
    /// Several: what any of them holds is right.
    Many(Vec<String>),
}

/// For whom an event is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// Always the same.
    Fixed(String),
    /// Named by the delivery.
    From(ValuePath),
}

/// Where a name stands in a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValuePath {
    /// A JSON pointer, or `header:NAME`.
    pub from: String,
}

/// How a field of an event's data is made.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Field {
    /// Taken from this place: a JSON pointer, or `header:NAME`.
    From(String),
    /// The same with more rules, or a constant.
    Rule(FieldRule),
}

/// The rules of a field; either `from` or `value`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FieldRule {
    /// A constant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// A JSON pointer, or `header:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The field is left out where the delivery has nothing there; else such a delivery is refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The value where the delivery has nothing there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Replaces values; `*` is for all others, which else stay as they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Value>,
}

/// Reads a text, or a table as `T`. The untagged form of serde would also take an array for a table.
struct TextOrTable<T>(&'static str, PhantomData<T>);

/// What was there.
enum Written<T> {
    Text(String),
    Table(T),
}

// === impl TextOrTable ===

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrTable<T> {
    type Value = Written<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Written::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Written::Table)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = TextOrTable("a name, or a place such as `{ from = \"/pointer\" }`", PhantomData);
        Ok(match deserializer.deserialize_any(form)? {
            Written::Text(name) => Self::Fixed(name),
            Written::Table(place) => Self::From(place),
        })
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = TextOrTable("a place such as `\"/pointer\"`, or a table with `from` or `value`", PhantomData);
        Ok(match deserializer.deserialize_any(form)? {
            Written::Text(place) => Self::From(place),
            Written::Table(rule) => Self::Rule(rule),
        })
    }
}

// === impl EnvNames ===

impl EnvNames {
    /// All of them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}
