//! The journal: the one ordered record of all events, and the only road to an emitter.
//!
//! ```text
//!            trimmed_through            emitter's cursor           head
//!  offsets ........|x x x x x x x x x x x x x x|x x x x x x x x x x x|
//!           gone   |  kept, for those who      |  a slow emitter    | tail: what the
//!           (gap)  |  resume or ask history    |  still has to read | shards pull
//! ```
//!
//! [`Journal`] is the port; its documentation is the specification, and one suite (`journal/contract.rs`) runs against
//! every adapter. Beside events it keeps *records*: keyed values that are written in the same commit as the events they
//! belong to (job specs, large results, idempotency keys) and are never served as events.

use std::{path::Path, pin::Pin, sync::Arc};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::{
    clock::Clock,
    event::{Draft, Position, SharedEvent},
    metrics::Rows,
    topic::{Pattern, Topic},
};

mod bell;
mod config;
mod embedded;
mod error;
mod insist;
mod log;
mod memory;
mod tail;
mod upkeep;

#[cfg(test)]
mod contract;

pub use self::{
    bell::{Bell, Interest},
    config::{Config, Kind, Retention, SyncMode},
    embedded::{Embedded, Repaired, Stopped, compact},
    error::{AppendError, OpenError, Unavailable},
    insist::{RETRY, insist},
    memory::Memory,
    tail::{Pulled, Tail, Waker},
    upkeep::{Compacted, Export, Finding, Inspection, Maintenance, Report, Verified},
};

/// A boxed future, so that the port can be used as `Arc<dyn Journal>`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A journal as the components hold it.
pub type Shared = Arc<dyn Journal>;

/// The port to whatever keeps the events.
///
/// # What every adapter owes
/// - **Order**: offsets grow by commit; a reader never sees an offset and later a smaller one it had not seen.
/// - **Atomicity**: a [`Batch`] is written whole or not at all: its events, its records and its expectations.
/// - **Acknowledgement**: when [`append`](Self::append) returns, the batch is as durable as the adapter's `sync`
///   promises, and every later `read` sees it.
/// - **Idempotency**: the same key of the same publisher appends once; see [`Receipt::duplicate`].
/// - **Cancellation**: a dropped `append` future leaves the batch either written or not, never half.
/// - **Truth about the past**: trimmed history is reported ([`Page::trimmed`]), at worst too often, never too seldom;
///   an event that expired by its own `ttl_ms` is not counted as trimmed.
pub trait Journal: Send + Sync + 'static {
    /// Writes a batch and answers with one receipt per event, in order.
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>>;

    /// Reads events of the query's topics in journal order. The page may be short of the limits and even empty; go on
    /// from [`Page::through`]. A page ends before a damaged event; a page that would begin with one is
    /// [`Unavailable::Unreadable`].
    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>>;

    /// All events after `after`, whatever their topic; what [`Tail`] pulls.
    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>>;

    /// The offset of the last committed event, as a value that can be awaited.
    fn watch_head(&self) -> watch::Receiver<u64>;

    /// From now on the bell of a tail is rung after each commit that concerns it.
    fn listen(&self, bell: &Arc<Bell>);

    /// The epoch of all positions that this journal gives.
    fn epoch(&self) -> u64;

    /// True when what was acknowledged outlives the process: jobs are then left standing at a stop and taken up again
    /// at the next start.
    fn durable(&self) -> bool;

    /// The offset to read after in order to get the last `count` events of the topics.
    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// The offset to read after in order to get what was appended at `timestamp` (Unix milliseconds) or later.
    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// What is known of the topics that match, in name order, after the name `after`, at most `limit`.
    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>>;

    /// Forgets a topic's events; readers that had not seen them are told of a gap. Answers how many events it had.
    ///
    /// A `job:` topic leaves with its name, which MUST NOT be appended to again: a new job is taken to have no past.
    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// One record.
    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>>;

    /// Keys of records that begin with `prefix`, in order, after the key `after`, at most `limit`. Values may be large, so
    /// each is asked for with [`get`](Self::get).
    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>>;

    /// Deletes events by retention, at this time of the monotonic clock ([`Clock::steady_ms`]). The node calls it about
    /// once a second.
    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>>;

    /// Ends in order: what was accepted is on the disk, and the next opening knows that nothing is missing. Afterwards
    /// everything answers [`Unavailable::Closed`].
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Works on the journal as a whole, one work at a time; who comes second gets [`Unavailable::Working`].
    ///
    /// What is provided is for adapters that have nothing on a disk.
    fn maintain(&self, work: Maintenance) -> BoxFuture<'_, Result<Report, Unavailable>> {
        let Stats { events, topics, records, .. } = self.stats();
        Box::pin(async move {
            Ok(match work {
                Maintenance::Compact => Report::Compacted(Compacted { bytes_before: 0, bytes_after: 0 }),
                Maintenance::Verify => Report::Verified(Verified { events, topics, records, ..Verified::default() }),
            })
        })
    }

    /// The reason why the journal rejects writes now, if it is known without an attempt.
    fn refusal(&self) -> Option<String> {
        None
    }

    /// Figures for metrics and status.
    fn stats(&self) -> Stats;
}

/// What is committed at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events, in the order in which they get their offsets.
    pub events: Vec<Draft>,
    /// Records to put or delete.
    pub records: Vec<RecordWrite>,
    /// What must hold of records, else nothing is written.
    pub expect: Vec<Expect>,
}

/// A record to write.
#[derive(Clone, Debug)]
pub struct RecordWrite {
    /// Its key; components prefix theirs (`job/…`).
    pub key: String,
    /// Its value; `None` deletes.
    pub value: Option<Bytes>,
}

/// A condition on a record.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Which record.
    pub key: String,
    /// The revision it must have; `None`: it must not exist.
    pub revision: Option<u64>,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The bytes that were written.
    pub value: Bytes,
    /// Changes with every write of this key.
    pub revision: u64,
}

/// The answer for one event of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where the event stands.
    pub position: Position,
    /// True when the publisher had sent it before; the position is the first one's.
    pub duplicate: bool,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Query {
    /// Events in at least one of these.
    pub patterns: Arc<[Pattern]>,
    /// Only events with a greater offset.
    pub after: u64,
    /// History that was trimmed up to here is known to the reader and is not reported again.
    pub floor: u64,
    /// Most events in the page.
    pub limit: usize,
    /// Stop after the event that passes so many bytes.
    pub max_bytes: usize,
}

/// A part of the past.
#[derive(Clone, Debug)]
pub struct Page {
    /// Events in journal order.
    pub events: Vec<SharedEvent>,
    /// The page is complete up to this offset: go on from here.
    pub through: u64,
    /// Topics of the query that lost events after both `after` and `floor`, at most [`Page::MAX_TRIMMED`] of them.
    pub trimmed: Vec<Trimmed>,
}

/// A topic whose history does not reach back far enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trimmed {
    /// The topic; the reader's own pattern where the topic is forgotten.
    pub topic: String,
    /// The first event that is still kept.
    pub earliest: Option<Position>,
}

/// A part of the tail.
#[derive(Clone, Debug)]
pub struct Since {
    /// Events in journal order.
    pub events: Vec<SharedEvent>,
    /// Complete up to this offset.
    pub through: u64,
    /// True when events after `after` are gone already.
    pub missed: bool,
}

/// What is known of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub topic: Topic,
    /// Events kept.
    pub events: u64,
    /// Their size in bytes, as retention counts it.
    pub bytes: u64,
    /// Position of the first event that is kept.
    #[schema(value_type = Option<String>)]
    pub first: Option<Position>,
    /// Position of the last event.
    #[schema(value_type = Option<String>)]
    pub last: Option<Position>,
}

/// Figures of a journal.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JournalStats)]
pub struct Stats {
    /// Events kept.
    pub events: u64,
    /// Bytes that they hold, as retention counts them.
    pub bytes: u64,
    /// Bytes of them in topics that retention must leave alone: histories of jobs.
    pub pinned_bytes: u64,
    /// Topics known.
    pub topics: u64,
    /// Records kept.
    pub records: u64,
    /// Bytes of the records.
    pub record_bytes: u64,
    /// Events appended since the start.
    pub appended: u64,
    /// Events that retention let go since the start.
    pub trimmed: u64,
    /// Events not appended because their publisher had sent them before.
    pub duplicates: u64,
    /// Commits to the disk since the start; each holds all that waited.
    pub commits: u64,
    /// Bytes on the disk, what is deleted and not yet cleared away included.
    pub disk_bytes: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    /// True when the last attempt to write was refused by the disk; reading goes on.
    pub refusing: bool,
}

// === impl Stats ===

impl Stats {
    /// Adds the figures of the journal.
    pub fn metrics(&self, rows: &mut Rows) {
        rows.gauge("journal_events", "Events kept.", self.events);
        rows.gauge("journal_bytes", "Bytes of the events kept.", self.bytes);
        let help = "Bytes of job histories, which retention leaves alone.";
        rows.gauge("journal_pinned_bytes", help, self.pinned_bytes);
        rows.gauge("journal_topics", "Topics known.", self.topics);
        rows.gauge("journal_records", "Records kept.", self.records);
        rows.gauge("journal_record_bytes", "Bytes of the records.", self.record_bytes);
        rows.gauge("journal_disk_bytes", "Bytes of the journal on disk.", self.disk_bytes);
        rows.gauge("journal_queued_bytes", "Bytes that wait to be written.", self.queued_bytes);
        rows.gauge("journal_refusing", "1 while the disk takes no more events.", u64::from(self.refusing));
        rows.counter("journal_events_appended", "Events appended.", self.appended);
        rows.counter("journal_events_trimmed", "Events that retention let go.", self.trimmed);
        let help = "Events not appended because their publisher had sent them before.";
        rows.counter("journal_duplicates", help, self.duplicates);
        rows.counter("journal_commits", "Commits to the disk; each holds all that waited.", self.commits);
    }
}

// === impl Page ===

impl Page {
    /// Most topics that a page lists as trimmed: a gap frame must stay small.
    pub const MAX_TRIMMED: usize = 32;
}

// === impl Batch ===

impl Batch {
    /// A batch of events alone.
    pub fn events(events: Vec<Draft>) -> Self {
        Self { events, ..Self::default() }
    }

    /// True when it brings anything; one that only deletes does not.
    fn grows(&self) -> bool {
        !self.events.is_empty() || self.records.iter().any(|record| record.value.is_some())
    }
}

/// A fresh epoch: random, so that no two lives of a journal share one.
fn new_epoch() -> u64 {
    // The high bit keeps all epochs the same length; 0 is never one.
    rand::random::<u64>() >> 16 | 1 << 47
}

/// Opens the journal that the settings name; what is kept on disk is kept in `data_dir`.
///
/// # Errors
/// When the directory cannot be had or what is in it is damaged.
pub fn open(config: &Config, data_dir: &Path) -> Result<Shared, OpenError> {
    open_with(config, data_dir, Clock::system())
}

/// Like [`open`], with the node's clock.
///
/// # Errors
/// As [`open`].
pub fn open_with(config: &Config, data_dir: &Path, clock: Clock) -> Result<Shared, OpenError> {
    Ok(match config.kind {
        Kind::Embedded => Arc::new(Embedded::with_clock(config, data_dir, clock)?),
        Kind::Memory => Arc::new(Memory::with_clock(config, clock)),
    })
}
