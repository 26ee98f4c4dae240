//! Publishers' own ids: which event each one stands for, for as long as it is remembered.
//!
//! Keys are known by their hashes alone: 128 bits of SHA-256, so nobody can make two that meet.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::{event::Draft, topic::Topic};

/// The keys in force. Bounded by the events that are kept: an event that goes takes its key along.
///
/// `expiring` is not told when an event goes; its husks are cleared away when they are the greater part.
#[derive(Default)]
pub(super) struct Dedupe {
    offsets: HashMap<u128, u64>,
    /// In order of expiry, since `dedupe_ms` is one value.
    expiring: VecDeque<(u64, u128, u64)>,
}

/// So many husks are not worth a pass.
const HUSKS: usize = 1024;

// === impl Dedupe ===

impl Dedupe {
    /// Keys in force.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn find(&self, key: u128) -> Option<u64> {
        self.offsets.get(&key).copied()
    }

    pub(super) fn remember(&mut self, key: u128, offset: u64, until: u64) {
        self.offsets.insert(key, offset);
        self.expiring.push_back((until, key, offset));
        if self.expiring.len() > 2 * self.offsets.len() + HUSKS {
            let offsets = &self.offsets;
            self.expiring.retain(|(_, key, offset)| offsets.get(key) == Some(offset));
        }
    }

    pub(super) fn forget(&mut self, key: u128, offset: u64) {
        if self.offsets.get(&key) == Some(&offset) {
            self.offsets.remove(&key);
        }
    }

    pub(super) fn expire(&mut self, now: u64) {
        while let Some((_, key, offset)) = self.expiring.pop_front_if(|(until, ..)| *until <= now) {
            self.forget(key, offset);
        }
    }
}

/// Two hashes of a draft with a key: the identity of the key (publisher, first topic, key), and the content that a
/// repeat must have in common with the first event.
pub(crate) fn hashes(draft: &Draft) -> Option<(u128, u128)> {
    let key = draft.key.as_deref()?;
    let mut name = Hash::default();
    name.text(&draft.publisher).text(draft.topics.first().map_or("", Topic::as_str)).text(key);
    let mut content = Hash::default();
    content.number(draft.topics.len() as u64);
    for topic in &draft.topics {
        content.text(topic.as_str());
    }
    content.text(&draft.event).text(&draft.data);
    content.optional(draft.retry).optional(draft.ttl_ms);
    content.maybe(draft.comment.as_deref()).maybe(draft.origin.as_deref());
    let filter = draft.filter.as_ref().map(|filter| serde_json::to_string(filter).unwrap_or_default());
    content.maybe(filter.as_deref());
    Some((name.finish(), content.finish()))
}

/// Takes fields so that no two sequences of them look the same.
#[derive(Default)]
struct Hash(Sha256);

// === impl Hash ===

impl Hash {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).0.update(text);
        self
    }

    fn optional(&mut self, number: Option<u64>) -> &mut Self {
        self.number(u64::from(number.is_some())).number(number.unwrap_or(0))
    }

    fn maybe(&mut self, text: Option<&str>) -> &mut Self {
        self.number(u64::from(text.is_some())).text(text.unwrap_or(""))
    }

    fn finish(self) -> u128 {
        let digest: [u8; 32] = self.0.finalize().into();
        u128::from_le_bytes(*digest.first_chunk().expect("32 bytes begin with 16"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a key that lives long would hold all the short-lived ones behind it.
    #[test]
    fn keys_of_events_that_are_gone_hold_no_memory() {
        let mut dedupe = Dedupe::default();
        dedupe.remember(0, 0, 1000);
        for offset in 1..100_000 {
            dedupe.remember(offset.into(), offset, 1000);
            dedupe.forget(offset.into(), offset);
        }
        assert_eq!(dedupe.offsets.len(), 1);
        assert!(dedupe.expiring.len() <= HUSKS + 3, "{} husks", dedupe.expiring.len());
        dedupe.expire(1000);
        assert_eq!((dedupe.offsets.len(), dedupe.expiring.len()), (0, 0));
    }
}
