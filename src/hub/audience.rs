//! The subscribers of each topic of a shard, for other threads.
//!
//! It is updated when an emitter starts, changes or ends. So two questions need no request to the shard: the number of
//! subscribers, which the publisher gets, and whether an event wakes the shard.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, RwLock},
};

use crate::{
    journal::Interest,
    topic::{Pattern, Topic},
};

/// The subscriptions of one shard.
#[derive(Debug, Default)]
pub(super) struct Audience {
    subscriptions: RwLock<Subscriptions>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    exact: HashMap<Topic, Serials>,
    prefixes: HashMap<Arc<str>, Serials>,
    /// Lengths of the prefixes, with the number of subscribers of each: a topic is looked up once per length.
    lengths: BTreeMap<usize, u64>,
}

/// Serial numbers of emitters.
type Serials = HashSet<u64>;

// === impl Audience ===

impl Audience {
    pub(super) fn join(&self, emitter: u64, patterns: &[Pattern]) {
        self.write(|subscriptions| patterns.iter().for_each(|pattern| subscriptions.join(emitter, pattern)));
    }

    pub(super) fn leave(&self, emitter: u64, patterns: &[Pattern]) {
        self.write(|subscriptions| patterns.iter().for_each(|pattern| subscriptions.leave(emitter, pattern)));
    }

    /// Changes the patterns of an emitter. Patterns that it keeps stay registered throughout.
    pub(super) fn change(&self, emitter: u64, before: &[Pattern], after: &[Pattern]) {
        self.write(|subscriptions| {
            after.iter().for_each(|pattern| subscriptions.join(emitter, pattern));
            let gone = before.iter().filter(|pattern| !after.contains(pattern));
            gone.for_each(|pattern| subscriptions.leave(emitter, pattern));
        });
    }

    /// Number of emitters that subscribe to at least one of these topics.
    pub(super) fn count(&self, topics: &[Topic]) -> u64 {
        let subscriptions = self.subscriptions.read().expect("no code that holds the lock panics");
        let mut serials: Vec<&Serials> = Vec::new();
        for topic in topics {
            serials.extend(subscriptions.subscribers(topic));
        }
        match serials.as_slice() {
            [] => 0,
            [one] => one.len() as u64,
            many => many.iter().flat_map(|serials| serials.iter()).collect::<HashSet<_>>().len() as u64,
        }
    }

    fn write(&self, work: impl FnOnce(&mut Subscriptions)) {
        work(&mut self.subscriptions.write().expect("no code that holds the lock panics"));
    }

    /// Adds the topics and patterns with at least one subscriber.
    pub(super) fn topics(&self, into: &mut HashSet<Pattern>) {
        let subscriptions = self.subscriptions.read().expect("no code that holds the lock panics");
        into.extend(subscriptions.exact.keys().cloned().map(Pattern::Exact));
        into.extend(subscriptions.prefixes.keys().cloned().map(Pattern::Prefix));
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    fn join(&mut self, emitter: u64, pattern: &Pattern) {
        match pattern {
            Pattern::Exact(topic) => {
                self.exact.entry(topic.clone()).or_default().insert(emitter);
            }
            Pattern::Prefix(prefix) => {
                if self.prefixes.entry(prefix.clone()).or_default().insert(emitter) {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
            }
        }
    }

    fn leave(&mut self, emitter: u64, pattern: &Pattern) {
        match pattern {
            Pattern::Exact(topic) => {
                if self.exact.get_mut(topic).is_some_and(|serials| removed_last(serials, emitter)) {
                    self.exact.remove(topic);
                }
            }
            Pattern::Prefix(prefix) => {
                let Some(serials) = self.prefixes.get_mut(prefix).filter(|own| own.contains(&emitter)) else {
                    return;
                };
                if removed_last(serials, emitter) {
                    self.prefixes.remove(prefix);
                }
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
        }
    }

    /// The subscribers of a topic, by its name and by each prefix of it.
    fn subscribers(&self, topic: &Topic) -> impl Iterator<Item = &Serials> {
        let name = topic.as_str();
        let prefixes = self.lengths.keys().filter_map(move |length| name.get(..*length));
        self.exact.get(topic).into_iter().chain(prefixes.filter_map(|prefix| self.prefixes.get(prefix)))
    }
}

impl Interest for Audience {
    fn wants(&self, topics: &[Topic]) -> bool {
        let subscriptions = self.subscriptions.read().expect("no code that holds the lock panics");
        topics.iter().any(|topic| subscriptions.subscribers(topic).next().is_some())
    }
}

/// Removes an emitter; true if no emitter is left.
fn removed_last(serials: &mut Serials, emitter: u64) -> bool {
    serials.remove(&emitter);
    serials.is_empty()
}
