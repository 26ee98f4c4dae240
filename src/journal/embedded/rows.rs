//! The rows on disk. Each row has a format version and a checksum, so that every reader detects a damaged row, even if the
//! layers below do not.
//!
//! ```text
//!  e <topic> <offset>  an event, under its primary topic, so that a topic's history lies together
//!  i <offset>          metadata of this event and those that follow it, within 256 offsets
//!  k <key>             revision and size of a record
//!  p <digest> <part>   part of a larger value: revision, size of the whole value, key, bytes of the part
//!  r <key>             value of at most SINGLE_ROW_BYTES; earlier versions wrote values of any size as one row
//!  s                   state of the journal as a whole
//!  t <topic>           name and trimmed_through of a topic
//!
//!  row = format version, body, CRC-32 of both (little endian)
//! ```
//!
//! A block of the store holds at least one row, and a merge or a scan holds one block of each table. Rows of bounded
//! size limit that memory. A merge also keeps the last key of each block that it writes. A key of more than 20 bytes
//! keeps the block from which it was read: hundreds of megabytes if values compress well. Therefore the key of a part
//! contains a digest of the record's key. The revision in each part distinguishes it from parts of an earlier value.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    event::{Draft, Event, Filter, Position},
    journal::log::{EventMeta, LastDeleted, LogState, TopicId},
    topic::Topic,
};

/// The format version of rows. A journal with a later version is rejected.
pub(super) const VERSION: u8 = 1;

/// The format version of the index row of a record larger than [`SINGLE_ROW_BYTES`].
///
/// A program that knows only [`VERSION`] would not find the value, and would leave its parts behind. It reads all index
/// rows when it opens the journal, so it rejects a journal with such a record. It opens all other journals.
pub(super) const PARTS_VERSION: u8 = 2;

/// Maximum size of a value in one row; a larger value is stored in parts. Another size needs a new format.
pub(super) const SINGLE_ROW_BYTES: usize = 1 << 10;

/// Size of a part in bytes. Another size needs a new format.
pub(super) const PART_BYTES: usize = 64 << 10;

/// Digest of a record's key, in the keys of its parts: the first 15 bytes of SHA-256. The key of a part has 20 bytes.
pub(super) type KeyDigest = [u8; 15];

/// Number of offsets in a span. An index row contains events of one span only.
pub(super) const SPAN: u64 = 256;

/// Key of the state row.
pub(super) const STATE_KEY: &[u8] = b"s";

/// Why a row cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum BadRow {
    /// The bytes have changed.
    #[error("its checksum is wrong")]
    Checksum,
    /// A later version of the program wrote it.
    #[error("its format is {0}, this program reads {VERSION} to {PARTS_VERSION}")]
    Version(u8),
    /// A part of a value has another length than expected.
    #[error("it has not the length of a part")]
    Length,
    /// The checksum is right, but the content is not a row.
    #[error("it cannot be decoded: {0}")]
    Body(postcard::Error),
}

/// The state of the journal as a whole.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct StateRow {
    pub epoch: u64,
    /// Number of the last commit, which shows whether commits are missing.
    pub commit: u64,
    head: u64,
    last_timestamp: u64,
    swept: u64,
    last_topic: u64,
    revision: u64,
    trimmed_through: u64,
    last_deleted: (u64, u64),
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
    /// JSON, because metadata have any type.
    filter: Option<String>,
    origin: Option<&'a str>,
    publisher: &'a str,
    key: Option<&'a str>,
}

/// Metadata of an event. Offset and timestamp are relative to those of the index row, to be short.
#[derive(Serialize, Deserialize)]
struct MetaRow {
    offset: u64,
    timestamp: u64,
    size: u32,
    topics: Vec<TopicId>,
    expires: Option<u64>,
    key: Option<(u128, u128)>,
}

/// Name and `trimmed_through` of a topic.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TopicRow {
    pub name: Topic,
    pub trimmed_through: u64,
}

/// Metadata of a record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct RecordRow {
    pub revision: u64,
    pub size: u64,
}

/// The head of each part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartHead {
    pub revision: u64,
    /// Size of the whole value in bytes.
    pub size: u64,
}

// === keys ===

pub(super) fn event_key(primary_topic: TopicId, offset: u64) -> [u8; 17] {
    let mut key = [b'e'; 17];
    key[1..9].copy_from_slice(&primary_topic.to_be_bytes());
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
    row_key[1..16].copy_from_slice(&key_digest(key));
    row_key[16..].copy_from_slice(&part.to_be_bytes());
    row_key
}

/// Digest of a record's key.
pub(super) fn key_digest(key: &str) -> KeyDigest {
    let digest: [u8; 32] = Sha256::digest(key).into();
    *digest.first_chunk().expect("32 bytes begin with 15")
}

pub(super) fn record_index_key(key: &str) -> Vec<u8> {
    named(b'k', key)
}

/// The offset in the key of an index row, or the id in the key of a topic.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(1..)?.as_array()?))
}

/// Primary topic and offset in the key of an event.
pub(super) fn topic_and_offset_of(key: &[u8]) -> Option<(TopicId, u64)> {
    let (primary_topic, offset) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*primary_topic), u64::from_be_bytes(*offset.as_array()?)))
}

/// The key of the record in the key of a row.
pub(super) fn name_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(1..)?).ok()
}

/// Digest of the record's key, and number of the part, in the key of a part.
pub(super) fn part_of(key: &[u8]) -> Option<(KeyDigest, u32)> {
    let (owner, part) = key.strip_prefix(b"p")?.split_first_chunk()?;
    Some((*owner, u32::from_be_bytes(*part.as_array()?)))
}

/// Number of parts of a value of this size; 0 if it is stored in one row.
pub(super) fn parts_in(size: u64) -> u32 {
    let parts = if size <= SINGLE_ROW_BYTES as u64 { 0 } else { size.div_ceil(PART_BYTES as u64) };
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

/// A row with this body.
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

/// A row with a serialised value.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    encode_as(VERSION, value)
}

fn encode_as(version: u8, value: &impl Serialize) -> Vec<u8> {
    close(postcard::to_extend(value, vec![version]).expect("plain data in memory serialise"))
}

pub(super) fn encode_record(record: &RecordRow) -> Vec<u8> {
    encode_as(if record.size > SINGLE_ROW_BYTES as u64 { PARTS_VERSION } else { VERSION }, record)
}

/// A row with a part of the value of a record.
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

/// Decodes part `part` of a value: its head, the key of its record, and its bytes.
pub(super) fn decode_part(part: u32, row: &[u8]) -> Result<(PartHead, &str, &[u8]), BadRow> {
    let (revision, rest) = unseal(row)?.split_first_chunk().ok_or(BadRow::Length)?;
    let (size, rest) = rest.split_first_chunk().ok_or(BadRow::Length)?;
    let (length, rest) = rest.split_first_chunk().ok_or(BadRow::Length)?;
    let (key, bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(BadRow::Length)?;
    let key = std::str::from_utf8(key).map_err(|_| BadRow::Length)?;
    let head = PartHead { revision: u64::from_le_bytes(*revision), size: u64::from_le_bytes(*size) };
    let before = u64::from(part) * PART_BYTES as u64;
    let expected = head.size.saturating_sub(before).min(PART_BYTES as u64);
    let fits = part < parts_in(head.size) && bytes.len() as u64 == expected;
    fits.then_some((head, key, bytes)).ok_or(BadRow::Length)
}

/// Decodes a row of [`encode`].
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

/// The event as it was published, and its timestamp.
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

/// Index rows for these events, which are in order: first offset and row.
pub(super) fn encode_event_metas(event_metas: impl Iterator<Item = EventMeta>) -> Vec<(u64, Vec<u8>)> {
    let mut rows: Vec<(u64, u64, Vec<MetaRow>)> = Vec::new();
    for meta in event_metas {
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

pub(super) fn decode_event_metas(first: u64, row: &[u8]) -> Result<impl Iterator<Item = EventMeta>, BadRow> {
    let (began, row): (u64, Vec<MetaRow>) = decode(row)?;
    Ok(row.into_iter().map(move |meta| EventMeta {
        offset: first + meta.offset,
        timestamp: began + meta.timestamp,
        size: meta.size,
        topics: meta.topics,
        expires: meta.expires,
        key: meta.key,
    }))
}

// === impl StateRow ===

impl StateRow {
    pub(super) fn new(epoch: u64, commit: u64, log_state: &LogState) -> Self {
        Self {
            epoch,
            commit,
            head: log_state.head,
            last_timestamp: log_state.last_timestamp,
            swept: log_state.swept,
            last_topic: log_state.last_topic,
            revision: log_state.revision,
            trimmed_through: log_state.trimmed_through,
            last_deleted: (log_state.last_deleted.through, log_state.last_deleted.timestamp),
            forgotten_through: log_state.forgotten_through,
            pinned_forgotten_through: log_state.pinned_forgotten_through,
        }
    }

    pub(super) fn log_state(&self) -> LogState {
        LogState {
            head: self.head,
            last_timestamp: self.last_timestamp,
            swept: self.swept,
            last_topic: self.last_topic,
            revision: self.revision,
            trimmed_through: self.trimmed_through,
            last_deleted: LastDeleted { through: self.last_deleted.0, timestamp: self.last_deleted.1 },
            forgotten_through: self.forgotten_through,
            pinned_forgotten_through: self.pinned_forgotten_through,
        }
    }
}
