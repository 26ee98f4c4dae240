//! The records of an entity: keyed values that the journal stores in addition to its events.
//!
//! All records of an entity are called `{kind}/{id}/{name}`. An entity exists exactly as long as its record `spec`: it
//! is written before the client gets its answer, and it is the first record to be deleted.

use std::fmt::Display;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use ulid::{Generator, Ulid};

use crate::journal::{AppendError, Batch, Record, RecordWrite, Shared, Unavailable};

/// The keys of all records of this kind of entity. They begin with `{kind}/`.
#[derive(Clone, Copy, Debug)]
pub struct Records(pub &'static str);

/// Why a record was not read.
#[derive(Debug)]
pub enum ReadError {
    /// The journal cannot be read now.
    Journal(Unavailable),
    /// The record does not have the expected form; the reason.
    Unreadable(String),
}

/// Maximum number of records that are deleted in one commit.
const CLEAR_PAGE: usize = 16;

// === impl Records ===

impl Records {
    /// The key of a record.
    pub fn key(self, id: &str, name: impl Display) -> String {
        format!("{}/{id}/{name}", self.0)
    }

    /// The key of the record that makes the entity exist.
    pub fn spec(self, id: &str) -> String {
        self.key(id, "spec")
    }

    /// The id of the entity that a record belongs to.
    fn id(self, key: &str) -> Option<&str> {
        key.strip_prefix(self.0)?.strip_prefix('/')?.split_once('/').map(|(id, _)| id)
    }

    /// The ids of the next entities that have records, from at most `limit` keys, and the key to continue after; `None`
    /// at the end. Each entity is listed once, with any number of records.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn page(
        self,
        journal: &Shared,
        after: Option<String>,
        limit: usize,
    ) -> Result<(Vec<String>, Option<String>), Unavailable> {
        let keys = journal.keys(format!("{}/", self.0), after, limit).await?;
        let mut ids: Vec<String> = keys.iter().filter_map(|key| self.id(key).map(str::to_owned)).collect();
        ids.dedup();
        // `0` follows `/`: this key sorts after all records of the entity and before those of the next one.
        let after_id = |last: String| self.id(&last).map(|id| format!("{}/{id}0", self.0)).unwrap_or(last);
        let next = keys.into_iter().next_back().map(after_id);
        Ok((ids, next))
    }

    /// Deletes all records of an entity, a few in each commit.
    ///
    /// # Errors
    /// If the journal rejects a commit; the remaining records can be deleted later.
    pub async fn clear(self, journal: &Shared, id: &str) -> Result<(), AppendError> {
        loop {
            let page = journal.keys(self.key(id, ""), None, CLEAR_PAGE).await?;
            let last = page.len() < CLEAR_PAGE;
            let records: Vec<_> = page.into_iter().map(delete).collect();
            if !records.is_empty() {
                journal.append(Batch { records, ..Batch::default() }).await?;
            }
            if last {
                return Ok(());
            }
        }
    }
}

// === impl ReadError ===

impl From<ReadError> for Unavailable {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Journal(unavailable) => unavailable,
            ReadError::Unreadable(reason) => Self::Failed(reason),
        }
    }
}

/// A record to write.
pub fn put(key: String, value: &impl Serialize) -> RecordWrite {
    RecordWrite { key, value: Some(encode(value)) }
}

/// A record to delete.
pub fn delete(key: String) -> RecordWrite {
    RecordWrite { key, value: None }
}

/// The bytes of a record.
pub fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("records are plain data, which serialises").into()
}

/// Reads a record and its revision; `None` if it does not exist.
///
/// # Errors
/// If the journal cannot be read, or the record does not have the expected form.
pub async fn read<T: DeserializeOwned>(journal: &Shared, key: String) -> Result<Option<(T, u64)>, ReadError> {
    let Some(Record { value, revision }) = journal.get(key.clone()).await.map_err(ReadError::Journal)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&value) {
        Ok(value) => Ok(Some((value, revision))),
        Err(error) => Err(ReadError::Unreadable(format!("the record `{key}` cannot be read: {error}"))),
    }
}

/// Checks the version of a record.
///
/// # Errors
/// Names both versions if the record has another version than this node writes.
pub fn check_version(found: u32, known: u32) -> Result<(), String> {
    if found == known { Ok(()) } else { Err(format!("it has version {found}, this node knows {known}")) }
}

/// The id of a new entity. Ids of one generator grow.
pub fn new_id(ids: &mut Generator) -> Ulid {
    // The generator fails after 2^80 ids in one millisecond.
    ids.generate().unwrap_or_else(|_| Ulid::new())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::{Config, Memory};

    const THINGS: Records = Records("thing");

    async fn journal(keys: &[&str]) -> Shared {
        let journal: Shared = Arc::new(Memory::new(&Config::default()));
        let records = keys.iter().map(|key| put((*key).to_owned(), &1)).collect();
        journal.append(Batch { records, ..Batch::default() }).await.unwrap();
        journal
    }

    #[tokio::test]
    async fn each_entity_is_listed_once_and_pages_skip_its_records() {
        let keys =
            ["thing/a/result/1", "thing/a/result/2", "thing/a/spec", "thing/b/spec", "thing/odd", "things/c/spec"];
        let journal = journal(&keys).await;
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (ids, next) = THINGS.page(&journal, after, 1).await.unwrap();
            all.push(ids);
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(all, [vec!["a".to_owned()], vec!["b".to_owned()], vec![], vec![]]);
    }

    #[tokio::test]
    async fn clearing_an_entity_keeps_its_neighbours() {
        let mut keys: Vec<String> = (0..50).map(|n| format!("thing/a/result/{n}")).collect();
        keys.extend(["thing/a0/spec".to_owned(), "thing/b/spec".to_owned()]);
        let journal = journal(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
        THINGS.clear(&journal, "a").await.unwrap();
        assert_eq!(journal.keys(String::new(), None, 10).await.unwrap(), ["thing/a0/spec", "thing/b/spec"]);
    }
}
