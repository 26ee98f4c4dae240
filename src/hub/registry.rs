//! The registry of a shard: the emitters that subscribe to a topic, and emitters by id. Pure; its keys are those of the
//! shard's slab.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use indexmap::IndexSet;

use crate::topic::{Pattern, Topic};

/// Key of an emitter in its shard.
pub(super) type Key = usize;

/// Emitters by pattern and by id.
#[derive(Default)]
pub(super) struct Registry {
    exact: HashMap<Topic, IndexSet<Key>>,
    prefixes: HashMap<Arc<str>, IndexSet<Key>>,
    /// Lengths of the prefixes, with the number of prefixes of each: a topic is looked up once per length, not once per
    /// pattern.
    lengths: BTreeMap<usize, usize>,
    ids: HashMap<Arc<str>, Key>,
}

// === impl Registry ===

impl Registry {
    /// Adds an emitter with these patterns.
    pub(super) fn add(&mut self, key: Key, patterns: &[Pattern]) {
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

    /// Removes an emitter with these patterns.
    pub(super) fn remove(&mut self, key: Key, patterns: &[Pattern]) {
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

    /// Calls `each` for every emitter that subscribes to the topic: once per emitter, if its patterns are [`disjoint`].
    pub(super) fn for_each_subscriber(&self, topic: &Topic, mut each: impl FnMut(Key)) {
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

    pub(super) fn add_id(&mut self, id: Arc<str>, key: Key) {
        self.ids.insert(id, key);
    }

    pub(super) fn remove_id(&mut self, id: &str) {
        self.ids.remove(id);
    }

    /// The emitter with this id.
    pub(super) fn find(&self, id: &str) -> Option<Key> {
        self.ids.get(id).copied()
    }
}

/// Removes each pattern that another pattern covers, so that no topic matches two patterns.
pub(super) fn disjoint(mut patterns: Vec<Pattern>) -> Vec<Pattern> {
    patterns.sort_unstable();
    patterns.dedup();
    // In the order of names, the names that a prefix covers follow directly after it, so one comparison decides. Clients may
    // name thousands of patterns: to compare all pairs would block the thread.
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

/// Removes the key; true if no key is left.
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

    fn subscribers(registry: &Registry, topic: &str) -> Vec<Key> {
        let mut keys = Vec::new();
        registry.for_each_subscriber(&Topic::new(topic).unwrap(), |key| keys.push(key));
        keys.sort_unstable();
        keys
    }

    #[test]
    fn topics_and_prefixes_find_their_emitters() {
        let mut registry = Registry::default();
        registry.add(1, &patterns(&["a", "order:*"]));
        registry.add(2, &patterns(&["order:7"]));
        registry.add(3, &patterns(&["*"]));
        assert_eq!(subscribers(&registry, "order:7"), [1, 2, 3]);
        assert_eq!(subscribers(&registry, "a"), [1, 3]);
        registry.remove(1, &patterns(&["a", "order:*"]));
        registry.remove(3, &patterns(&["*"]));
        assert_eq!(subscribers(&registry, "order:7"), [2]);
        assert_eq!(subscribers(&registry, "a"), Vec::<Key>::new());
        assert!(registry.lengths.is_empty() && registry.prefixes.is_empty());
    }

    /// The length of a prefix may end inside a character of another topic.
    #[test]
    fn prefixes_are_cut_at_character_borders() {
        let mut registry = Registry::default();
        registry.add(1, &patterns(&["é*", "x*"]));
        assert_eq!(subscribers(&registry, "éa"), [1]);
        assert_eq!(subscribers(&registry, "€"), Vec::<Key>::new());
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
