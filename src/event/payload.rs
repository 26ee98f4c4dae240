//! The payload of an event as its publisher sent it: a string goes as it is, anything else as compact JSON.
//!
//! The text is written while the body is read. To build a tree of values first cost a quarter of a small publish (25,000
//! of 86,000 instructions).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// The text of a payload.
pub(crate) struct Payload(pub(crate) String);

/// Writes what it is given as compact JSON.
struct Writer<'a>(&'a mut Vec<u8>);

// === impl Payload ===

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Whole)
    }
}

/// A payload as a whole: a string is not quoted.
struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = Payload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Payload, E> {
        Ok(Payload(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Payload, E> {
        Ok(Payload(text))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Payload, E> {
        written(|writer| writer.visit_bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Payload, E> {
        written(|writer| writer.visit_i64(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Payload, E> {
        written(|writer| writer.visit_u64(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Payload, E> {
        written(|writer| writer.visit_f64(value))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Payload, E> {
        written(|writer| writer.visit_unit())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Payload, A::Error> {
        written(|writer| writer.visit_seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Payload, A::Error> {
        written(|writer| writer.visit_map(fields))
    }
}

/// What a writer was given.
fn written<E: serde::de::Error>(write: impl FnOnce(Writer<'_>) -> Result<(), E>) -> Result<Payload, E> {
    let mut text = Vec::with_capacity(128);
    write(Writer(&mut text))?;
    String::from_utf8(text).map(Payload).map_err(E::custom)
}

// === impl Writer ===

impl Writer<'_> {
    fn put<E: serde::de::Error>(self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        serde_json::to_writer(self.0, value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Writer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Writer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.put(text)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        while items.next_element_seed(Writer(self.0))?.is_some() {
            self.0.push(b',');
        }
        close(self.0, b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        while fields.next_key_seed(Writer(self.0))?.is_some() {
            self.0.push(b':');
            fields.next_value_seed(Writer(self.0))?;
            self.0.push(b',');
        }
        close(self.0, b'}');
        Ok(())
    }
}

/// Ends a list, in place of the comma behind its last item.
fn close(text: &mut Vec<u8>, bracket: u8) {
    match text.last_mut() {
        Some(last @ b',') => *last = bracket,
        _ => text.push(bracket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(json: &str) -> String {
        serde_json::from_str::<Payload>(json).unwrap().0
    }

    #[test]
    fn a_string_goes_as_it_is_and_anything_else_as_compact_json() {
        assert_eq!(payload(r#" "a \"b\"\n\u00e9" "#), "a \"b\"\né");
        assert_eq!(payload(r#" { "a" : [ 1 , -2, 2.5 , true , null , "x\n," ] , "b" : { } , "c" : [ ] } "#), {
            r#"{"a":[1,-2,2.5,true,null,"x\n,"],"b":{},"c":[]}"#
        });
        for same in ["null", "true", "0", "-1", "18446744073709551615", "1.5", "[[],[{}]]", r#"{"":","}"#] {
            assert_eq!(payload(same), same);
        }
    }

    #[test]
    fn what_is_no_json_is_no_payload() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for wrong in ["", "[1,]", "{\"a\"}", "1e400", r#""\ud800""#, "[1] x", &deep] {
            assert!(serde_json::from_str::<Payload>(wrong).is_err(), "{wrong}");
        }
    }
}
