//! What is known of each event without its payload, by offset.
//!
//! Offsets are dense at the head and full of holes at the tail, and there may be millions: so they are kept in small
//! blocks, which cost as little as an array where it is dense and go one by one where it is not.

use std::{array, collections::BTreeMap, ops::Bound};

use super::topics::TopicId;

/// An event and who still keeps it.
pub(super) struct Entry {
    /// Monotonic time of the commit.
    pub timestamp: u64,
    /// What it counts against bounds in bytes.
    pub size: u32,
    /// So many of its topics keep it.
    pub kept_by: u8,
    /// So many of them are pinned.
    pub pinned_by: u8,
    pub topics: TopicSet,
    /// What few events have.
    pub extra: Option<Box<Extra>>,
}

/// What few events have.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    /// Monotonic time of its expiry.
    pub expires: Option<u64>,
    /// Hash of publisher and key, and of all that must be the same in a repeat.
    pub key: Option<(u128, u128)>,
}

/// The topics that an event was published into, the first one being its home.
#[derive(Clone, Debug)]
pub(super) enum TopicSet {
    One(TopicId),
    Many(Box<[TopicId]>),
}

const BLOCK: usize = 16;

struct Block {
    live: usize,
    entries: [Option<Entry>; BLOCK],
}

/// Entries by offset.
#[derive(Default)]
pub(super) struct Entries {
    blocks: BTreeMap<u64, Box<Block>>,
    live: usize,
}

// === impl Entry ===

impl Entry {
    pub(super) fn expires(&self) -> Option<u64> {
        self.extra.as_ref()?.expires
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
    /// `None` for no topic at all.
    pub(super) fn new(ids: Vec<TopicId>) -> Option<Self> {
        match ids.as_slice() {
            [] => None,
            [one] => Some(Self::One(*one)),
            _ => Some(Self::Many(ids.into_boxed_slice())),
        }
    }

    pub(super) fn ids(&self) -> &[TopicId] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }

    /// Where the payload stands; the same as long as the event is kept by any topic.
    pub(super) fn home(&self) -> TopicId {
        self.ids()[0]
    }
}

// === impl Entries ===

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn insert(&mut self, offset: u64, entry: Entry) {
        let empty = || Box::new(Block { live: 0, entries: array::from_fn(|_| None) });
        let block = self.blocks.entry(block_of(offset)).or_insert_with(empty);
        if block.entries[place(offset)].replace(entry).is_none() {
            block.live += 1;
            self.live += 1;
        }
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Entry> {
        self.blocks.get(&(block_of(offset)))?.entries[place(offset)].as_ref()
    }

    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut Entry> {
        self.blocks.get_mut(&(block_of(offset)))?.entries[place(offset)].as_mut()
    }

    /// The entry with the greatest offset.
    pub(super) fn last(&self) -> Option<&Entry> {
        self.blocks.values().next_back()?.entries.iter().rev().find_map(Option::as_ref)
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.get(offset).is_some()
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Entry> {
        let block = self.blocks.get_mut(&(block_of(offset)))?;
        let entry = block.entries[place(offset)].take()?;
        block.live -= 1;
        self.live -= 1;
        if block.live == 0 {
            self.blocks.remove(&(block_of(offset)));
        }
        Some(entry)
    }

    /// Entries with a greater offset, in order, whatever a client made up for one.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let blocks = self.blocks.range((Bound::Included(block_of(after)), Bound::Unbounded));
        let entries = blocks.flat_map(|(number, block)| {
            let entries = (number * BLOCK as u64..).zip(&block.entries);
            entries.filter_map(|(offset, entry)| Some((offset, entry.as_ref()?)))
        });
        entries.skip_while(move |(offset, _)| *offset <= after)
    }

    /// Entries with a smaller offset, in descending order.
    pub(super) fn before(&self, below: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let blocks = self.blocks.range(..=block_of(below)).rev();
        let entries = blocks.flat_map(|(number, block)| {
            let first = number * BLOCK as u64;
            let entries = block.entries.iter().enumerate().rev();
            entries.filter_map(move |(place, entry)| Some((first + place as u64, entry.as_ref()?)))
        });
        entries.skip_while(move |(offset, _)| *offset >= below)
    }
}

fn block_of(offset: u64) -> u64 {
    offset / BLOCK as u64
}

fn place(offset: u64) -> usize {
    usize::try_from(offset % BLOCK as u64).expect("less than a block")
}
