//! Rules for the fields of an event's data: taken from the delivery or constant, with defaults and renamed values. Pure.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;

use super::{
    config::{Field, FieldRule},
    source::{Headers, Source, Unmapped},
};
use crate::json::Json;

/// Matches all names or values that are not listed.
pub(super) const ANY: &str = "*";

/// The rule of one field.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Name of the field.
    pub name: String,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    Constant(Json),
    Delivery {
        source: Source,
        absent: Absent,
        /// Replacements of values, by their text.
        values: HashMap<String, Json>,
    },
}

/// The field if the delivery has no value.
#[derive(Clone, Debug)]
enum Absent {
    Refused,
    LeftOut,
    Default(Json),
}

/// Parses the fields of a section. An error names the setting below `key`.
pub(super) fn rules(key: &str, fields: &BTreeMap<String, Field>) -> Result<Vec<Rule>, (String, String)> {
    let rule = |(name, field): (&String, &Field)| {
        let from = From::new(field).map_err(|error| (format!("{key}.{name}"), error))?;
        Ok(Rule { name: name.clone(), from })
    };
    fields.iter().map(rule).collect()
}

// === impl Rule ===

impl Rule {
    /// The location of its value, if it is not a constant.
    pub(super) fn source(&self) -> Option<&Source> {
        if let From::Delivery { source, .. } = &self.from { Some(source) } else { None }
    }

    /// The value of the field; `None` if the field is omitted.
    pub(super) fn value(&self, headers: Headers<'_>, body: &RawValue) -> Result<Option<Box<RawValue>>, Unmapped> {
        let (source, absent, values) = match &self.from {
            From::Constant(value) => return Ok(Some(value.clone().into_raw())),
            From::Delivery { source, absent, values } => (source, absent, values),
        };
        let found = match (source.find(headers, body), absent) {
            (Ok(found), _) => found,
            (Err(_), Absent::LeftOut) => return Ok(None),
            (Err(_), Absent::Default(value)) => return Ok(Some(value.clone().into_raw())),
            (Err(unmapped), Absent::Refused) => return Err(unmapped),
        };
        if values.is_empty() {
            return Ok(Some(found));
        }
        let replaced = word(&found).and_then(|word| values.get(&word)).or_else(|| values.get(ANY));
        Ok(Some(replaced.map_or(found, |value| value.clone().into_raw())))
    }
}

/// The text of a string, number, boolean or `null`; `None` for lists and objects.
fn word(json: &RawValue) -> Option<String> {
    match json.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(json.get()).ok(),
        Some(b'{' | b'[') | None => None,
        Some(_) => Some(json.get().to_owned()),
    }
}

// === impl From ===

impl From {
    fn new(field: &Field) -> Result<Self, String> {
        let rule = match field {
            Field::From(location) => &FieldRule { from: Some(location.clone()), ..FieldRule::default() },
            Field::Rule(rule) => rule,
        };
        let FieldRule { value, from, optional, default, values } = rule;
        let location = match (value, from) {
            (Some(_), None) if *optional || default.is_some() || !values.is_empty() => {
                return Err("`optional`, `default` and `values` need `from` instead of `value`".into());
            }
            (Some(value), None) => return Ok(Self::Constant(value.clone().into())),
            (None, Some(location)) => location,
            _ => return Err("give either `from`, a location in the delivery, or `value`, a constant".into()),
        };
        let absent = match default {
            Some(_) if *optional => return Err("give `optional` or `default`, not both".into()),
            Some(value) => Absent::Default(value.clone().into()),
            None if *optional => Absent::LeftOut,
            None => Absent::Refused,
        };
        let values = values.iter().map(|(word, value)| (word.clone(), value.clone().into())).collect();
        Ok(Self::Delivery { source: Source::parse(location)?, absent, values })
    }
}
