//! The metadata of each event, by offset.
//!
//! There may be millions of events. Offsets are dense at the head and sparse at the tail. Small blocks cost as little as
//! an array where offsets are dense, and are freed one by one where they are sparse.

use std::{array, collections::BTreeMap, fmt, ops::Bound};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor},
};

use super::topics::TopicId;

/// Metadata of one event.
pub(super) struct IndexEntry {
    /// Monotonic time of the commit.
    pub timestamp: u64,
    /// Size in bytes, as retention counts it.
    pub size: u32,
    /// Number of topics that keep the event.
    pub kept_by: u8,
    /// Number of pinned topics that keep the event.
    pub pinned_by: u8,
    /// True if the event expires. Being a `bool`, it also makes an `Option` of the entry as small as the entry.
    expires: bool,
    pub topics: TopicSet,
    pub stored: Stored,
    /// Metadata that few events have.
    extra: Option<Box<Extra>>,
}

/// Where an adapter has stored a payload or the value of a record. The index keeps it, and uses only the length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Number of the file.
    pub segment: u32,
    /// Position of its first byte in the file.
    pub position: u32,
    /// Number of bytes.
    pub length: u32,
    /// Checksum of the bytes.
    pub checksum: u32,
}

/// Metadata that few events have.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    /// Monotonic time of its expiry.
    pub expires: Option<u64>,
    /// Hash of publisher and key, and hash of the content that a duplicate must have.
    pub key: Option<(u128, u128)>,
}

/// The ids of the topics of an event. The first one is the primary topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicSet {
    One(TopicId),
    Many(Box<[TopicId]>),
}

const BLOCK: usize = 16;
/// There may be millions of entries.
const _: () = assert!(size_of::<Option<IndexEntry>>() == 56);

/// The entries are separate, so that their allocation has no remainder.
struct Block {
    live: usize,
    entries: Box<[Option<IndexEntry>; BLOCK]>,
}

/// Index entries by offset.
#[derive(Default)]
pub(super) struct EventIndex {
    blocks: BTreeMap<u64, Block>,
    live: usize,
}

// === impl IndexEntry ===

impl IndexEntry {
    /// An entry that no topic keeps yet.
    pub(super) fn new(timestamp: u64, size: u32, topics: TopicSet, stored: Stored, extra: Extra) -> Self {
        let expires = extra.expires.is_some();
        let extra = (expires || extra.key.is_some()).then(|| Box::new(extra));
        Self { timestamp, size, kept_by: 0, pinned_by: 0, expires, topics, stored, extra }
    }

    pub(super) fn expires(&self) -> Option<u64> {
        self.extra.as_ref().filter(|_| self.expires)?.expires
    }

    /// Changes the time of its expiry, if it has one.
    pub(super) fn change_expiry(&mut self, change: impl FnOnce(u64) -> u64) {
        if let Some(expires) = self.extra.as_mut().and_then(|extra| extra.expires.as_mut()) {
            *expires = change(*expires);
        }
    }

    pub(super) fn key(&self) -> Option<(u128, u128)> {
        self.extra.as_ref()?.key
    }

    pub(super) fn expired(&self, now: u64) -> bool {
        self.expires().is_some_and(|at| at <= now)
    }
}

// === impl TopicSet ===

impl TopicSet {
    pub(crate) fn of(ids: &[TopicId]) -> Self {
        match ids {
            [one] => Self::One(*one),
            _ => Self::Many(ids.into()),
        }
    }

    pub(crate) fn ids(&self) -> &[TopicId] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// As a list of ids, without an allocation for a single one.
impl Serialize for TopicSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ids().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TopicSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = TopicSet;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of ids of topics")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<TopicSet, A::Error> {
                let first = ids.next_element()?;
                let Some(second) = ids.next_element()? else {
                    return Ok(first.map_or_else(|| TopicSet::of(&[]), TopicSet::One));
                };
                let mut all: Vec<TopicId> = first.into_iter().chain([second]).collect();
                while let Some(id) = ids.next_element()? {
                    all.push(id);
                }
                Ok(TopicSet::of(&all))
            }
        }
        deserializer.deserialize_seq(Ids)
    }
}

// === impl EventIndex ===

impl EventIndex {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn insert(&mut self, offset: u64, entry: IndexEntry) {
        let empty = || Block { live: 0, entries: Box::new(array::from_fn(|_| None)) };
        // Most entries belong to the last block, which needs no search.
        let number = block_of(offset);
        let is_last = self.blocks.last_key_value().is_some_and(|(last, _)| *last == number);
        let block = match self.blocks.last_entry().filter(|_| is_last) {
            Some(last) => last.into_mut(),
            None => self.blocks.entry(number).or_insert_with(empty),
        };
        if block.entries[slot(offset)].replace(entry).is_none() {
            block.live += 1;
            self.live += 1;
        }
    }

    /// Adds all entries of another index.
    pub(super) fn append(&mut self, other: Self) {
        for (number, block) in other.blocks {
            let entries = (number * BLOCK as u64..).zip(*block.entries);
            entries.for_each(|(offset, entry)| entry.into_iter().for_each(|entry| self.insert(offset, entry)));
        }
    }

    pub(super) fn get(&self, offset: u64) -> Option<&IndexEntry> {
        self.blocks.get(&(block_of(offset)))?.entries[slot(offset)].as_ref()
    }

    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut IndexEntry> {
        self.blocks.get_mut(&(block_of(offset)))?.entries[slot(offset)].as_mut()
    }

    /// All entries, in order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut IndexEntry> {
        self.blocks.values_mut().flat_map(|block| block.entries.iter_mut().flatten())
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.get(offset).is_some()
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<IndexEntry> {
        let block = self.blocks.get_mut(&(block_of(offset)))?;
        let entry = block.entries[slot(offset)].take()?;
        block.live -= 1;
        self.live -= 1;
        if block.live == 0 {
            self.blocks.remove(&(block_of(offset)));
        }
        Some(entry)
    }

    /// Changes or removes all entries in order, without other memory.
    pub(super) fn filter_map(mut self, mut change: impl FnMut(u64, IndexEntry) -> Option<IndexEntry>) -> Self {
        let mut live = 0;
        self.blocks.retain(|number, block| {
            block.live = 0;
            for (offset, entry) in (number * BLOCK as u64..).zip(block.entries.iter_mut()) {
                *entry = entry.take().and_then(|entry| change(offset, entry));
                block.live += usize::from(entry.is_some());
            }
            live += block.live;
            block.live > 0
        });
        Self { live, ..self }
    }

    /// Entries with a greater offset, in order. Clients choose `after`, so it may be any number.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &IndexEntry)> {
        let blocks = self.blocks.range((Bound::Included(block_of(after)), Bound::Unbounded));
        let entries = blocks.flat_map(|(number, block)| {
            let entries = (number * BLOCK as u64..).zip(block.entries.iter());
            entries.filter_map(|(offset, entry)| Some((offset, entry.as_ref()?)))
        });
        entries.skip_while(move |(offset, _)| *offset <= after)
    }

    /// Entries with a smaller offset, in descending order.
    pub(super) fn before(&self, below: u64) -> impl Iterator<Item = (u64, &IndexEntry)> {
        let blocks = self.blocks.range(..=block_of(below)).rev();
        let entries = blocks.flat_map(|(number, block)| {
            let first = number * BLOCK as u64;
            let entries = block.entries.iter().enumerate().rev();
            entries.filter_map(move |(slot, entry)| Some((first + slot as u64, entry.as_ref()?)))
        });
        entries.skip_while(move |(offset, _)| *offset >= below)
    }
}

fn block_of(offset: u64) -> u64 {
    offset / BLOCK as u64
}

fn slot(offset: u64) -> usize {
    usize::try_from(offset % BLOCK as u64).expect("less than a block")
}
