//! Publishers' own ids: which event each one stands for, for as long as it is remembered.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::event::{Draft, Event};

type Key = (Arc<str>, Arc<str>);

/// The keys in force. Bounded by the events that are kept: an event that goes takes its key along.
///
/// `expiring` is not told when an event goes; its husks are cleared away when they are the greater part.
#[derive(Default)]
pub(super) struct Dedupe {
    offsets: HashMap<Key, u64>,
    /// In order of expiry, since `dedupe_ms` is one value.
    expiring: VecDeque<(u64, Key, u64)>,
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

    pub(super) fn find(&self, draft: &Draft) -> Option<u64> {
        let key = draft.key.as_deref()?;
        self.offsets.get(&(Arc::from(&*draft.publisher), Arc::from(key))).copied()
    }

    pub(super) fn remember(&mut self, event: &Event, until: u64) {
        let Some(key) = &event.key else { return };
        let key: Key = (Arc::from(&*event.publisher), Arc::from(&**key));
        self.offsets.insert(key.clone(), event.position.offset);
        self.expiring.push_back((until, key, event.position.offset));
        if self.expiring.len() > 2 * self.offsets.len() + HUSKS {
            let offsets = &self.offsets;
            self.expiring.retain(|(_, key, offset)| offsets.get(key) == Some(offset));
        }
    }

    pub(super) fn forget(&mut self, event: &Event) {
        if let Some(key) = &event.key {
            self.drop_if(&(Arc::from(&*event.publisher), Arc::from(&**key)), event.position.offset);
        }
    }

    pub(super) fn expire(&mut self, now: u64) {
        while let Some((_, key, offset)) = self.expiring.pop_front_if(|(until, ..)| *until <= now) {
            self.drop_if(&key, offset);
        }
    }

    fn drop_if(&mut self, key: &Key, offset: u64) {
        if self.offsets.get(key) == Some(&offset) {
            self.offsets.remove(key);
        }
    }
}

/// True when a repeated key also carries the same event.
pub(super) fn same(draft: &Draft, event: &Event) -> bool {
    *draft.topics == *event.topics
        && *draft.event == *event.event
        && *draft.data == *event.data
        && draft.retry == event.retry
        && draft.comment.as_deref() == event.comment.as_deref()
        && draft.filter == event.filter
        && draft.origin.as_deref() == event.origin.as_deref()
        && draft.ttl_ms.map(|ttl| event.timestamp.saturating_add(ttl)) == event.expires
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Position, topic::Topic};

    fn event(offset: u64) -> Event {
        let draft = Draft { key: Some(offset.to_string()), ..Draft::new(Topic::all(), "", "x") };
        draft.into_event(Position { epoch: 1, offset }, 0)
    }

    /// Else a key that lives long would hold all the short-lived ones behind it.
    #[test]
    fn keys_of_events_that_are_gone_hold_no_memory() {
        let mut dedupe = Dedupe::default();
        dedupe.remember(&event(0), 1000);
        for offset in 1..100_000 {
            dedupe.remember(&event(offset), 1000);
            dedupe.forget(&event(offset));
        }
        assert_eq!(dedupe.offsets.len(), 1);
        assert!(dedupe.expiring.len() <= HUSKS + 3, "{} husks", dedupe.expiring.len());
        dedupe.expire(1000);
        assert_eq!((dedupe.offsets.len(), dedupe.expiring.len()), (0, 0));
    }
}
