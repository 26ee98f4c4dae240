//! Reads at the start of the node, which distinguish a failure of the journal from damage.
//!
//! A read is repeated until the journal works. A read that keeps failing while other reads succeed has found damage,
//! which makes one entity unreadable and delays no other.

use tokio_util::sync::CancellationToken;

use super::ReadError;
use crate::journal::{Shared, Unavailable, insist};

/// Reads stored entities. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    /// The journal.
    pub journal: Shared,
    /// Ends the reads.
    pub stop: CancellationToken,
    /// The purpose of the reads, for the log: "jobs are read back".
    pub purpose: &'static str,
}

/// Why a read has failed permanently.
#[derive(Debug)]
pub enum ReadFailure {
    /// The journal is closed, or the node stops.
    Stopped,
    /// The journal works, except for this read; the reason.
    Damaged(String),
}

/// The key of a record that never exists. Reading it shows whether the journal works.
const PROBE: &str = "probe/recovery";

// === impl Reader ===

impl Reader {
    /// Requests before the probe is read: a few seconds, which is longer than most failures last.
    pub const TRIES: u32 = 20;
    /// Requests before the probe is read for a page of a list, half a minute: a damaged page hides all entities after
    /// it.
    pub const LIST_TRIES: u32 = 120;

    /// Repeats a read until it succeeds. After `tries` failures a probe decides whether only this read fails.
    ///
    /// # Errors
    /// If the journal is closed, the node stops, or only this read fails.
    pub async fn read<T>(
        &self,
        tries: u32,
        mut request: impl AsyncFnMut(&Shared) -> Result<T, Unavailable>,
    ) -> Result<T, ReadFailure> {
        let mut failures = 0;
        let read = insist(&self.stop, self.purpose, async || match request(&self.journal).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Unavailable::Closed) => Err(Unavailable::Closed),
            Err(error) => {
                failures += 1;
                let works = failures >= tries && self.journal.get(PROBE.to_owned()).await.is_ok();
                if works { Ok(Err(ReadFailure::Damaged(error.to_string()))) } else { Err(error) }
            }
        });
        read.await.unwrap_or(Err(ReadFailure::Stopped))
    }

    /// Reads a record and its revision, as [`read`](super::read) does, and repeats a failed read.
    ///
    /// # Errors
    /// If the record does not have the expected form, or [`read`](Self::read) fails.
    pub async fn record<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<(T, u64)>, ReadFailure> {
        self.read(Self::TRIES, async |journal| match super::read(journal, key.to_owned()).await {
            Ok(record) => Ok(Ok(record)),
            Err(ReadError::Journal(unavailable)) => Err(unavailable),
            Err(ReadError::Unreadable(reason)) => Ok(Err(ReadFailure::Damaged(reason))),
        })
        .await?
    }
}
