//! The parsers of the main package, included from their files. So only the parsers are built with instrumentation.
#![allow(dead_code, unused_imports, reason = "the targets use a part of it")]

#[path = "../../src/upstream/head.rs"]
pub mod head;
#[path = "../../src/access/jwt/header.rs"]
pub mod header;
#[path = "../laws/mod.rs"]
pub mod laws;
#[path = "../../src/intake/webhooks/signature.rs"]
pub mod signature;
#[path = "../../src/topic.rs"]
pub mod topic;

/// The parsers of `millstream::event`.
#[path = "../../src/event"]
pub mod event {
    mod filter;
    mod position;
    pub use self::{
        filter::{Filter, Meta, Refused, Subscriber, Undecided},
        position::Position,
    };
}

/// `millstream::sse`.
#[path = "../../src/sse"]
pub mod sse {
    mod decode;
    mod encode;
    pub use self::{
        decode::{Decoder, Error as DecodeError, Item, Limits},
        encode::Frame,
    };
}
