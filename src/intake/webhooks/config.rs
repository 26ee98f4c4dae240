//! The form of the sections `[webhooks.NAME]`; `check.rs` checks their values.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::signature::Scheme;

/// Settings of a section `[webhooks.NAME]`, for POST `/api/webhooks/NAME`.
///
/// They do not contain the secret, but the name of an environment variable with the secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// The environment variable with the secret; several while a secret is being replaced.
    pub secret_env: Option<EnvNames>,
    /// Whether the webhook is off (503) without its secret; otherwise the node does not start.
    pub optional: bool,
    /// How deliveries are authenticated.
    pub scheme: Scheme,
    /// The header field with the secret, for `secret-header`; default `x-secret-key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Maximum difference of a delivery's timestamp to now, in milliseconds, for `standard-webhooks`. Default 5 minutes, as
    /// in the libraries of the standard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_ms: Option<u64>,
    /// Name of the event; or use `event_from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Location of the event name: a JSON pointer, or `header:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_from: Option<String>,
    /// Event names by value of `event_from`; `*` is for all other values. If empty, the value is the name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, String>,
    /// Fields of the event's data. If absent, the data are the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<BTreeMap<String, Field>>,
    /// Fields of the data for single events, by event name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub event_data: BTreeMap<String, BTreeMap<String, Field>>,
    /// Topic of the event; or use `user` or `group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<Target>,
    /// User who receives the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Target>,
    /// Group that receives the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Target>,
}

/// One name of an environment variable, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the name of an environment variable, or a list of such names")]
pub enum EnvNames {
    /// One variable.
    One(String),
    /// Several variables. The secret of any of them is accepted.
    Many(Vec<String>),
}

/// The target of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// A constant name.
    Fixed(String),
    /// The name is in the delivery.
    From(ValuePath),
}

/// Location of a value in a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValuePath {
    /// A JSON pointer, or `header:NAME`.
    pub from: String,
}

/// A field of an event's data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Field {
    /// Copied from this location: a JSON pointer, or `header:NAME`.
    From(String),
    /// A location with more rules, or a constant.
    Rule(FieldRule),
}

/// The rules of a field; with either `from` or `value`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FieldRule {
    /// A constant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// A JSON pointer, or `header:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whether the field is omitted if the delivery has no value. Otherwise such a delivery is rejected.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The value if the delivery has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Replacements of values; `*` is for all other values, which otherwise do not change.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, Value>,
}

/// Reads a string, or a table as `T`. An untagged enum of serde would also accept an array for a table.
struct TextOrTable<T>(&'static str, PhantomData<T>);

/// The two forms.
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
        let form = TextOrTable("a name, or a location such as `{ from = \"/pointer\" }`", PhantomData);
        Ok(match deserializer.deserialize_any(form)? {
            Written::Text(name) => Self::Fixed(name),
            Written::Table(location) => Self::From(location),
        })
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = TextOrTable("a location such as `\"/pointer\"`, or a table with `from` or `value`", PhantomData);
        Ok(match deserializer.deserialize_any(form)? {
            Written::Text(location) => Self::From(location),
            Written::Table(rule) => Self::Rule(rule),
        })
    }
}

// === impl EnvNames ===

impl EnvNames {
    /// All variables.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}
