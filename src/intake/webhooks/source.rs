//! Values of a delivery: their location in the body or a header field, and how they are read. Pure.

use std::{collections::HashMap, fmt};

use serde_json::value::RawValue;

/// Location of a value in a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In the body: a JSON pointer (RFC 6901), and its parts.
    Pointer(String, Vec<String>),
    /// In a header field: `header:NAME`.
    Header(String),
}

/// Header fields of a delivery by their names in lower case; `None` if a field is missing or present twice.
pub type Headers<'a> = &'a dyn Fn(&str) -> Option<&'a [u8]>;

/// Why a delivery cannot be mapped to an event, with the missing value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unmapped(pub String);

// === impl Source ===

impl Source {
    /// Parses `/pointer` or `header:name`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("header:") {
            let name = name.parse::<http::HeaderName>().map_err(|_| format!("`{text}` is not a header field"))?;
            return Ok(Self::Header(name.as_str().to_owned()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("`{text}` must be a JSON pointer such as `/status`, or `header:NAME`"));
        };
        let part = |part: &str| {
            let plain = part.replace("~1", "").replace("~0", "");
            if plain.contains('~') {
                return Err(format!("`{text}` is not a JSON pointer: `~` is written `~0`, `/` in a name `~1`"));
            }
            Ok(part.replace("~1", "/").replace("~0", "~"))
        };
        Ok(Self::Pointer(text.to_owned(), rest.split('/').map(part).collect::<Result<_, _>>()?))
    }

    /// The JSON text at this location.
    pub(super) fn find(&self, headers: Headers<'_>, body: &RawValue) -> Result<Box<RawValue>, Unmapped> {
        match self {
            Self::Pointer(pointer, parts) => {
                let found = parts.iter().try_fold(body, |value, part| member(value, part));
                let nothing = || Unmapped(format!("there is nothing at `{pointer}` in the body"));
                found.map(RawValue::to_owned).ok_or_else(nothing)
            }
            Self::Header(name) => {
                let value = headers(name).and_then(|value| std::str::from_utf8(value).ok());
                let value = value.ok_or_else(|| Unmapped(format!("there is no header field `{name}` with a text")))?;
                Ok(serde_json::value::to_raw_value(value).expect("a text is JSON"))
            }
        }
    }

    /// The string, number or boolean at this location, as text.
    pub(super) fn text(&self, headers: Headers<'_>, body: &RawValue) -> Result<String, Unmapped> {
        let found = self.find(headers, body)?;
        let found = found.get();
        match found.as_bytes().first() {
            Some(b'"') => serde_json::from_str(found).map_err(|error| Unmapped(format!("{self}: {error}"))),
            Some(b'{' | b'[' | b'n') | None => {
                Err(Unmapped(format!("the value at {self} must be a text, a number, `true` or `false`")))
            }
            Some(_) => Ok(found.to_owned()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pointer(text, _) => write!(f, "`{text}`"),
            Self::Header(name) => write!(f, "`header:{name}`"),
        }
    }
}

/// A field of an object or an item of a list.
fn member<'a>(value: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'{' => serde_json::from_str::<HashMap<String, &RawValue>>(text).ok()?.remove(name),
        b'[' => {
            // As in RFC 6901: digits without leading zeros.
            let plain = name == "0" || (!name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit()));
            let index: usize = plain.then(|| name.parse().ok())??;
            serde_json::from_str::<Vec<&RawValue>>(text).ok()?.get(index).copied()
        }
        _ => None,
    }
}
