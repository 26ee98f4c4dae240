//! Event ids of publishers: the event of each id, while it is remembered.
//!
//! Only hashes of the ids are stored: 128 bits of SHA-256, for which no collisions can be constructed.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::{event::Draft, topic::Topic};

/// The remembered keys. Their number is limited by the number of stored events: a key is removed with its event.
///
/// The entries of removed keys stay in `expiring` as tombstones. They are removed when they are the majority.
#[derive(Default)]
pub(super) struct Dedupe {
    offsets: HashMap<u128, u64>,
    /// In order of expiry, because `dedupe_ms` is one value for all.
    expiring: VecDeque<(u64, u128, u64)>,
}

/// Fewer tombstones are not removed: a pass would cost more.
const TOMBSTONES: usize = 1024;

// === impl Dedupe ===

impl Dedupe {
    /// Number of remembered keys.
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
        if self.expiring.len() > 2 * self.offsets.len() + TOMBSTONES {
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

/// Two hashes of a draft with a key: of the key itself (publisher, first topic, key), and of the content that a
/// duplicate must have.
pub(crate) fn hashes(draft: &Draft) -> Option<(u128, u128)> {
    let key = draft.key.as_deref()?;
    let mut name = FieldHasher::default();
    name.text(&draft.publisher).text(draft.topics.first().map_or("", Topic::as_str)).text(key);
    let mut content = FieldHasher::default();
    content.number(draft.topics.len() as u64);
    for topic in &draft.topics {
        content.text(topic.as_str());
    }
    content.text(&draft.event).text(&draft.data);
    content.optional_number(draft.retry).optional_number(draft.ttl_ms);
    content.optional_text(draft.comment.as_deref()).optional_text(draft.origin.as_deref());
    let filter = draft.filter.as_ref().map(|filter| serde_json::to_string(filter).unwrap_or_default());
    content.optional_text(filter.as_deref());
    Some((name.finish(), content.finish()))
}

/// Hashes fields with their lengths, so that different sequences of fields never give the same input.
#[derive(Default)]
struct FieldHasher(Sha256);

// === impl FieldHasher ===

impl FieldHasher {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).0.update(text);
        self
    }

    fn optional_number(&mut self, number: Option<u64>) -> &mut Self {
        self.number(u64::from(number.is_some())).number(number.unwrap_or(0))
    }

    fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
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

    /// A key that expires late must not hold the memory of others behind it.
    #[test]
    fn keys_of_deleted_events_hold_no_memory() {
        let mut dedupe = Dedupe::default();
        dedupe.remember(0, 0, 1000);
        for offset in 1..100_000 {
            dedupe.remember(offset.into(), offset, 1000);
            dedupe.forget(offset.into(), offset);
        }
        assert_eq!(dedupe.offsets.len(), 1);
        assert!(dedupe.expiring.len() <= TOMBSTONES + 3, "{} husks", dedupe.expiring.len());
        dedupe.expire(1000);
        assert_eq!((dedupe.offsets.len(), dedupe.expiring.len()), (0, 0));
    }
}
