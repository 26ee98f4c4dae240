//! Access: authentication of callers, and their rights.
//!
//! ```text
//!  token ───> Tokens | Verifier (JWT) ─┐
//!  ticket ──> Tickets ─────────────────┼──> Identity { user, groups, rights, meta } ──> check   ──> the handler
//!  cookie ──> Seal (session) ──────────┘
//! ```
//!
//! Owns the callers ([`Identity`]), their [`Rights`] and their [`limits`]; does not depend on HTTP. In open mode every
//! caller may do everything, and a token only names the user.
//!
//! A static token is stored as its SHA-256. A JWT is not stored. A ticket opens one stream within seconds. Its client
//! reconnects with a session, which is signed with a key in the journal.

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
    /// `open`: every caller may do everything; meant for loopback. `token`: every request needs a credential.
    pub mode: Mode,
    /// Permits `mode = "open"` on an address that other machines can reach.
    pub allow_open: bool,
    /// `[[access.tokens]]`: static tokens. Read again on SIGHUP.
    pub tokens: Vec<TokenConfig>,
    /// `[access.jwt]`: tokens of another issuer.
    pub jwt: Option<jwt::Config>,
    /// Lifetime of an unused ticket in milliseconds.
    pub ticket_ms: u64,
    /// Time in milliseconds during which a client that came with a ticket may reconnect with its cookie. It ends
    /// earlier if the token that issued the ticket expires.
    pub session_ms: u64,
}

/// How callers are authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every caller may do everything.
    #[default]
    Open,
    /// Tokens, tickets and cookies identify the caller and its rights.
    Token,
}

/// Why a credential is not accepted. The texts are for the client and reveal nothing that it could not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The credential is unknown.
    #[error("the token is not known here")]
    Unknown,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// The token has a wrong audience, issuer, algorithm or form; the reason.
    #[error("the token is not acceptable: {0}")]
    Unacceptable(String),
    /// The ticket was used or has expired.
    #[error("the ticket was used or has expired; get a new one with POST /api/tickets")]
    Ticket,
    /// The keys that check the token are not available now.
    #[error("the token cannot be checked now: {0}")]
    Unavailable(String),
}

/// Authenticates callers. Cheap to clone.
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

/// Maximum lifetime that a setting may have, in milliseconds: a year.
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
    /// Checks rules that the types do not express.
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
                "`access.mode` = `token` permits no caller: there is neither a token in `[[access.tokens]]` (make \
                        one with `millstream token make`) nor `[access.jwt]`"
                    .into(),
            );
        }
        if self.mode == Mode::Open && (!self.tokens.is_empty() || self.jwt.is_some()) {
            return Err("`access.mode` = `open` permits every caller, but there are tokens or `[access.jwt]`: set \
                        `mode = \"token\"` in `[access]`, or remove them"
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
    /// Callers as the settings define them. Remote keys are fetched when the first token needs one.
    ///
    ///
    /// # Errors
    /// Names the wrong key of the settings: a file or a variable cannot be read.
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

    /// How callers are authenticated.
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// The caller of a token.
    ///
    /// # Errors
    /// If the token is not valid, or cannot be checked now.
    pub async fn identify(&self, token: &str) -> Result<Identity, Refused> {
        if token.is_empty() {
            return Err(Refused::Unknown);
        }
        if let Some(identity) = self.inner.tokens.find(token) {
            return Ok(identity);
        }
        match &self.inner.jwt {
            // The library accepts a token until the end of the second in which it expires.
            Some(jwt) if jwt::has_jwt_form(token) => self.current(jwt.verify(token).await?),
            _ => Err(Refused::Unknown),
        }
    }

    /// Makes a ticket; its holder can open one stream as this caller.
    ///
    /// # Errors
    /// If there are too many unused tickets.
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
    /// If the ticket was used, has expired, or was never issued.
    pub fn redeem(&self, ticket: &str) -> Result<Identity, Refused> {
        self.inner.tickets.redeem(ticket).and_then(|identity| self.current(identity))
    }

    /// A session for a client that came with this ticket: its text and lifetime.
    ///
    /// # Errors
    /// When the journal, which has the key, is not available.
    pub async fn seal(&self, identity: &Identity, ticket: &str) -> Result<(String, Duration), journal::Unavailable> {
        self.inner.seal.seal(identity, ticket, &self.inner.issuer()).await
    }

    /// The caller of a session. A session is accepted only together with a ticket of the same user: all pages of a
    /// browser share one session cookie, and one user's stream must not appear at another user's URL.
    ///
    /// # Errors
    /// If this node did not issue the session, it has expired, belongs to another user, or its token was removed.
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

    /// Replaces the static tokens. Callers with a removed or changed token lose their identity; returns the names of
    /// these tokens.
    pub fn reload(&self, tokens: &[TokenConfig]) -> Vec<String> {
        self.inner.tokens.replace(tokens)
    }
}

// === impl Inner ===

impl Inner {
    /// The authority of sessions without a static token. A change of the mode or of the JWT issuer ends these sessions.
    fn issuer(&self) -> String {
        match (self.mode, &self.jwt) {
            (Mode::Open, _) => "open".into(),
            (Mode::Token, Some(jwt)) => jwt.fingerprint().into(),
            (Mode::Token, None) => String::new(),
        }
    }
}
