//! One-time tickets, for clients that cannot send header fields, such as `EventSource`. They are in memory: a ticket
//! lives for seconds.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{Identity, Refused};

/// Maximum number of unused tickets, and maximum number of one user.
const MAX: usize = 10_000;
const MAX_OF_USER: usize = 100;

/// There are too many unused tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The user has too many unused tickets.
    #[error("{MAX_OF_USER} tickets of this user wait for their use; use them, or wait until they expire")]
    User,
    /// The node has too many unused tickets.
    #[error("{MAX} tickets wait for their use; try again when some have expired")]
    Node,
}

/// The unused tickets.
pub(super) struct Tickets {
    life: Duration,
    waiting: Mutex<HashMap<String, (Identity, Instant)>>,
}

/// A tag that all tickets of one user share. It distinguishes the sessions of different users. A ticket is a secret of
/// its user, so it may reveal the user.
fn tag(identity: &Identity) -> String {
    let user = identity.user.as_deref().unwrap_or_default();
    URL_SAFE_NO_PAD.encode(&Sha256::digest(user)[..9])
}

// === impl Tickets ===

impl Tickets {
    pub(super) fn new(life: Duration) -> Self {
        Self { life, waiting: Mutex::default() }
    }

    /// The text of a new ticket, and its lifetime.
    pub(super) fn issue(&self, identity: &Identity) -> Result<(String, Duration), Full> {
        let mut waiting = self.waiting.lock().expect("no code that holds the lock panics");
        let now = Instant::now();
        // Both limits need a search of all tickets, so they are checked only if there are many.
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
        let ticket = format!("{}.{}", super::session::random_text(), tag(identity));
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
