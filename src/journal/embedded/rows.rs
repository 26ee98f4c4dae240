//! What stands on disk, row by row. Every row says its format and carries a checksum of its own: a damaged row is found
//! by whoever reads it, whatever the layers below let pass.
//!
//! ```text
//!  e <home> <offset>   an event; home is its first topic, so that a topic's history lies together
//!  i <offset>          what the index keeps of this event and those that follow it, within 256 offsets
//!  k <key>             revision and size of a record
//!  p <digest> <part>   part of a value larger than SINGLE: revision, size of the whole value, key, bytes of the part
//!  r <key>             value of at most SINGLE bytes; earlier versions wrote values of any size as one row
//!  s                   the journal as a whole
//!  t <topic>           name and mark of a topic
//!
//!  row = format version, body, CRC-32 of both (little endian)
//! ```
//!
//! A block of the store holds at least one row, and a merge or a scan holds one block of each table. Rows of bounded
//! size bound that memory. A merge also keeps the last key of each block that it writes, and a key of more than 20 bytes
//! keeps the block that it was read from: hundreds of megabytes where values compress well. Therefore parts have a
//! digest in place of the record's key. The revision in each part tells parts of one value from parts of the value that
//! replaces it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    event::{Draft, Event, Filter, Position},
    journal::log::{Gone, Marks, Meta, TopicId},
    topic::Topic,
};

/// The format of rows; a journal with a later one is refused.
pub(super) const VERSION: u8 = 1;

/// The format of the index row of a record larger than [`SINGLE`]. A program that knows only [`VERSION`] would not find
/// the value, and would leave parts behind. It reads all index rows of records when it opens the journal, so it refuses
/// a journal with such a record, and opens any other.
pub(super) const PARTS_VERSION: u8 = 2;

/// Bytes of a value in one row with the record's key; a larger value is stored in parts. Another size needs a new format.
pub(super) const SINGLE: usize = 1 << 10;

/// Bytes of a part. Another size needs a new format.
pub(super) const PART: usize = 64 << 10;

/// The digest of a record's key in the keys of its parts: the first 15 bytes of SHA-256. The key of a part then has 20
/// bytes.
pub(super) type Owner = [u8; 15];

/// Offsets that one index row may cover: rows begin and end within multiples of it.
pub(super) const SPAN: u64 = 256;

/// The row of the journal as a whole.
pub(super) const STATE: &[u8] = b"s";

/// A row cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum BadRow {
    /// Other bytes than were written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Written by a later version.
    #[error("its format is {0}, this program reads {VERSION} to {PARTS_VERSION}")]
    Version(u8),
    /// A part of a value that has not the length of such a part.
    #[error("it has not the length of a part")]
    Length,
    /// The bytes are as written, and no row.
    #[error("it cannot be decoded: {0}")]
    Body(postcard::Error),
}

/// The journal as a whole.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub epoch: u64,
    /// Commits so far: how it is known that none is missing.
    pub commit: u64,
    head: u64,
    last_timestamp: u64,
    swept: u64,
    last_topic: u64,
    revision: u64,
    trimmed_through: u64,
    gone: (u64, u64),
    forgotten_through: u64,
    pinned_forgotten_through: u64,
}

#[derive(Serialize, Deserialize)]
struct EventRow<'a> {
    topics: Cow<'a, [Topic]>,
    event: &'a str,
    data: &'a str,
    timestamp: u64,
    retry: Option<u64>,
    comment: Option<&'a str>,
    expires: Option<u64>,
    /// JSON: metadata are of any type.
    filter: Option<String>,
    origin: Option<&'a str>,
    publisher: &'a str,
    key: Option<&'a str>,
}

/// Offsets and times count from those of the row, which makes them short.
#[derive(Serialize, Deserialize)]
struct MetaRow {
    offset: u64,
    timestamp: u64,
    size: u32,
    topics: Vec<TopicId>,
    expires: Option<u64>,
    key: Option<(u128, u128)>,
}

/// A topic's name and mark.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TopicRow {
    pub name: Topic,
    pub trimmed_through: u64,
}

/// What the index keeps of a record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct RecordRow {
    pub revision: u64,
    pub size: u64,
}

/// The head of each part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartHead {
    pub revision: u64,
    /// Bytes of the whole value.
    pub size: u64,
}

// === keys ===

pub(super) fn event_key(home: TopicId, offset: u64) -> [u8; 17] {
    let mut key = [b'e'; 17];
    key[1..9].copy_from_slice(&home.to_be_bytes());
    key[9..].copy_from_slice(&offset.to_be_bytes());
    key
}

pub(super) fn index_key(offset: u64) -> [u8; 9] {
    numbered(b'i', offset)
}

pub(super) fn topic_key(id: TopicId) -> [u8; 9] {
    numbered(b't', id)
}

pub(super) fn record_key(key: &str) -> Vec<u8> {
    named(b'r', key)
}

pub(super) fn part_key(key: &str, part: u32) -> [u8; 20] {
    let mut row_key = [b'p'; 20];
    row_key[1..16].copy_from_slice(&owner(key));
    row_key[16..].copy_from_slice(&part.to_be_bytes());
    row_key
}

/// The digest of a record's key.
pub(super) fn owner(key: &str) -> Owner {
    let digest: [u8; 32] = Sha256::digest(key).into();
    *digest.first_chunk().expect("it is longer")
}

pub(super) fn record_index_key(key: &str) -> Vec<u8> {
    named(b'k', key)
}

/// The number in a key of an index row or a topic.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(1..)?.as_array()?))
}

/// Home and offset in the key of an event.
pub(super) fn place_of(key: &[u8]) -> Option<(TopicId, u64)> {
    let (home, offset) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*home), u64::from_be_bytes(*offset.as_array()?)))
}

/// The record's own key in that of a row.
pub(super) fn name_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(1..)?).ok()
}

/// The digest of the record's key, and the number of the part, in the key of a part.
pub(super) fn part_of(key: &[u8]) -> Option<(Owner, u32)> {
    let (owner, part) = key.strip_prefix(b"p")?.split_first_chunk()?;
    Some((*owner, u32::from_be_bytes(*part.as_array()?)))
}

/// How many parts a value of this size has; none if it is one row.
pub(super) fn parts_in(size: u64) -> u32 {
    let parts = if size <= SINGLE as u64 { 0 } else { size.div_ceil(PART as u64) };
    u32::try_from(parts).unwrap_or(u32::MAX)
}

fn numbered(kind: u8, number: u64) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn named(kind: u8, name: &str) -> Vec<u8> {
    [&[kind], name.as_bytes()].concat()
}

// === rows ===

/// A row around a body that is bytes already.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(body.len() + 5);
    row.push(VERSION);
    row.extend_from_slice(body);
    close(row)
}

/// The body of a row.
pub(super) fn unseal(row: &[u8]) -> Result<&[u8], BadRow> {
    let (sealed, checksum) = row.split_last_chunk::<4>().ok_or(BadRow::Checksum)?;
    if crc32fast::hash(sealed) != u32::from_le_bytes(*checksum) {
        return Err(BadRow::Checksum);
    }
    match sealed.split_first() {
        Some((&(VERSION | PARTS_VERSION), body)) => Ok(body),
        Some((later, _)) => Err(BadRow::Version(*later)),
        None => Err(BadRow::Checksum),
    }
}

/// A row of plain data.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    encode_as(VERSION, value)
}

fn encode_as(version: u8, value: &impl Serialize) -> Vec<u8> {
    close(postcard::to_extend(value, vec![version]).expect("plain data in memory serialise"))
}

pub(super) fn encode_record(record: &RecordRow) -> Vec<u8> {
    encode_as(if record.size > SINGLE as u64 { PARTS_VERSION } else { VERSION }, record)
}

/// A part of the value of the record with this key.
pub(super) fn encode_part(head: PartHead, key: &str, bytes: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(bytes.len() + key.len() + 25);
    row.push(VERSION);
    row.extend_from_slice(&head.revision.to_le_bytes());
    row.extend_from_slice(&head.size.to_le_bytes());
    row.extend_from_slice(&u32::try_from(key.len()).expect("keys are short").to_le_bytes());
    row.extend_from_slice(key.as_bytes());
    row.extend_from_slice(bytes);
    close(row)
}

/// The head of part `part` of a value, the key of its record, and its bytes.
pub(super) fn decode_part(part: u32, row: &[u8]) -> Result<(PartHead, &str, &[u8]), BadRow> {
    let (revision, rest) = unseal(row)?.split_first_chunk().ok_or(BadRow::Length)?;
    let (size, rest) = rest.split_first_chunk().ok_or(BadRow::Length)?;
    let (length, rest) = rest.split_first_chunk().ok_or(BadRow::Length)?;
    let (key, bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(BadRow::Length)?;
    let key = std::str::from_utf8(key).map_err(|_| BadRow::Length)?;
    let head = PartHead { revision: u64::from_le_bytes(*revision), size: u64::from_le_bytes(*size) };
    let before = u64::from(part) * PART as u64;
    let expected = head.size.saturating_sub(before).min(PART as u64);
    let fits = part < parts_in(head.size) && bytes.len() as u64 == expected;
    fits.then_some((head, key, bytes)).ok_or(BadRow::Length)
}

/// What [`encode`] made.
pub(super) fn decode<'a, T: Deserialize<'a>>(row: &'a [u8]) -> Result<T, BadRow> {
    postcard::from_bytes(unseal(row)?).map_err(BadRow::Body)
}

fn close(mut row: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&row);
    row.extend_from_slice(&checksum.to_le_bytes());
    row
}

pub(super) fn encode_event(event: &Event) -> Vec<u8> {
    encode(&EventRow {
        topics: Cow::Borrowed(&event.topics),
        event: &event.event,
        data: &event.data,
        timestamp: event.timestamp,
        retry: event.retry,
        comment: event.comment.as_deref(),
        expires: event.expires,
        filter: event.filter.as_ref().and_then(|filter| serde_json::to_string(filter).ok()),
        origin: event.origin.as_deref(),
        publisher: &event.publisher,
        key: event.key.as_deref(),
    })
}

pub(super) fn decode_event(row: &[u8], position: Position) -> Result<Event, BadRow> {
    let (draft, timestamp) = decode_draft(row)?;
    Ok(draft.into_event(position, timestamp))
}

/// The event as it was published, and when.
pub(super) fn decode_draft(row: &[u8]) -> Result<(Draft, u64), BadRow> {
    let row: EventRow<'_> = decode(row)?;
    let draft = Draft {
        topics: row.topics.into_owned(),
        event: row.event.to_owned(),
        data: row.data.to_owned(),
        retry: row.retry,
        comment: row.comment.map(str::to_owned),
        key: row.key.map(str::to_owned),
        publisher: row.publisher.to_owned(),
        ttl_ms: row.expires.map(|expires| expires.saturating_sub(row.timestamp)),
        filter: row.filter.map(|json| Filter::restore(&json)),
        origin: row.origin.map(str::to_owned),
    };
    Ok((draft, row.timestamp))
}

/// Index rows for these events, in order: key and row each.
pub(super) fn encode_metas(metas: impl Iterator<Item = Meta>) -> Vec<(u64, Vec<u8>)> {
    let mut rows: Vec<(u64, u64, Vec<MetaRow>)> = Vec::new();
    for meta in metas {
        if rows.last().is_none_or(|(first, ..)| first / SPAN != meta.offset / SPAN) {
            rows.push((meta.offset, meta.timestamp, Vec::new()));
        }
        let Some((first, began, row)) = rows.last_mut() else { continue };
        row.push(MetaRow {
            offset: meta.offset - *first,
            timestamp: meta.timestamp.saturating_sub(*began),
            size: meta.size,
            topics: meta.topics,
            expires: meta.expires,
            key: meta.key,
        });
    }
    rows.into_iter().map(|(first, began, row)| (first, encode(&(began, row)))).collect()
}

pub(super) fn decode_metas(first: u64, row: &[u8]) -> Result<impl Iterator<Item = Meta>, BadRow> {
    let (began, row): (u64, Vec<MetaRow>) = decode(row)?;
    Ok(row.into_iter().map(move |meta| Meta {
        offset: first + meta.offset,
        timestamp: began + meta.timestamp,
        size: meta.size,
        topics: meta.topics,
        expires: meta.expires,
        key: meta.key,
    }))
}

// === impl State ===

impl State {
    pub(super) fn new(epoch: u64, commit: u64, marks: &Marks) -> Self {
        Self {
            epoch,
            commit,
            head: marks.head,
            last_timestamp: marks.last_timestamp,
            swept: marks.swept,
            last_topic: marks.last_topic,
            revision: marks.revision,
            trimmed_through: marks.trimmed_through,
            gone: (marks.gone.through, marks.gone.timestamp),
            forgotten_through: marks.forgotten_through,
            pinned_forgotten_through: marks.pinned_forgotten_through,
        }
    }

    pub(super) fn marks(&self) -> Marks {
        Marks {
            head: self.head,
            last_timestamp: self.last_timestamp,
            swept: self.swept,
            last_topic: self.last_topic,
            revision: self.revision,
            trimmed_through: self.trimmed_through,
            gone: Gone { through: self.gone.0, timestamp: self.gone.1 },
            forgotten_through: self.forgotten_through,
            pinned_forgotten_through: self.pinned_forgotten_through,
        }
    }
}
