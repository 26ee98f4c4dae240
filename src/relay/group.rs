//! Who shares an upstream: equal sources of any relays, read through one connection.
//!
//! Joining waits until the runner stands between two batches; leaving takes effect at once, and is over only when no
//! append that knew the member is in flight any more.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Turn, Notify};
use tokio_util::sync::CancellationToken;

use super::spec::PlannedSource;
use crate::{event::MAX_TOPICS_PER_EVENT, topic::Topic};

/// A source of a relay.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub relay: String,
    pub index: usize,
    pub label: String,
    pub topics: Vec<Topic>,
}

/// Those who share an upstream.
pub struct Group {
    pub planned: PlannedSource,
    roster: Mutex<Roster>,
    /// Held while an append is in flight.
    pub turn: Turn<()>,
    /// Somebody wants to join, or wants the connection anew.
    pub wake: Notify,
    /// The last member has left.
    pub over: CancellationToken,
}

#[derive(Default)]
struct Roster {
    /// They get what is read.
    members: Vec<Arc<Member>>,
    /// They wait for what the others got before.
    joining: Vec<Arc<Member>>,
    /// The connection is to be made anew.
    restart: bool,
    /// Nobody can join any more.
    closed: bool,
}

// === impl Group ===

impl Group {
    /// A group of these.
    pub fn new(planned: PlannedSource, members: Vec<Arc<Member>>) -> Self {
        Self {
            planned,
            roster: Mutex::new(Roster { members, ..Roster::default() }),
            turn: Turn::new(()),
            wake: Notify::new(),
            over: CancellationToken::new(),
        }
    }

    /// Those who get what is read.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.lock().members.clone()
    }

    /// Asks to join; false when there is no room in an event for its topics, or it is too late.
    pub fn join(&self, member: &Arc<Member>) -> bool {
        let mut roster = self.lock();
        if roster.closed || !roster.fits(member) {
            return false;
        }
        roster.joining.push(member.clone());
        self.wake.notify_one();
        true
    }

    /// Who is to join next.
    pub fn joiner(&self) -> Option<Arc<Member>> {
        self.lock().joining.first().cloned()
    }

    /// True while this one still wants to join.
    pub fn wants_in(&self, member: &Member) -> bool {
        self.lock().joining.iter().any(|joiner| **joiner == *member)
    }

    /// Ends the waiting of this one: as a member, or to find another place. False when it has left.
    pub fn admit(&self, member: &Arc<Member>, take: bool) -> bool {
        let mut roster = self.lock();
        let waiting = roster.joining.iter().position(|joiner| joiner == member);
        let Some(at) = waiting else { return false };
        roster.joining.remove(at);
        if take {
            roster.members.push(member.clone());
        }
        true
    }

    /// Which sources of this relay share the upstream, or are about to.
    pub fn sources_of(&self, relay: &str) -> Vec<usize> {
        self.lock().all().filter(|member| member.relay == relay).map(|member| member.index).collect()
    }

    /// Makes the connection anew, if this one shares it.
    pub fn restart(&self, relay: &str, index: usize) -> bool {
        let mut roster = self.lock();
        let has = !roster.closed && roster.all().any(|member| member.is(relay, index));
        roster.restart |= has;
        if has {
            self.wake.notify_one();
        }
        has
    }

    /// True once after [`restart`](Self::restart).
    pub fn take_restart(&self) -> bool {
        std::mem::take(&mut self.lock().restart)
    }

    /// Leaves; the last one ends the upstream. When this returns nothing is appended for it any more.
    pub async fn leave(&self, relay: &str, index: usize) {
        {
            let mut roster = self.lock();
            roster.members.retain(|member| !member.is(relay, index));
            roster.joining.retain(|member| !member.is(relay, index));
            if roster.members.is_empty() && roster.joining.is_empty() {
                roster.closed = true;
                self.over.cancel();
            }
        }
        drop(self.turn.lock().await);
    }

    /// Lets nobody join any more; who still waited must go elsewhere.
    pub fn close(&self) -> Vec<Arc<Member>> {
        let mut roster = self.lock();
        roster.closed = true;
        std::mem::take(&mut roster.joining)
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Roster ===

impl Roster {
    fn all(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().chain(&self.joining)
    }

    fn fits(&self, newcomer: &Member) -> bool {
        let topics: HashSet<&Topic> = self.all().flat_map(|member| &member.topics).chain(&newcomer.topics).collect();
        topics.len() <= MAX_TOPICS_PER_EVENT
    }
}

// === impl Member ===

impl Member {
    /// True for this source of this relay.
    pub fn is(&self, relay: &str, index: usize) -> bool {
        self.relay == relay && self.index == index
    }
}
