//! JSON as text: the node passes on JSON of clients unchanged, except for insignificant white space.
//!
//! A JSON tree would lose digits beyond 64 bits, the form of numbers (`1.10`, `1E5`, `-0`), escapes and repeated names.
//! Therefore JSON that is only passed on stays text ([`Json`]), checked and compacted by [`compact()`]. A tree is built
//! only where values are used.
//!
//! Unchanged are digits, the order of names, repeated names and escapes. Rejected are text that is not JSON, escapes that
//! are half of a surrogate pair, and nesting deeper than [`MAX_DEPTH`]. Numbers have no range.
//!
//! [`Objects`] reads typed values, and rejects a JSON array where an object is expected. [`FieldError`] is a mistake in a
//! body.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

mod field_error;
mod objects;
mod pretty;
mod scan;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::scan::Scanner;
#[cfg(test)]
pub(crate) use self::tests::spelled;
pub use self::{
    field_error::FieldError,
    objects::Objects,
    pretty::pretty,
    scan::{Invalid, MAX_DEPTH, MAX_RESULT_DEPTH},
};

/// A JSON value as compact text.
#[derive(Clone)]
pub struct Json(Box<RawValue>);

/// Checks a text and removes its insignificant white space. A text without such white space is borrowed.
///
/// # Errors
/// If the text is not JSON, is nested deeper than [`MAX_DEPTH`], or has half of a surrogate pair.
pub fn compact(text: &str) -> Result<Cow<'_, str>, Invalid> {
    scan::compact(text, MAX_DEPTH)
}

/// The text as compact JSON if it is valid JSON, else as a JSON string.
pub fn embed(text: &str) -> Json {
    Json::parse(text).unwrap_or_else(|_| Json::from(text))
}

/// Reads a typed value. An array is rejected where an object is expected.
///
/// # Errors
/// If the text is not JSON, or the value has another form.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes).map(|Objects(value)| value)
}

/// The text without a byte order mark. RFC 8259 (section 8.1) permits ignoring it.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

// === impl Json ===

impl Json {
    /// The value `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// Parses a text.
    ///
    /// # Errors
    /// If the text is not JSON, is nested deeper than [`MAX_DEPTH`], or has half of a surrogate pair.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        compact(text).map(|text| Self::trusted(text.into_owned()))
    }

    /// Parses the result of a task. It becomes part of other JSON, so its limit of nesting is lower.
    ///
    /// # Errors
    /// If the text is not JSON, is nested deeper than [`MAX_RESULT_DEPTH`], or has half of a surrogate pair.
    pub fn result(text: &str) -> Result<Self, Invalid> {
        scan::compact(text, MAX_RESULT_DEPTH).map(|text| Self::trusted(text.into_owned()))
    }

    /// Wraps a text that is valid compact JSON.
    fn trusted(text: String) -> Self {
        Self(RawValue::from_string(text).expect("the text was checked or made by a serialiser"))
    }

    /// Serialises a value.
    ///
    /// # Errors
    /// If a map has keys that are not text, or the value fails to serialise.
    pub fn of(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// True for the value `null`.
    pub fn is_null(&self) -> bool {
        self.get() == "null"
    }

    /// The text of a JSON string; `None` for any other value.
    pub fn string(&self) -> Option<String> {
        if self.get().starts_with('"') { serde_json::from_str(self.get()).ok() } else { None }
    }

    /// The value as a tree. Numbers that the tree cannot hold are rounded; those outside of its range become text.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.get()).unwrap_or_else(|_| Value::from(self.get()))
    }

    /// Reads a typed value, like [`from_slice`].
    ///
    /// # Errors
    /// If the value has another form.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        from_slice(self.get().as_bytes())
    }

    /// The text as a raw value of `serde_json`.
    pub fn into_raw(self) -> Box<RawValue> {
        self.0
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Json {}

/// Compares the values as trees.
impl PartialEq<Value> for Json {
    fn eq(&self, other: &Value) -> bool {
        self.value() == *other
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self::trusted(value.to_string())
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        // With space for some escapes: a buffer that grows by doubling would need twice the memory of a large text.
        let mut json = Vec::with_capacity(text.len() + text.len() / 8 + 2);
        serde_json::to_writer(&mut json, text).expect("a text is a JSON string");
        Self::trusted(String::from_utf8(json).expect("JSON is UTF-8"))
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::from(&*text)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match compact(raw.get()).map_err(serde::de::Error::custom)? {
            Cow::Borrowed(_) => Ok(Self(raw)),
            Cow::Owned(text) => Ok(Self::trusted(text)),
        }
    }
}
