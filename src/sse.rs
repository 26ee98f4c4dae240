//! The wire format of event streams: decoding and encoding. Pure, no I/O.
//!
//! Follows WHATWG HTML, section 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".

mod decode;
mod encode;

pub use self::{
    decode::{Decoder, Error as DecodeError, Item, Limits},
    encode::{Encoded, Frame, comment},
};

/// Media type of an event stream.
pub const MEDIA_TYPE: &str = "text/event-stream";
