//! The format of segments: a header, then frames. One frame is one commit.
//!
//! ```text
//!  segment = header (144 bytes), frames, zeros or the end of the file
//!  header  = "MSSEG001", number u64, generation u64, epoch u64, first commit u64, chain u64, 11 values u64, checksum
//!  frame   = "MSFR", heads u32, bodies u32, check u32, commit u64, chain u64; heads; bodies; zeros to a multiple of 8
//!  heads   = changed values (number u8, difference i64), items (postcard)
//!  bodies  = the body of each item that has one, in the order of the items
//! ```
//!
//! Integers have a fixed size and are little endian, outside of postcard. Checksums are XXH3 with 64 bits; that of a
//! body is cut to 32 bits. The *chain* of a frame is the checksum of its first 24 bytes, seeded with the chain of the
//! frame before, then used as the seed for the checksum of its heads. So a frame is valid only after the frames that it
//! was written after: one that is stale, moved or skipped is not. The *check* is the lower half of the chain that the
//! frame would have after the chain 0 and with 0 as check. It is for a repair, which continues after a damaged frame.
//!
//! The first frame of a segment follows the chain and the values in the header, so each segment can be read alone. It
//! replaces the commits of earlier segments from its first commit on: a commit that was rejected, or that was lost with
//! the power, may still lie there.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::state::{FIELDS, JournalState};
use crate::journal::log::TopicSet;

/// Length of the header of a segment, in bytes.
pub(super) const HEADER_BYTES: usize = 48 + FIELDS * 8 + 8;
/// Length of a frame without heads and bodies, in bytes.
pub(super) const FRAME_BYTES: usize = 32;
const SEGMENT_MAGIC: &[u8; 8] = b"MSSEG001";
const FRAME_MAGIC: &[u8; 4] = b"MSFR";
const ALIGNMENT: usize = 8;
/// Memory that is kept for the next frame. A frame may have a value of 10 MiB.
pub(super) const KEPT_BYTES: usize = 1 << 20;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub number: u64,
    /// The copy of the data that the segment belongs to. Only the generation of the oldest segment counts: a copy is
    /// complete when `MARK` names its first segment as the oldest one.
    pub generation: u64,
    pub epoch: u64,
    /// Number of the commit in its first frame.
    pub first_commit: u64,
    /// Chain of the frame before its first one.
    pub chain: u64,
    /// The state after that frame.
    pub state: JournalState,
}

/// An item of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal::embedded) enum Item<'a> {
    /// An event, or an event of an earlier segment that was moved. The later one of an offset counts.
    Event {
        offset: u64,
        /// Size in bytes, as retention counts it.
        size: u32,
        topics: TopicSet,
        /// `None` if all its values are 0 or absent.
        extra: Option<Box<Extra>>,
        body: Body,
    },
    /// A topic, and the offset up to which its events were deleted. The later one of an id counts.
    Topic { id: u64, name: &'a str, trimmed_through: u64 },
    /// A topic that was removed.
    RemovedTopic { id: u64 },
    /// A record, or a record of an earlier segment that was moved. The later one of a key counts.
    Record { key: &'a str, revision: u64, body: Body },
    /// A record that was deleted.
    DeletedRecord { key: &'a str, revision: u64 },
}

/// Metadata that few events have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal::embedded) struct Extra {
    /// Timestamp of the commit minus that of the event, in milliseconds.
    pub age: i64,
    /// Time of its expiry.
    pub expires: Option<u64>,
    /// Hash of publisher and key, and hash of the content that a duplicate must have.
    pub key: Option<(u128, u128)>,
}

/// Length and checksum of the body of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal::embedded) struct Body {
    pub length: u32,
    /// In postcard four bytes, little endian.
    #[serde(with = "fixed")]
    pub checksum: u32,
}

/// A frame that is being prepared. Its memory is used again for the next one.
#[derive(Default)]
pub(in crate::journal::embedded) struct Draft {
    state: JournalState,
    adds_data: bool,
    items: usize,
    heads: Vec<u8>,
    bodies: Vec<u8>,
}

/// The frame at a position of a segment.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub commit: u64,
    pub chain: u64,
    pub state: JournalState,
    pub items: Vec<Item<'a>>,
    /// Distance from the beginning of the frame to its bodies.
    pub bodies_at: usize,
    pub length: usize,
    bytes: &'a [u8],
}

/// A number of a fixed size, because a checksum is rarely small.
mod fixed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        number.to_le_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        <[u8; 4]>::deserialize(deserializer).map(u32::from_le_bytes)
    }
}

// === impl Header ===

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let fields = [self.number, self.generation, self.epoch, self.first_commit, self.chain];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        for (part, field) in bytes[8..].chunks_exact_mut(8).zip(fields.iter().chain(self.state.values())) {
            part.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = xxh3_64(&bytes[..HEADER_BYTES - 8]);
        bytes[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let (content, checksum) = bytes.split_last_chunk()?;
        let mut state = JournalState::default();
        for (index, field) in state.values_mut().enumerate() {
            *field = u64_at(content, 48 + 8 * index)?;
        }
        let header = Self {
            number: u64_at(content, 8)?,
            generation: u64_at(content, 16)?,
            epoch: u64_at(content, 24)?,
            first_commit: u64_at(content, 32)?,
            chain: u64_at(content, 40)?,
            state,
        };
        let valid = content.starts_with(SEGMENT_MAGIC) && xxh3_64(content) == u64::from_le_bytes(*checksum);
        valid.then_some(header)
    }
}

// === impl Body ===

impl Body {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("a body is shorter than a segment");
        Self { length, checksum: checksum(bytes) }
    }

    pub(super) fn is_of(self, bytes: &[u8]) -> bool {
        self.length as usize == bytes.len() && self.checksum == checksum(bytes)
    }
}

// === impl Item ===

impl Item<'_> {
    pub(in crate::journal::embedded) fn body(&self) -> Option<Body> {
        match self {
            Self::Event { body, .. } | Self::Record { body, .. } => Some(*body),
            Self::Topic { .. } | Self::RemovedTopic { .. } | Self::DeletedRecord { .. } => None,
        }
    }
}

// === impl Draft ===

impl Draft {
    pub(super) fn adds_data(&self) -> bool {
        self.adds_data
    }

    /// Bytes of its items.
    pub(in crate::journal::embedded) fn bytes(&self) -> usize {
        self.heads.len() + self.bodies.len()
    }

    /// Begins a frame after which the values are these. A frame that only deletes may use spare space on a full disk.
    pub(in crate::journal::embedded) fn begin(&mut self, state: JournalState, adds_data: bool) {
        self.state = state;
        self.adds_data = adds_data;
        self.items = 0;
        for memory in [&mut self.heads, &mut self.bodies] {
            memory.clear();
            memory.shrink_to(KEPT_BYTES);
        }
    }

    /// Appends the bytes of a body. The item that it belongs to must be added next.
    pub(in crate::journal::embedded) fn body(&mut self, bytes: &[u8]) -> Body {
        self.bodies.extend_from_slice(bytes);
        Body::of(bytes)
    }

    /// Like [`body`](Self::body), for a value in postcard.
    pub(in crate::journal::embedded) fn encoded_body(&mut self, value: &impl Serialize) -> Body {
        let begins = self.bodies.len();
        self.bodies = append(value, std::mem::take(&mut self.bodies));
        Body::of(&self.bodies[begins..])
    }

    /// Like [`body`](Self::body), for bytes that were stored before with this checksum.
    pub(in crate::journal::embedded) fn stored_body(&mut self, bytes: &[u8], checksum: u32) -> Body {
        self.bodies.extend_from_slice(bytes);
        Body { length: u32::try_from(bytes.len()).expect("a body is shorter than a segment"), checksum }
    }

    pub(in crate::journal::embedded) fn add(&mut self, item: &Item<'_>) {
        self.items += 1;
        self.heads = append(item, std::mem::take(&mut self.heads));
    }

    pub(in crate::journal::embedded) fn state(&self) -> JournalState {
        self.state
    }

    /// An upper bound of the length of the frame.
    pub(super) fn max_length(&self) -> usize {
        const STATE_AND_COUNT: usize = FIELDS * 11 + 12;
        FRAME_BYTES + STATE_AND_COUNT + self.heads.len() + self.bodies.len() + ALIGNMENT
    }

    /// Writes the frame to `out`. Returns its chain, and the distance from its beginning to its bodies.
    pub(super) fn encode(&self, before: &JournalState, commit: u64, chain: u64, out: &mut Vec<u8>) -> (u64, usize) {
        out.clear();
        out.resize(FRAME_BYTES, 0);
        *out = append(&self.state.changes(before), std::mem::take(out));
        *out = append(&self.items, std::mem::take(out));
        out.extend_from_slice(&self.heads);
        let bodies_at = out.len();
        let length = |bytes: usize| u32::try_from(bytes).expect("a frame is shorter than a segment").to_le_bytes();
        out[..4].copy_from_slice(FRAME_MAGIC);
        out[4..8].copy_from_slice(&length(bodies_at - FRAME_BYTES));
        out[8..12].copy_from_slice(&length(self.bodies.len()));
        out[16..24].copy_from_slice(&commit.to_le_bytes());
        let check = check_of(&out[..24], &out[FRAME_BYTES..]);
        out[12..16].copy_from_slice(&check.to_le_bytes());
        let chain = chain_of(&out[..24], &out[FRAME_BYTES..], chain);
        out[24..32].copy_from_slice(&chain.to_le_bytes());
        out.extend_from_slice(&self.bodies);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        (chain, bodies_at)
    }
}

// === impl Frame ===

impl<'a> Frame<'a> {
    /// The length that the first bytes of a frame announce, which may have changed.
    pub(super) fn announced_length(bytes: &[u8]) -> Option<usize> {
        let head = bytes.get(..FRAME_BYTES)?;
        let (heads, bodies) = (u32_at(head, 4)? as usize, u32_at(head, 8)? as usize);
        head.starts_with(FRAME_MAGIC).then(|| (FRAME_BYTES + heads + bodies).next_multiple_of(ALIGNMENT))
    }

    /// Reads the frame at the beginning of `bytes`, with the commit after `commit`. It follows the frame with this
    /// chain, after which the values were `state`. `None` if the bytes are not that frame, which is also the normal end.
    /// Its bodies may have changed: see [`is_intact`](Self::is_intact).
    pub(super) fn decode(bytes: &'a [u8], commit: u64, chain: u64, state: &JournalState) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(FRAME_BYTES)?;
        let heads = rest.get(..u32_at(head, 4)? as usize)?;
        let valid = head.starts_with(FRAME_MAGIC)
            && u64_at(head, 16)? == commit + 1
            && u64_at(head, 24)? == chain_of(&head[..24], heads, chain);
        if valid { Self::parse(bytes, state) } else { None }
    }

    /// Reads the frame at the beginning of `bytes`, wherever it stands in the log.
    pub(super) fn decode_alone(bytes: &'a [u8], state: &JournalState) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(FRAME_BYTES)?;
        let heads = rest.get(..u32_at(head, 4)? as usize)?;
        let valid = head.starts_with(FRAME_MAGIC) && u32_at(head, 12)? == check_of(&head[..24], heads);
        if valid { Self::parse(bytes, state) } else { None }
    }

    fn parse(bytes: &'a [u8], state: &JournalState) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(FRAME_BYTES)?;
        let (heads, bodies) = (u32_at(head, 4)? as usize, u32_at(head, 8)? as usize);
        let bodies_at = FRAME_BYTES + heads;
        let length = (bodies_at + bodies).next_multiple_of(ALIGNMENT);
        let bytes = bytes.get(..length)?;
        let (changes, rest) = postcard::take_from_bytes::<Vec<(u8, i64)>>(&rest[..heads]).ok()?;
        let (count, mut rest) = postcard::take_from_bytes::<usize>(rest).ok()?;
        let mut items = Vec::with_capacity(count.min(heads));
        for _ in 0..count {
            let (item, after) = postcard::take_from_bytes(rest).ok()?;
            items.push(item);
            rest = after;
        }
        let sizes = items.iter().filter_map(Item::body).map(|body| body.length as usize);
        if !rest.is_empty() || sizes.sum::<usize>() != bodies {
            return None;
        }
        let (commit, chain, state) = (u64_at(head, 16)?, u64_at(head, 24)?, state.changed(&changes)?);
        Some(Self { commit, chain, state, items, bodies_at, length, bytes })
    }

    /// The bodies that have changed, each with its distance from the beginning of the frame.
    pub(super) fn damaged_bodies(&self) -> impl Iterator<Item = (Body, usize)> {
        let bodies = self.items_at().filter_map(|(item, begins)| Some((item.body()?, begins)));
        bodies.filter(|(body, begins)| !body.is_of(&self.bytes[*begins..*begins + body.length as usize]))
    }

    /// True if no body has changed.
    pub(super) fn is_intact(&self) -> bool {
        self.damaged_bodies().next().is_none()
    }

    /// The items, each with the distance from the beginning of the frame to its body.
    pub(super) fn items_at(&self) -> impl Iterator<Item = (&Item<'a>, usize)> {
        let mut position = self.bodies_at;
        self.items.iter().map(move |item| {
            let begins = position;
            position += item.body().map_or(0, |body| body.length as usize);
            (item, begins)
        })
    }
}

/// The chain of a frame; see the documentation of this file.
fn chain_of(head: &[u8], heads: &[u8], before: u64) -> u64 {
    xxh3_64_with_seed(heads, xxh3_64_with_seed(head, before))
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of a chain")]
fn check_of(head: &[u8], heads: &[u8]) -> u32 {
    let head = [&head[..12], &[0; 4], &head[16..24]].concat();
    chain_of(&head, heads, 0) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of a checksum")]
fn checksum(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}

fn append(value: &impl Serialize, to: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(value, to).expect("plain data in memory serialise")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
