//! One-time tickets: for clients that can send no header, such as `EventSource`. In memory: a ticket lives for seconds.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{Identity, Refused};

/// Most tickets that wait for their use, and most of one user.
const MAX: usize = 10_000;
const MAX_OF_USER: usize = 100;

/// Too many tickets wait for their use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The caller's own.
    #[error("{MAX_OF_USER} tickets of this user wait for their use; use them, or wait until they expire")]
    User,
    /// Everybody's.
    #[error("{MAX} tickets wait for their use; try again when some have expired")]
    Node,
}

/// The tickets that wait.
pub(super) struct Tickets {
    life: Duration,
    waiting: Mutex<HashMap<String, (Identity, Instant)>>,
}

/// The same for all tickets of one user: what tells a session of one user from that of another. A ticket is a secret of
/// its user, so it may well tell who that is.
fn mark(identity: &Identity) -> String {
    let user = identity.user.as_deref().unwrap_or_default();
    URL_SAFE_NO_PAD.encode(&Sha256::digest(user)[..9])
}

// === impl Tickets ===

impl Tickets {
    pub(super) fn new(life: Duration) -> Self {
        Self { life, waiting: Mutex::default() }
    }

    /// The text of a new ticket, and how long it may wait.
    pub(super) fn issue(&self, identity: &Identity) -> Result<(String, Duration), Full> {
        let mut waiting = self.waiting.lock().expect("no code that holds the lock panics");
        let now = Instant::now();
        // Both are looked at only here, and here only where there are many: to issue one is not to search them all.
        if waiting.len() >= MAX_OF_USER {
            waiting.retain(|_, (_, until)| *until > now);
            if waiting.len() >= MAX {
                return Err(Full::Node);
            }
            let own = waiting.values().filter(|(other, _)| other.user == identity.user).count();
            if own >= MAX_OF_USER {
                return Err(Full::User);
            }
        }
        let ticket = format!("{}.{}", super::session::random_text(), mark(identity));
        waiting.insert(ticket.clone(), (identity.clone(), now + self.life));
        Ok((ticket, self.life))
    }

    /// Returns the caller of the ticket; the ticket stays valid.
    pub(super) fn peek(&self, ticket: &str) -> Result<Identity, Refused> {
        let waiting = self.waiting.lock().expect("no code that holds the lock panics");
        match waiting.get(ticket) {
            Some((identity, until)) if *until > Instant::now() => Ok(identity.clone()),
            _ => Err(Refused::Ticket),
        }
    }

    /// Returns the caller of the ticket and invalidates the ticket.
    pub(super) fn redeem(&self, ticket: &str) -> Result<Identity, Refused> {
        let mut waiting = self.waiting.lock().expect("no code that holds the lock panics");
        let (identity, until) = waiting.remove(ticket).ok_or(Refused::Ticket)?;
        if until <= Instant::now() {
            return Err(Refused::Ticket);
        }
        Ok(identity)
    }
}
