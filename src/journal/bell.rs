//! Bells: who is woken by a commit. A thread that nobody waits on for any of the committed events sleeps on: to wake it
//! costs more than to append the event.

use std::sync::{
    Arc, RwLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use super::log::Planned;
use crate::topic::Topic;

/// Says whether anybody behind a tail waits for events of these topics.
///
/// Asked for each event by the thread that has committed it, so it must be quick, must not block, and must not call the
/// journal.
pub trait Interest: Send + Sync + 'static {
    /// True when an event in these topics is worth a wake.
    fn wants(&self, topics: &[Topic]) -> bool;
}

/// Wakes one tail.
pub struct Bell {
    /// `None`: all events are wanted.
    interest: Option<Arc<dyn Interest>>,
    /// There is something up to here.
    rung: AtomicU64,
    /// The tail has pulled up to here.
    pulled: AtomicU64,
    notify: Notify,
}

/// The bells of a journal.
#[derive(Default)]
pub struct Bells(RwLock<Vec<Weak<Bell>>>);

/// A tail is woken in any case when it is so many events behind: what it has to pass over then stays small.
const MOST_BEHIND: u64 = 256;

// === impl Bell ===

impl Bell {
    /// A bell for a tail that stands at `after`.
    pub(super) fn new(after: u64, interest: Option<Arc<dyn Interest>>) -> Arc<Self> {
        Arc::new(Self { interest, rung: AtomicU64::new(after), pulled: AtomicU64::new(after), notify: Notify::new() })
    }

    /// Says that there is something up to `head`.
    pub(super) fn ring(&self, head: u64) {
        self.rung.fetch_max(head, Ordering::Release);
        self.notify.notify_one();
    }

    /// Waits until there is something after `after`, which the tail has pulled.
    pub(super) async fn after(&self, after: u64) {
        self.pulled.store(after, Ordering::Relaxed);
        while !self.is_rung(after) {
            self.notify.notified().await;
        }
    }

    /// True when there is something after `after`.
    pub(super) fn is_rung(&self, after: u64) -> bool {
        self.rung.load(Ordering::Acquire) > after
    }

    fn concerns(&self, events: &[Planned], head: u64) -> bool {
        let Some(interest) = &self.interest else { return true };
        head - self.pulled.load(Ordering::Relaxed).min(head) >= MOST_BEHIND
            || events.iter().any(|planned| interest.wants(&planned.event.topics))
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

    /// To be called after each commit, when its events can be read up to `head`.
    pub(super) fn ring(&self, events: &[Planned], head: u64) {
        if events.is_empty() {
            return;
        }
        let bells = self.0.read().expect("no code that holds the lock panics");
        for bell in bells.iter().filter_map(Weak::upgrade) {
            if bell.concerns(events, head) {
                bell.ring(head);
            }
        }
    }
}
