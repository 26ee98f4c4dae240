//! JSON as text: what a client wrote leaves the node as it came, without its insignificant white space.
//!
//! A tree of values loses what it cannot hold: digits beyond 64 bits, the form of a number (`1.10`, `1E5`, `-0`), escapes,
//! and names that occur twice. So JSON that only passes through stays text ([`Json`]), checked and made compact by one
//! mechanism ([`compact()`]). A tree is made only where values are looked at.
//!
//! What is kept as it is: digits, the order of names, names that occur twice, escapes. What is refused: text that is not
//! JSON, an escape that is half of a surrogate pair, nesting deeper than [`MAX_DEPTH`]. No number is refused for its range.
//!
//! [`Objects`] reads typed values: a JSON array is never taken for an object.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

mod objects;
mod pretty;
mod scan;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::scan::Scanner;
#[cfg(test)]
pub(crate) use self::tests::spelled;
pub use self::{
    objects::Objects,
    pretty::pretty,
    scan::{Invalid, MAX_DEPTH, MAX_RESULT_DEPTH},
};

/// A JSON value as compact text.
#[derive(Clone)]
pub struct Json(Box<RawValue>);

/// Checks a text and removes its insignificant white space. Without white space to remove, the text is borrowed.
///
/// # Errors
/// When the text is not JSON, is nested deeper than [`MAX_DEPTH`], or has half of a surrogate pair.
pub fn compact(text: &str) -> Result<Cow<'_, str>, Invalid> {
    scan::compact(text, MAX_DEPTH)
}

/// The JSON value that a text is, in compact form; else the text as a JSON string.
pub fn embed(text: &str) -> Json {
    Json::parse(text).unwrap_or_else(|_| Json::from(text))
}

/// Reads a typed value. Where an object is expected, an array is refused.
///
/// # Errors
/// As `serde_json::from_slice`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes).map(|Objects(value)| value)
}

/// The text without a byte order mark, which RFC 8259 (section 8.1) permits to ignore.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

// === impl Json ===

impl Json {
    /// `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`compact()`].
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        compact(text).map(|text| Self::trusted(text.into_owned()))
    }

    /// Reads the result of a task. It is shown inside of other JSON, so it may not be nested as deep as that.
    ///
    /// # Errors
    /// As [`compact()`], with [`MAX_RESULT_DEPTH`] for the bound.
    pub fn result(text: &str) -> Result<Self, Invalid> {
        scan::compact(text, MAX_RESULT_DEPTH).map(|text| Self::trusted(text.into_owned()))
    }

    /// Keeps a text that is known to be JSON; [`compact()`] made it, or a serialiser.
    fn trusted(text: String) -> Self {
        Self(RawValue::from_string(text).expect("the text was checked or made by a serialiser"))
    }

    /// The JSON text of any value.
    ///
    /// # Errors
    /// When a map has keys that are not text, or the value itself refuses.
    pub fn of(value: &(impl Serialize + ?Sized)) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// True for `null`.
    pub fn is_null(&self) -> bool {
        self.get() == "null"
    }

    /// What a JSON string says; `None` for any other value.
    pub fn string(&self) -> Option<String> {
        if self.get().starts_with('"') { serde_json::from_str(self.get()).ok() } else { None }
    }

    /// The same as a tree. Numbers that the tree cannot hold are rounded, and those beyond its range are text.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.get()).unwrap_or_else(|_| Value::from(self.get()))
    }

    /// Reads it as a typed value, as [`from_slice`] does.
    ///
    /// # Errors
    /// When the value has another form.
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

/// Compares as trees.
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
        // Room for some escapes: a buffer that grows by doubling would take twice the memory of a large text.
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
