//! Wakes tails after commits.
//!
//! A tail may have an [`Interest`]: its task then sleeps while commits contain only events that it does not want, because
//! a wake costs more than an append. The tail skips these events later, without reading them.

use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};

use tokio::sync::Notify;

use super::log::PlannedEvent;
use crate::topic::Topic;

/// Selects the events for which a tail is woken.
///
/// The thread that commits an event calls it. It must be quick, must not block, and must not call the journal.
pub trait Interest: Send + Sync + 'static {
    /// True if the tail must be woken for an event in these topics.
    fn wants(&self, topics: &[Topic]) -> bool;
}

/// Wakes one [`Tail`](super::Tail) when events can be read.
pub struct Notifier {
    /// `None`: all events are wanted.
    interest: Option<Arc<dyn Interest>>,
    state: Mutex<NotifierState>,
    notify: Notify,
}

/// Three offsets of a tail.
///
/// ```text
///   pulled .......... skippable .......... available
///          | unwanted           | to be pulled
/// ```
struct NotifierState {
    /// The tail has pulled or skipped all events up to here.
    pulled: u64,
    /// The events from `pulled` up to here are unwanted.
    skippable: u64,
    /// The tail was notified of events up to here.
    available: u64,
}

/// The notifiers of all tails of a journal.
#[derive(Default)]
pub(crate) struct Notifiers(RwLock<Vec<Weak<Notifier>>>);

/// The notifiers that a commit concerns. They are notified when the events of the commit can be read.
#[must_use]
pub(crate) struct PendingWakes(Vec<Arc<Notifier>>);

// === impl Notifier ===

impl Notifier {
    /// A notifier for a tail that has pulled all events up to `after`.
    pub(super) fn new(after: u64, interest: Option<Arc<dyn Interest>>) -> Arc<Self> {
        let state = Mutex::new(NotifierState { pulled: after, skippable: after, available: after });
        Arc::new(Self { interest, state, notify: Notify::new() })
    }

    /// Wakes the tail for the events up to `head`. None of them may be skipped.
    pub(super) fn notify(&self, head: u64) {
        let mut state = self.state();
        state.skippable = state.pulled;
        state.available = state.available.max(head);
        drop(state);
        self.notify.notify_one();
    }

    /// Wakes the tail for the events up to `head`. It still skips events that were unwanted when they were committed,
    /// unless it was notified of a later event.
    pub(super) fn wake(&self, head: u64) {
        let mut state = self.state();
        if state.available <= state.pulled.max(state.skippable) {
            state.pulled = state.pulled.max(state.skippable);
        }
        state.skippable = state.pulled;
        // False if all events up to `head` were pulled or skipped.
        let more = head > state.pulled;
        if more {
            state.available = state.available.max(head);
        }
        drop(state);
        if more {
            self.notify.notify_one();
        }
    }

    /// Records that the tail has pulled all events up to `through`.
    pub(super) fn advance(&self, through: u64) {
        let mut state = self.state();
        state.pulled = state.pulled.max(through);
    }

    /// Waits for events after `after`, the position of the tail. Returns the offset to pull after, which is later if
    /// unwanted events are skipped.
    pub(super) async fn next_start(&self, after: u64) -> u64 {
        loop {
            {
                let mut state = self.state();
                if state.available > after {
                    state.pulled = state.pulled.max(state.skippable);
                    return state.pulled;
                }
            }
            self.notify.notified().await;
        }
    }

    /// The tail will not pull events up to this offset again: it has pulled them, or will skip them.
    pub(super) fn pulled(&self) -> u64 {
        self.state().pulled
    }

    /// True if the tail was notified of events after `after`.
    pub(super) fn has_events_after(&self, after: u64) -> bool {
        self.state().available > after
    }

    /// Records a commit. Returns true if the tail must be woken.
    fn observe_commit(&self, events: &[PlannedEvent], head: u64) -> bool {
        let wanted = |interest: &Arc<dyn Interest>| events.iter().any(|it| interest.wants(&it.event.topics));
        let wanted = self.interest.as_ref().is_none_or(wanted);
        let mut state = self.state();
        if wanted {
            state.available = state.available.max(head);
        } else if state.available <= state.pulled.max(state.skippable) {
            state.skippable = state.skippable.max(head);
        }
        wanted
    }

    fn state(&self) -> MutexGuard<'_, NotifierState> {
        self.state.lock().expect("no code that holds the lock panics")
    }
}

// === impl Notifiers ===

impl Notifiers {
    /// Adds a notifier, until its tail is dropped.
    pub(super) fn add(&self, notifier: &Arc<Notifier>) {
        let mut notifiers = self.0.write().expect("no code that holds the lock panics");
        notifiers.retain(|notifier| notifier.strong_count() > 0);
        notifiers.push(Arc::downgrade(notifier));
    }

    /// Records a commit. Must be called for each commit, in commit order: a tail skips events of which it is not
    /// notified.
    pub(super) fn committed(&self, events: &[PlannedEvent], head: u64) -> PendingWakes {
        let notifiers = self.0.read().expect("no code that holds the lock panics");
        let notifiers = notifiers.iter().filter_map(Weak::upgrade);
        PendingWakes(notifiers.filter(|it| !events.is_empty() && it.observe_commit(events, head)).collect())
    }
}

// === impl PendingWakes ===

impl PendingWakes {
    /// Wakes the tails.
    pub(super) fn wake(self) {
        self.0.iter().for_each(|notifier| notifier.notify.notify_one());
    }
}
