//! The registry of a shard: which emitters hear a topic. Pure; keys are those of the shard's slab.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use indexmap::IndexSet;

use crate::topic::{Pattern, Topic};

/// Key of an emitter in its shard.
pub(super) type Key = usize;

/// Emitters by what they hear and by id.
#[derive(Default)]
pub struct Registry {
    exact: HashMap<Topic, IndexSet<Key>>,
    prefixes: HashMap<Arc<str>, IndexSet<Key>>,
    /// Lengths of the prefixes in use: a topic is looked up once per length, not once per pattern.
    lengths: BTreeMap<usize, usize>,
    ids: HashMap<Arc<str>, Key>,
}

// === impl Registry ===

impl Registry {
    /// Puts an emitter where its patterns say.
    pub fn add(&mut self, key: Key, patterns: &[Pattern]) {
        for pattern in patterns {
            match pattern {
                Pattern::Exact(topic) => {
                    self.exact.entry(topic.clone()).or_default().insert(key);
                }
                Pattern::Prefix(prefix) => {
                    let keys = self.prefixes.entry(prefix.clone()).or_insert_with(|| {
                        *self.lengths.entry(prefix.len()).or_default() += 1;
                        IndexSet::new()
                    });
                    keys.insert(key);
                }
            }
        }
    }

    /// Takes an emitter out again.
    pub fn remove(&mut self, key: Key, patterns: &[Pattern]) {
        for pattern in patterns {
            match pattern {
                Pattern::Exact(topic) => {
                    if without(self.exact.get_mut(topic), key) {
                        self.exact.remove(topic);
                    }
                }
                Pattern::Prefix(prefix) => {
                    if without(self.prefixes.get_mut(prefix), key) {
                        self.prefixes.remove(prefix);
                        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                            *count -= 1;
                            if *count == 0 {
                                self.lengths.remove(&prefix.len());
                            }
                        }
                    }
                }
            }
        }
    }

    /// Calls `each` for every emitter that hears the topic. One emitter comes once as long as its patterns are
    /// [`disjoint`].
    pub fn hearing(&self, topic: &Topic, mut each: impl FnMut(Key)) {
        if let Some(keys) = self.exact.get(topic) {
            keys.iter().copied().for_each(&mut each);
        }
        let name = topic.as_str();
        for prefix in self.lengths.keys().filter_map(|length| name.get(..*length)) {
            if let Some(keys) = self.prefixes.get(prefix) {
                keys.iter().copied().for_each(&mut each);
            }
        }
    }

    pub(super) fn name(&mut self, id: Arc<str>, key: Key) {
        self.ids.insert(id, key);
    }

    pub(super) fn unname(&mut self, id: &str) {
        self.ids.remove(id);
    }

    pub(super) fn find(&self, id: &str) -> Option<Key> {
        self.ids.get(id).copied()
    }
}

/// Drops every pattern that another one covers, so that no topic matches two of them.
pub fn disjoint(mut patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.sort_unstable();
    patterns.dedup();
    // In the order of names all that a prefix covers follows right after it, so one look back decides. Clients may
    // name thousands: comparing each with each would hold the thread.
    let mut widest: Vec<Arc<str>> = Vec::new();
    for pattern in &patterns {
        if let Pattern::Prefix(prefix) = pattern
            && !widest.last().is_some_and(|wide| prefix.starts_with(&**wide))
        {
            widest.push(prefix.clone());
        }
    }
    let covered = |name: &str| {
        let after = widest.partition_point(|wide| **wide <= *name);
        after > 0 && name.starts_with(&*widest[after - 1])
    };
    patterns.retain(|pattern| match pattern {
        Pattern::Exact(topic) => !covered(topic.as_str()),
        Pattern::Prefix(prefix) => widest.binary_search(prefix).is_ok(),
    });
    patterns
}

/// Removes the key; true when nobody is left.
fn without(keys: Option<&mut IndexSet<Key>>, key: Key) -> bool {
    keys.is_some_and(|keys| {
        keys.swap_remove(&key);
        keys.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
    }

    fn hearing(registry: &Registry, topic: &str) -> Vec<Key> {
        let mut keys = Vec::new();
        registry.hearing(&Topic::new(topic).unwrap(), |key| keys.push(key));
        keys.sort_unstable();
        keys
    }

    #[test]
    fn topics_and_prefixes_find_their_emitters() {
        let mut registry = Registry::default();
        registry.add(1, &patterns(&["a", "order:*"]));
        registry.add(2, &patterns(&["order:7"]));
        registry.add(3, &patterns(&["*"]));
        assert_eq!(hearing(&registry, "order:7"), [1, 2, 3]);
        assert_eq!(hearing(&registry, "a"), [1, 3]);
        registry.remove(1, &patterns(&["a", "order:*"]));
        registry.remove(3, &patterns(&["*"]));
        assert_eq!(hearing(&registry, "order:7"), [2]);
        assert_eq!(hearing(&registry, "a"), Vec::<Key>::new());
        assert!(registry.lengths.is_empty() && registry.prefixes.is_empty());
    }

    /// A prefix may end inside a character of another topic.
    #[test]
    fn prefixes_are_cut_at_character_borders() {
        let mut registry = Registry::default();
        registry.add(1, &patterns(&["é*", "x*"]));
        assert_eq!(hearing(&registry, "éa"), [1]);
        assert_eq!(hearing(&registry, "€"), Vec::<Key>::new());
    }

    #[test]
    fn covered_patterns_are_dropped() {
        assert_eq!(disjoint(patterns(&["a", "a", "a*", "ab*", "b"])), patterns(&["b", "a*"]));
        assert_eq!(disjoint(patterns(&["a", "*", "b*"])), patterns(&["*"]));
        let mixed =
            patterns(&["order:7", "order:", "order", "orders", "order:*", "order:7*", "p*", "order:77:*", "o", "pa"]);
        assert_eq!(disjoint(mixed), patterns(&["o", "order", "orders", "order:*", "p*"]));
    }
}
