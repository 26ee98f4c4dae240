//! Reads structs only from JSON objects. Code derived by serde also accepts an array, in the order of the Rust fields.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor},
};

/// Reads `T`. Where a struct is expected, at any depth, only an object is accepted.
pub struct Objects<T>(pub T);

/// A deserializer that requests a map where a struct is expected. Nested deserializers are wrapped too.
struct Strict<D>(D);

/// A visitor that forwards values. Where a struct is expected, it accepts only a map.
struct Visit<V> {
    inner: V,
    object: bool,
}

/// The name that `serde_json` uses for a raw value. Its visitor needs the original deserializer.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Objects<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(Strict(deserializer)).map(Self)
    }
}

// === impl Strict ===

macro_rules! pass_on {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        }
    )*};
}

macro_rules! pass_on_wrapped {
    ($($method:ident($($name:ident: $type:ty),*)),*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($name,)* Visit { inner: visitor, object: false })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    pass_on!(
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128,
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_str,
        deserialize_string,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_unit,
        deserialize_identifier,
        deserialize_ignored_any
    );
    pass_on_wrapped!(
        deserialize_any(), deserialize_option(), deserialize_seq(), deserialize_map(),
        deserialize_unit_struct(name: &'static str), deserialize_tuple(len: usize),
        deserialize_tuple_struct(name: &'static str, len: usize),
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    );

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        if name == RAW_VALUE {
            return self.0.deserialize_newtype_struct(name, visitor);
        }
        self.0.deserialize_newtype_struct(name, Visit { inner: visitor, object: false })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Visit { inner: visitor, object: true })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

// === impl Visit ===

impl<V> Visit<V> {
    /// Rejects other values where an object is expected.
    fn other<E: Error>(&self, found: Unexpected<'_>) -> Result<(), E> {
        if self.object { Err(E::invalid_type(found, &"an object")) } else { Ok(()) }
    }
}

macro_rules! visit {
    ($($method:ident($type:ty) = |$value:ident| $found:expr;)*) => {$(
        fn $method<E: Error>(self, $value: $type) -> Result<V::Value, E> {
            self.other($found)?;
            self.inner.$method($value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visit<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object { f.write_str("an object") } else { self.inner.expecting(f) }
    }

    visit! {
        visit_bool(bool) = |value| Unexpected::Bool(value);
        visit_i64(i64) = |value| Unexpected::Signed(value);
        visit_i128(i128) = |value| Unexpected::Other("an integer");
        visit_u64(u64) = |value| Unexpected::Unsigned(value);
        visit_u128(u128) = |value| Unexpected::Other("an integer");
        visit_f64(f64) = |value| Unexpected::Float(value);
        visit_char(char) = |value| Unexpected::Char(value);
        visit_str(&str) = |value| Unexpected::Str(value);
        visit_borrowed_str(&'de str) = |value| Unexpected::Str(value);
        visit_string(String) = |value| Unexpected::Str(&value);
        visit_bytes(&[u8]) = |value| Unexpected::Bytes(value);
        visit_borrowed_bytes(&'de [u8]) = |value| Unexpected::Bytes(value);
        visit_byte_buf(Vec<u8>) = |value| Unexpected::Bytes(&value);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.other(Unexpected::Option)?;
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.other(Unexpected::Other("null"))?;
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Strict(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Strict(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.other(Unexpected::Other("an array"))?;
        self.inner.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Strict(fields))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Strict(data))
    }
}

// === nested values ===

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    // Names are strings, so that nothing needs to be wrapped.
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(seed).map(|(name, content)| (name, Strict(content)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Visit { inner: visitor, object: false })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Visit { inner: visitor, object: true })
    }
}
