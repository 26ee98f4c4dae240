//! Access: who is calling, and what each of them may do.
//!
//! ```text
//!  token, cookie, ticket ──> Handle ──> Identity { user, groups, rights, meta } ──> may it?  ──> the handler
//! ```
//!
//! Owns the callers ([`Identity`]), their [`Rights`] and their [`limits`]; knows nothing of HTTP. In open mode everybody may do everything
//! and a token merely names the user.

use serde::{Deserialize, Serialize};

mod identity;
pub mod limits;
mod rights;

pub use self::{identity::Identity, rights::Rights};

/// `[access]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `open`: everybody may do everything; meant for loopback.
    pub mode: Mode,
    /// Permits `mode = "open"` on an address that others can reach.
    pub allow_open: bool,
}

/// How access is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everybody may do everything.
    #[default]
    Open,
}
