//! Bells: who is woken by a commit. A thread that nobody waits on for any of the committed events sleeps on: to wake it
//! costs more than to append the event. What nobody wanted it then passes over.

use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use tokio::sync::Notify;

use super::log::Planned;
use crate::topic::Topic;

/// Says whether anybody behind a tail waits for events of these topics.
///
/// Asked for each event by the thread that commits it, so it must be quick, must not block, and must not call the journal.
pub trait Interest: Send + Sync + 'static {
    /// True when an event in these topics is worth a wake.
    fn wants(&self, topics: &[Topic]) -> bool;
}

/// Wakes one tail.
pub struct Bell {
    /// `None`: all events are wanted.
    interest: Option<Arc<dyn Interest>>,
    state: Mutex<State>,
    notify: Notify,
}

/// ```text
///   pulled ... quiet ......... rung
///          |  nobody wanted  |  to be pulled
/// ```
struct State {
    /// The tail has pulled or passed over all up to here.
    pulled: u64,
    /// Nobody wanted what was committed from there up to here.
    quiet: u64,
    /// There is something up to here.
    rung: u64,
}

/// The bells of a journal.
#[derive(Default)]
pub(super) struct Bells(RwLock<Vec<Weak<Bell>>>);

/// Bells that a commit rings, once its events can be read.
#[must_use]
pub(super) struct Ringing(Vec<Arc<Bell>>);

// === impl Bell ===

impl Bell {
    /// A bell for a tail that stands at `after`.
    pub(super) fn new(after: u64, interest: Option<Arc<dyn Interest>>) -> Arc<Self> {
        let state = Mutex::new(State { pulled: after, quiet: after, rung: after });
        Arc::new(Self { interest, state, notify: Notify::new() })
    }

    /// Says that there is something up to `head`, and that nothing before it may be passed over.
    pub(super) fn ring(&self, head: u64) {
        let mut state = self.state();
        state.quiet = state.pulled;
        state.rung = state.rung.max(head);
        drop(state);
        self.notify.notify_one();
    }

    /// Lets the tail come up to `head`: but for what nobody has wanted so far, which it goes on to pass over.
    pub(super) fn wake(&self, head: u64) {
        let mut state = self.state();
        if state.rung <= state.pulled.max(state.quiet) {
            state.pulled = state.pulled.max(state.quiet);
        }
        state.quiet = state.pulled;
        // Told, and not heard of yet.
        let more = head > state.pulled;
        if more {
            state.rung = state.rung.max(head);
        }
        drop(state);
        if more {
            self.notify.notify_one();
        }
    }

    /// The tail has pulled all up to `through`.
    pub(super) fn stands(&self, through: u64) {
        let mut state = self.state();
        state.pulled = state.pulled.max(through);
    }

    /// Waits until there is something after `after`, where the tail stands, and answers after what to pull.
    pub(super) async fn after(&self, after: u64) -> u64 {
        loop {
            {
                let mut state = self.state();
                if state.rung > after {
                    state.pulled = state.pulled.max(state.quiet);
                    return state.pulled;
                }
            }
            self.notify.notified().await;
        }
    }

    /// Nothing up to here is pulled any more.
    pub(super) fn pulled(&self) -> u64 {
        self.state().pulled
    }

    /// True when there is something after `after`.
    pub(super) fn is_rung(&self, after: u64) -> bool {
        self.state().rung > after
    }

    /// Takes note of a commit; true when the tail is to be woken.
    fn hears(&self, events: &[Planned], head: u64) -> bool {
        let wanted = |interest: &Arc<dyn Interest>| events.iter().any(|it| interest.wants(&it.event.topics));
        let wanted = self.interest.as_ref().is_none_or(wanted);
        let mut state = self.state();
        if wanted {
            state.rung = state.rung.max(head);
        } else if state.rung <= state.pulled.max(state.quiet) {
            state.quiet = state.quiet.max(head);
        }
        wanted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds the lock panics")
    }
}

// === impl Bells ===

impl Bells {
    /// From now on it is rung.
    pub(super) fn add(&self, bell: &Arc<Bell>) {
        let mut bells = self.0.write().expect("no code that holds the lock panics");
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(bell));
    }

    /// Wakes all tails, where nobody knows which events there are.
    pub(super) fn ring_all(&self, head: u64) {
        let bells = self.0.read().expect("no code that holds the lock panics");
        bells.iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring(head));
    }

    /// To be called for each commit, in the order of commits: a tail passes over what it is not told of.
    pub(super) fn committed(&self, events: &[Planned], head: u64) -> Ringing {
        let bells = self.0.read().expect("no code that holds the lock panics");
        let bells = bells.iter().filter_map(Weak::upgrade);
        Ringing(bells.filter(|bell| !events.is_empty() && bell.hears(events, head)).collect())
    }
}

// === impl Ringing ===

impl Ringing {
    /// Wakes the tails.
    pub(super) fn ring(self) {
        self.0.iter().for_each(|bell| bell.notify.notify_one());
    }
}
