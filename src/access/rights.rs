//! The rights of a caller. Pure.

use serde::{Deserialize, Serialize};

use crate::topic::{Pattern, Topic};

/// The rights of a caller, in addition to its own topic, jobs and relays.
///
/// A pattern covers reserved topics (`user:`, `group:`, `job:`, …) like any other: `*` is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rights {
    /// Topics that the caller may publish into.
    pub publish: Vec<Pattern>,
    /// Topics that the caller may subscribe to.
    pub subscribe: Vec<Pattern>,
    /// True if the caller may submit jobs.
    pub jobs: bool,
    /// Remotes that the caller may use, for proxied and merged streams, relays and tasks; `*` for all.
    pub remotes: Vec<String>,
    /// True if the caller may do everything.
    pub admin: bool,
}

// === impl Rights ===

impl Rights {
    /// All rights.
    pub fn all() -> Self {
        Self { admin: true, ..Self::default() }
    }

    /// True if the caller may publish into this topic.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.admin || self.publish.iter().any(|pattern| pattern.matches(topic))
    }

    /// True if the caller may subscribe to all topics of this pattern.
    pub fn may_subscribe(&self, asked: &Pattern) -> bool {
        self.admin || self.subscribe.iter().any(|pattern| pattern.covers(asked))
    }

    /// True if the caller may use this remote.
    pub fn may_use(&self, remote: &str) -> bool {
        self.admin || self.remotes.iter().any(|known| known == "*" || known == remote)
    }

    /// True if the caller may submit jobs.
    pub fn may_submit(&self) -> bool {
        self.admin || self.jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
    }

    #[test]
    fn a_caller_may_subscribe_only_to_patterns_that_its_rights_cover() {
        let rights = Rights { subscribe: patterns(&["order:*", "news"]), ..Rights::default() };
        for covered in ["order:*", "order:7", "order:7*", "news"] {
            assert!(rights.may_subscribe(&Pattern::new(covered).unwrap()), "{covered}");
        }
        for other in ["*", "orde*", "news*", "new", "user:1"] {
            assert!(!rights.may_subscribe(&Pattern::new(other).unwrap()), "{other}");
        }
        assert!(!rights.may_publish(&Topic::new("news").unwrap()), "subscribing does not permit publishing");
    }

    #[test]
    fn nothing_is_permitted_by_default_and_everything_to_an_admin() {
        let (without, admin) = (Rights::default(), Rights::all());
        let topic = Topic::new("a").unwrap();
        for (rights, may) in [(without, false), (admin, true)] {
            assert_eq!(rights.may_publish(&topic), may);
            assert_eq!(rights.may_subscribe(&Pattern::any()), may);
            assert_eq!(rights.may_use("reactive"), may);
            assert_eq!(rights.may_submit(), may);
        }
    }
}
