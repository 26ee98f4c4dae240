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
    exact: HashMap<Topic, u64>,
    prefixes: HashMap<Arc<str>, u64>,
    /// Lengths of the prefixes in use, and how many have each: a topic is looked up once per length.
    lengths: BTreeMap<usize, u64>,
}

// === impl Audience ===

impl Audience {
    /// The patterns must not overlap ([`Pattern`]s of one emitter, see `registry::disjoint`), or it counts twice.
    pub(super) fn join(&self, patterns: &[Pattern]) {
        let mut counts = self.counts.write().expect("no code that holds the lock panics");
        for pattern in patterns {
            match pattern {
                Pattern::Exact(topic) => *counts.exact.entry(topic.clone()).or_default() += 1,
                Pattern::Prefix(prefix) => {
                    *counts.prefixes.entry(prefix.clone()).or_default() += 1;
                    *counts.lengths.entry(prefix.len()).or_default() += 1;
                }
            }
        }
    }

    pub(super) fn leave(&self, patterns: &[Pattern]) {
        let mut counts = self.counts.write().expect("no code that holds the lock panics");
        for pattern in patterns {
            match pattern {
                Pattern::Exact(topic) => decrement(counts.exact.get_mut(topic)).then(|| counts.exact.remove(topic)),
                Pattern::Prefix(prefix) => {
                    if decrement(counts.lengths.get_mut(&prefix.len())) {
                        counts.lengths.remove(&prefix.len());
                    }
                    decrement(counts.prefixes.get_mut(prefix)).then(|| counts.prefixes.remove(prefix))
                }
            };
        }
    }

    pub(super) fn count(&self, topic: &Topic) -> u64 {
        let counts = self.counts.read().expect("no code that holds the lock panics");
        let exact = counts.exact.get(topic).copied().unwrap_or(0);
        let name = topic.as_str();
        let prefixes = counts.lengths.keys().filter_map(|length| name.get(..*length));
        exact + prefixes.filter_map(|prefix| counts.prefixes.get(prefix)).sum::<u64>()
    }

    /// Adds the topics and patterns that somebody hears.
    pub(super) fn topics(&self, into: &mut HashSet<Pattern>) {
        let counts = self.counts.read().expect("no code that holds the lock panics");
        into.extend(counts.exact.keys().cloned().map(Pattern::Exact));
        into.extend(counts.prefixes.keys().cloned().map(Pattern::Prefix));
    }
}

impl Interest for Audience {
    fn wants(&self, topics: &[Topic]) -> bool {
        topics.iter().any(|topic| self.count(topic) > 0)
    }
}

/// Counts one less; true when nobody is left.
fn decrement(count: Option<&mut u64>) -> bool {
    count.is_some_and(|count| {
        *count -= 1;
        *count == 0
    })
}
