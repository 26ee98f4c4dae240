//! Access: who is calling, and what each of them may do.
//!
//! ```text
//!  token ───> Tokens | Verifier (JWT) ─┐
//!  ticket ──> Tickets ─────────────────┼──> Identity { user, groups, rights, meta } ──> may it? ──> the handler
//!  cookie ──> Seal (session) ──────────┘
//! ```
//!
//! Owns the callers ([`Identity`]), their [`Rights`] and their [`limits`]; knows nothing of HTTP. In open mode everybody may do everything
//! and a token merely names the user.
//!
//! A static token is kept as its SHA-256, a JWT is not kept at all, and a ticket opens one stream within seconds; what its
//! client comes back with is a session, sealed with a key that lives in the journal.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{clock::Clock, journal, upstream};

mod identity;
mod jwks;
pub mod jwt;
pub mod limits;
mod rights;
mod session;
mod tickets;
mod tokens;

pub use self::{
    identity::Identity,
    rights::Rights,
    tickets::Full,
    tokens::{TokenConfig, digest},
};
use self::{session::Seal, tickets::Tickets, tokens::Tokens};

/// `[access]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `open`: everybody may do everything; meant for loopback. `token`: nobody does anything without a credential.
    pub mode: Mode,
    /// Permits `mode = "open"` on an address that others can reach.
    pub allow_open: bool,
    /// `[[access.tokens]]`: static tokens. Read again on SIGHUP.
    pub tokens: Vec<TokenConfig>,
    /// `[access.jwt]`: tokens that somebody else makes.
    pub jwt: Option<jwt::Config>,
    /// How long a ticket may wait for its use, in milliseconds.
    pub ticket_ms: u64,
    /// How long a client that came with a ticket may reconnect by its cookie, in milliseconds; no longer than the token
    /// lives that the ticket was made with.
    pub session_ms: u64,
}

/// How access is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everybody may do everything.
    #[default]
    Open,
    /// Tokens, tickets and cookies say who may do what.
    Token,
}

/// Why a credential is not accepted. The texts are for the client, and tell nothing that it could not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody knows it.
    #[error("the token is not known here")]
    Unknown,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// It will be good.
    #[error("the token is not valid yet")]
    NotYet,
    /// It was made for others, by others, or in a way that is not permitted.
    #[error("the token is not acceptable: {0}")]
    Unacceptable(String),
    /// It was used, or waited too long.
    #[error("the ticket was used or has expired; get a new one with POST /api/tickets")]
    Ticket,
    /// The keys that would decide are not to be had now.
    #[error("the token cannot be checked now: {0}")]
    Unavailable(String),
}

/// Tells callers from strangers. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    mode: Mode,
    tokens: Tokens,
    jwt: Option<jwt::Verifier>,
    tickets: Tickets,
    seal: Seal,
    clock: Clock,
}

/// Milliseconds of a lifetime that a setting may name: a year.
const LONGEST_MS: u64 = 366 * 24 * 60 * 60 * 1000;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Open,
            allow_open: false,
            tokens: Vec::new(),
            jwt: None,
            ticket_ms: 30_000,
            session_ms: 12 * 60 * 60 * 1000,
        }
    }
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), String> {
        tokens::check(&self.tokens)?;
        if let Some(jwt) = &self.jwt {
            jwt.check()?;
        }
        if self.mode == Mode::Token && self.tokens.is_empty() && self.jwt.is_none() {
            return Err(
                "`access.mode` = `token` lets nobody in: there is neither a token in `[[access.tokens]]` (make \
                        one with `millstream token make`) nor `[access.jwt]`"
                    .into(),
            );
        }
        if self.mode == Mode::Open && (!self.tokens.is_empty() || self.jwt.is_some()) {
            return Err("`access.mode` = `open` lets everybody in, and there are tokens or `[access.jwt]`: set \
                        `mode = \"token\"` in `[access]`, or take them out"
                .into());
        }
        for (key, ms) in [("ticket_ms", self.ticket_ms), ("session_ms", self.session_ms)] {
            if !(1000..=LONGEST_MS).contains(&ms) {
                return Err(format!("`access.{key}` = {ms} must be from 1000 to {LONGEST_MS}"));
            }
        }
        Ok(())
    }
}

// === impl Handle ===

impl Handle {
    /// Callers as these settings have them. Keys that are fetched are fetched with the first token that needs one.
    ///
    /// # Errors
    /// Names the key of the settings that is wrong: a file or a variable cannot be read.
    pub fn new(
        config: &Config,
        client: upstream::Client,
        journal: journal::Shared,
        clock: Clock,
    ) -> Result<Self, String> {
        let jwt = config.jwt.as_ref().map(|jwt| jwt::Verifier::new(jwt, client, clock.clone())).transpose()?;
        let inner = Inner {
            mode: config.mode,
            tokens: Tokens::new(&config.tokens),
            jwt,
            tickets: Tickets::new(Duration::from_millis(config.ticket_ms)),
            seal: Seal::new(journal, Duration::from_millis(config.session_ms), clock.clone()),
            clock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How access is decided.
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// When it is nobody's, or cannot be checked now.
    pub async fn identify(&self, token: &str) -> Result<Identity, Refused> {
        if token.is_empty() {
            return Err(Refused::Unknown);
        }
        if let Some(identity) = self.inner.tokens.find(token) {
            return Ok(identity);
        }
        match &self.inner.jwt {
            // The library lets a token live through the second in which it ends.
            Some(jwt) if jwt::looks_like_one(token) => self.current(jwt.verify(token).await?),
            _ => Err(Refused::Unknown),
        }
    }

    /// Makes a ticket with which whoever has it opens one stream as this caller.
    ///
    /// # Errors
    /// When too many wait for their use.
    pub fn issue(&self, identity: &Identity) -> Result<(String, Duration), Full> {
        self.inner.tickets.issue(identity)
    }

    /// Returns the caller of a ticket without using the ticket up.
    ///
    /// # Errors
    /// When the ticket was used, has expired, or was never issued.
    pub fn peek(&self, ticket: &str) -> Result<Identity, Refused> {
        self.inner.tickets.peek(ticket).and_then(|identity| self.current(identity))
    }

    /// Uses a ticket up.
    ///
    /// # Errors
    /// When it was used, has expired, or never was one.
    pub fn redeem(&self, ticket: &str) -> Result<Identity, Refused> {
        self.inner.tickets.redeem(ticket).and_then(|identity| self.current(identity))
    }

    /// A session for a client that came with this ticket: its text, and how long it is good.
    ///
    /// # Errors
    /// When the journal, which has the key, is not available.
    pub async fn seal(&self, identity: &Identity, ticket: &str) -> Result<(String, Duration), journal::Unavailable> {
        self.inner.seal.seal(identity, ticket, &self.inner.issuer()).await
    }

    /// Whose session it is. It is good beside a ticket of the same user alone: a browser has one, whoever opens pages in
    /// it, and must not show one user's stream at another's address.
    ///
    /// # Errors
    /// When it is none of this node's, or over, or of another user, or the token behind it is gone.
    pub async fn unseal(&self, session: &str, ticket: &str) -> Result<Identity, Refused> {
        let token = |name: &str, digest: &[u8; 32]| self.inner.tokens.named(name, digest);
        self.current(self.inner.seal.unseal(session, ticket, &self.inner.issuer(), token).await?)
    }

    /// Rejects an identity that has expired since the caller was identified.
    fn current(&self, identity: Identity) -> Result<Identity, Refused> {
        match identity.ended(&self.inner.clock) {
            true => Err(Refused::Expired),
            false => Ok(identity),
        }
    }

    /// Puts other static tokens in force. Who came with one that is gone or changed is no caller any more; answers their
    /// names.
    pub fn reload(&self, tokens: &[TokenConfig]) -> Vec<String> {
        self.inner.tokens.replace(tokens)
    }
}

// === impl Inner ===

impl Inner {
    /// Whoever is behind sessions that are not of a static token: who changes the mode or the issuer of JWTs ends them.
    fn issuer(&self) -> String {
        match (self.mode, &self.jwt) {
            (Mode::Open, _) => "open".into(),
            (Mode::Token, Some(jwt)) => jwt.fingerprint().into(),
            (Mode::Token, None) => String::new(),
        }
    }
}
