//! Values of records in the store: one row for each small value, parts for a larger one.
//!
//! A value is replaced or deleted in one commit, with all its rows. Its parts carry its revision, so that a reader
//! never mixes parts of two values.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    restore::{damaged, row_name},
    rows::{self, PART_BYTES, PartHead, RecordRow, SINGLE_ROW_BYTES},
    store::{Commit, Store, StoreError, StoreSnapshot},
};
use crate::journal::log::{PlannedWrite, RecordInfo};

/// The rows of one record's value.
#[derive(Default)]
pub(super) struct ValueRows {
    /// Size of the value that is stored in one row.
    pub row: Option<u64>,
    /// Heads of the parts, by number.
    pub parts: BTreeMap<u32, PartHead>,
}

/// A complete value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub size: u64,
    /// Its revision, if it is stored in parts. A single row does not contain it.
    pub revision: Option<u64>,
}

/// Adds the rows of a record to a commit. Deletes the rows of the earlier value that are not overwritten.
pub(super) fn write(commit: &mut Commit, write: &PlannedWrite, before: Option<RecordInfo>) {
    let PlannedWrite { key, value, revision } = write;
    let mut parts = 0;
    match value {
        Some(value) => {
            let (revision, size) = (*revision, value.len() as u64);
            commit.put(rows::record_index_key(key), rows::encode_record(&RecordRow { revision, size }));
            if value.len() <= SINGLE_ROW_BYTES {
                commit.put(rows::record_key(key), rows::seal(value));
            } else {
                for (part, bytes) in (0..).zip(value.chunks(PART_BYTES)) {
                    commit.put(rows::part_key(key, part), rows::encode_part(PartHead { revision, size }, key, bytes));
                }
                parts = rows::parts_in(size);
            }
        }
        None => commit.delete(rows::record_index_key(key)),
    }
    let Some(before) = before else { return };
    if value.is_none() || parts > 0 {
        // An earlier version may have written a value of any size as one row.
        commit.delete(rows::record_key(key));
    }
    for part in parts..rows::parts_in(before.size) {
        commit.delete(rows::part_key(key, part));
    }
}

/// The value of the record in the index; `None` if its rows are missing or belong to another value.
pub(super) fn read(store: &StoreSnapshot, key: &str, known: RecordInfo) -> Result<Option<Bytes>, StoreError> {
    if let Some(value) = read_parts(store, key, known)? {
        return Ok(Some(value));
    }
    let row_key = rows::record_key(key);
    let Some(row) = store.get(&row_key)? else { return Ok(None) };
    let value = rows::unseal(&row).map_err(|bad| damaged(&row_name(&row_key), &bad))?;
    Ok((value.len() as u64 == known.size).then(|| Bytes::copy_from_slice(value)))
}

fn read_parts(store: &StoreSnapshot, key: &str, known: RecordInfo) -> Result<Option<Bytes>, StoreError> {
    let parts = rows::parts_in(known.size);
    let mut value = Vec::new();
    for part in 0..parts {
        let Some(row) = store.get(rows::part_key(key, part))? else { return Ok(None) };
        let read = rows::decode_part(part, &row);
        let (head, owner, bytes) = read.map_err(|bad| damaged(&row_name(&rows::record_key(key)), &bad))?;
        if head != (PartHead { revision: known.revision, size: known.size }) || owner != key {
            return Ok(None);
        }
        if part == 0 {
            value.reserve_exact(usize::try_from(known.size).unwrap_or_default());
        }
        value.extend_from_slice(bytes);
    }
    Ok((parts > 0).then(|| value.into()))
}

/// True if a row of the value is missing. A row that cannot be read is not missing.
pub(super) fn lacks_rows(store: &Store, key: &str, size: u64) -> bool {
    let absent = |key: &[u8]| matches!(store.get(key), Ok(None));
    let parts = rows::parts_in(size);
    let lacks_parts = parts == 0 || (0..parts).any(|part| absent(&rows::part_key(key, part)));
    lacks_parts && absent(&rows::record_key(key))
}

// === impl ValueRows ===

impl ValueRows {
    /// The complete value, if there is one. Of two complete values: the one of the index, else the one in parts.
    pub(super) fn value(&self, known: Option<&RecordRow>) -> Option<Value> {
        let row = self.row.map(|size| Value { size, revision: None });
        let is_whole =
            |head: &&PartHead| (1..rows::parts_in(head.size)).all(|part| self.parts.get(&part) == Some(*head));
        let parts = self.parts.get(&0).filter(is_whole);
        let parts = parts.map(|head| Value { size: head.size, revision: Some(head.revision) });
        let of_index = |value: &Value| known.is_some_and(|known| value.is_of(known));
        if parts.is_some_and(|parts| !of_index(&parts)) && row.is_some_and(|row| of_index(&row)) {
            return row;
        }
        parts.or(row)
    }

    /// True if there are rows that do not belong to the value.
    pub(super) fn has_other_rows(&self, value: &Value) -> bool {
        usize::from(self.row.is_some()) + self.parts.len() > value.rows()
    }
}

// === impl Value ===

impl Value {
    pub(super) fn is_of(&self, record: &RecordRow) -> bool {
        self.size == record.size && self.revision.is_none_or(|revision| revision == record.revision)
    }

    /// The keys of its rows.
    pub(super) fn keys(self, key: &str) -> impl Iterator<Item = Vec<u8>> {
        let row = self.revision.is_none().then(|| rows::record_key(key));
        row.into_iter().chain((0..self.parts()).map(move |part| rows::part_key(key, part).to_vec()))
    }

    fn parts(self) -> u32 {
        self.revision.map_or(0, |_| rows::parts_in(self.size))
    }

    fn rows(self) -> usize {
        self.parts().max(1) as usize
    }
}
