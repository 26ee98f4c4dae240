//! Settings of the sections `[webhooks.NAME]`.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::{
    mapping::{Mapping, Source},
    signature::{Scheme, Verifier},
};
use crate::journal;

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
    From(Place),
}

/// Where a name stands in a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
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

/// The field that holds the secret where nothing is said.
const HEADER: &str = "x-secret-key";
/// The window of the standard's own libraries.
const TOLERANCE_MS: u64 = 5 * 60 * 1000;

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

// === impl WebhookConfig ===

impl WebhookConfig {
    /// Checks all that can be checked without the environment. The journal must know a delivery again for as long as it can be
    /// repeated.
    ///
    /// # Errors
    /// Names the key and what is wrong with it.
    pub fn check(&self, name: &str, journal: &journal::Config) -> Result<(), String> {
        let wrong = |key: &str, error: &str| Err(format!("`webhooks.{name}.{key}`: {error}"));
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(format!("`webhooks.{name}`: a name has 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        let variables = self.secret_env.as_ref().map_or(&[][..], EnvNames::names);
        let named = |variable: &String| !variable.is_empty() && !variable.contains(['=', '\0']);
        if variables.is_empty() || !variables.iter().all(named) {
            return wrong("secret_env", "name the environment variable that holds the secret");
        }
        if self.header.is_some() && self.scheme != Scheme::SecretHeader {
            return wrong("header", "it goes with `scheme = \"secret-header\"` alone");
        }
        if self.secret_header().parse::<http::HeaderName>().is_err() {
            return wrong("header", "it is no name of a header field");
        }
        match self.tolerance_ms {
            Some(_) if self.scheme != Scheme::StandardWebhooks => {
                return wrong(
                    "tolerance_ms",
                    "it goes with `scheme = \"standard-webhooks\"` alone: others have no time",
                );
            }
            Some(0) => return wrong("tolerance_ms", "it must be at least 1"),
            _ => {}
        }
        let mapping = match Mapping::new(self) {
            Ok(mapping) => mapping,
            Err((key, error)) => return wrong(&key, &error),
        };
        if mapping.sources().any(|source| self.shows_secret(source)) {
            return wrong("header", "it holds the secret, which must not get into events");
        }
        // A timestamp may be ahead by as much as it may be behind: so long the same delivery can come again.
        let (window, known) = (self.tolerance().saturating_mul(2), journal.remembered_ms(mapping.topic()));
        if self.scheme == Scheme::StandardWebhooks && window > known {
            let error = format!(
                "a delivery can be repeated for twice as long, {window} ms, and must be known again until then, but is only \
                 for {known} ms: by `journal.dedupe_ms`, or by the `retention_ms` of its topic"
            );
            return wrong("tolerance_ms", &error);
        }
        Ok(())
    }

    /// Reads the secrets from the environment; `None` when there is none and none is needed.
    ///
    /// # Errors
    /// Names the key and the environment variable, never its content.
    pub(super) fn verifier(
        &self,
        name: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Verifier>, String> {
        let wrong =
            |env: &str, error: &str| format!("`webhooks.{name}.secret_env`: the environment variable `{env}` {error}");
        let mut secrets = Vec::new();
        for env in self.secret_env.iter().flat_map(EnvNames::names) {
            let secret = variable(env).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
            let Some(secret) = secret else {
                if self.optional {
                    continue;
                }
                return Err(wrong(
                    env,
                    "is not set, or empty; `optional = true` permits that, and switches the webhook off",
                ));
            };
            // One by one, so that the error can name the variable.
            Verifier::new(self.scheme, std::slice::from_ref(&secret), HEADER, 0)
                .map_err(|error| wrong(env, &format!("holds no secret that can be used: {error}")))?;
            secrets.push(secret);
        }
        if secrets.is_empty() {
            return Ok(None);
        }
        Verifier::new(self.scheme, &secrets, self.secret_header(), self.tolerance()).map(Some)
    }

    fn secret_header(&self) -> &str {
        self.header.as_deref().unwrap_or(HEADER)
    }

    fn tolerance(&self) -> u64 {
        self.tolerance_ms.unwrap_or(TOLERANCE_MS)
    }

    fn shows_secret(&self, source: &Source) -> bool {
        let header = self.secret_header();
        self.scheme == Scheme::SecretHeader
            && matches!(source, Source::Header(name) if name.eq_ignore_ascii_case(header))
    }
}
