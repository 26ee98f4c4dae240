//! How many emitters of a shard hear a topic: counted at connect and leave, so that neither a publisher's answer nor the
//! question whether an event is worth waking the shard has to ask it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, RwLock},
};

use crate::{
    journal::Interest,
    topic::{Pattern, Topic},
};

/// Counts of one shard.
#[derive(Debug, Default)]
pub(super) struct Audience {
    counts: RwLock<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    exact: HashMap<Topic, Listeners>,
    prefixes: HashMap<Arc<str>, Listeners>,
    /// Lengths of the prefixes in use, and how many have each: a topic is looked up once per length.
    lengths: BTreeMap<usize, u64>,
}

/// Serial numbers of subscribed emitters.
type Listeners = HashSet<u64>;

// === impl Audience ===

impl Audience {
    pub(super) fn join(&self, emitter: u64, patterns: &[Pattern]) {
        self.write(|counts| patterns.iter().for_each(|pattern| counts.join(emitter, pattern)));
    }

    pub(super) fn leave(&self, emitter: u64, patterns: &[Pattern]) {
        self.write(|counts| patterns.iter().for_each(|pattern| counts.leave(emitter, pattern)));
    }

    /// Changes the patterns of an emitter. Patterns that it keeps stay registered throughout.
    pub(super) fn change(&self, emitter: u64, before: &[Pattern], after: &[Pattern]) {
        self.write(|counts| {
            after.iter().for_each(|pattern| counts.join(emitter, pattern));
            let gone = before.iter().filter(|pattern| !after.contains(pattern));
            gone.for_each(|pattern| counts.leave(emitter, pattern));
        });
    }

    /// Number of emitters that are subscribed to at least one of these topics.
    pub(super) fn count(&self, topics: &[Topic]) -> u64 {
        let counts = self.counts.read().expect("no code that holds the lock panics");
        let mut listeners: Vec<&Listeners> = Vec::new();
        for topic in topics {
            listeners.extend(counts.hearing(topic));
        }
        match listeners.as_slice() {
            [] => 0,
            [one] => one.len() as u64,
            many => many.iter().flat_map(|listeners| listeners.iter()).collect::<HashSet<_>>().len() as u64,
        }
    }

    fn write(&self, work: impl FnOnce(&mut Counts)) {
        work(&mut self.counts.write().expect("no code that holds the lock panics"));
    }

    /// Adds the topics and patterns that somebody hears.
    pub(super) fn topics(&self, into: &mut HashSet<Pattern>) {
        let counts = self.counts.read().expect("no code that holds the lock panics");
        into.extend(counts.exact.keys().cloned().map(Pattern::Exact));
        into.extend(counts.prefixes.keys().cloned().map(Pattern::Prefix));
    }
}

// === impl Counts ===

impl Counts {
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
                if self.exact.get_mut(topic).is_some_and(|listeners| removed_last(listeners, emitter)) {
                    self.exact.remove(topic);
                }
            }
            Pattern::Prefix(prefix) => {
                let Some(listeners) = self.prefixes.get_mut(prefix).filter(|own| own.contains(&emitter)) else {
                    return;
                };
                if removed_last(listeners, emitter) {
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

    /// The emitters that are subscribed to a topic, by its name and by each prefix of it.
    fn hearing(&self, topic: &Topic) -> impl Iterator<Item = &Listeners> {
        let name = topic.as_str();
        let prefixes = self.lengths.keys().filter_map(move |length| name.get(..*length));
        self.exact.get(topic).into_iter().chain(prefixes.filter_map(|prefix| self.prefixes.get(prefix)))
    }
}

impl Interest for Audience {
    fn wants(&self, topics: &[Topic]) -> bool {
        let counts = self.counts.read().expect("no code that holds the lock panics");
        topics.iter().any(|topic| counts.hearing(topic).next().is_some())
    }
}

/// Removes an emitter; true if none is left.
fn removed_last(listeners: &mut Listeners, emitter: u64) -> bool {
    listeners.remove(&emitter);
    listeners.is_empty()
}
