//! `millstream::sse` as it stands in the main package, put together from its files.
#![allow(dead_code, unused_imports, reason = "the target uses a part of it")]

#[path = "../src/sse/decode.rs"]
mod decode;
#[path = "../src/sse/encode.rs"]
mod encode;

pub use self::{
    decode::{Decoder, Error as DecodeError, Item, Limits},
    encode::Frame,
};
