//! The journal: the ordered record of all events. All publishing is appending to it, and all delivery is reading from it.
//!
//! ```text
//!            trimmed_through            emitter's cursor           head
//!  offsets ........|x x x x x x x x x x x x x x|x x x x x x x x x x x|
//!          deleted |  stored, for resume and   |  still to be read   | tail: pulled
//!           (gap)  |  history                  |  by a slow emitter  | by the shards
//! ```
//!
//! [`Journal`] is the port. Its documentation is the specification, and one test suite (`journal/contract.rs`) runs
//! against every adapter. Beside events a journal stores *records*: keyed values, such as job specs, large results and
//! idempotency keys. They are written in the same commit as their events, and are never served as events.

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

mod config;
mod embedded;
mod error;
mod import;
mod insist;
mod log;
mod maintenance;
mod memory;
mod notifier;
mod tail;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod testing;

pub use self::{
    config::{Config, Kind, Retention, SyncMode},
    embedded::{Embedded, OfflineJournal, Repaired, compact},
    error::{AppendError, OpenError, Unavailable},
    import::{Import, ImportError, Imported},
    insist::{RETRY, insist},
    maintenance::{Compacted, Export, Finding, Inspection, Maintenance, MaintenanceReport, Verified},
    memory::Memory,
    notifier::{Interest, Notifier},
    tail::{Pulled, Tail, Waker},
};

/// A boxed future, so that the port can be used as `Arc<dyn Journal>`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A shared handle to the journal of a node.
pub type Shared = Arc<dyn Journal>;

/// The port to the storage of events and records.
///
/// # What every adapter must do
/// - **Order**: offsets grow with each commit. A reader that has seen an offset never sees a smaller new one.
/// - **Atomicity**: a [`Batch`] is written completely or not at all: its events, records and expectations.
/// - **Acknowledgement**: when [`append`](Self::append) returns, the batch is as durable as the adapter's `sync`
///   promises, and every later `read` sees it.
/// - **Idempotency**: a key of a publisher appends one event; see [`Receipt::duplicate`].
/// - **Cancellation**: if an `append` future is dropped, the batch is written completely or not at all.
/// - **Gaps**: deleted history is reported ([`Page::trimmed`]). A gap may be reported without need, but is never omitted.
///   An event that expired by its own `ttl_ms` is not a gap.
pub trait Journal: Send + Sync + 'static {
    /// Writes a batch. Returns one receipt per event, in order.
    fn append(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Receipt>, AppendError>>;

    /// Reads events of the query's topics in journal order. A page may be shorter than the limits, or empty: continue
    /// from [`Page::through`]. A page ends before a damaged event. A page that would begin with a damaged event is
    /// [`Unavailable::Unreadable`].
    fn read(&self, query: Query) -> BoxFuture<'_, Result<Page, Unavailable>>;

    /// Reads events of all topics after the offset `after`. [`Tail`] uses it.
    fn since(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Since, Unavailable>>;

    /// The offset of the last committed event, as a value that can be awaited.
    fn watch_head(&self) -> watch::Receiver<u64>;

    /// Registers the notifier of a tail. From now on it is notified after each commit that its [`Interest`] wants.
    fn listen(&self, notifier: &Arc<Notifier>);

    /// The epoch of all positions of this journal.
    fn epoch(&self) -> u64;

    /// True if acknowledged data outlive the process. Then unfinished jobs are kept at a stop and resumed at the next
    /// start.
    fn durable(&self) -> bool;

    /// The offset after which to read to get the last `count` events of the topics.
    fn before_last(&self, patterns: Arc<[Pattern]>, count: usize) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// The offset after which to read to get the events appended at `timestamp` (Unix milliseconds) or later.
    fn before_time(&self, timestamp: u64) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// The topics that match `pattern`, in name order, after the name `after`, at most `limit`.
    fn topics(
        &self,
        pattern: Pattern,
        after: Option<Topic>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<TopicInfo>, Unavailable>>;

    /// Deletes all events of a topic. Readers that have not read them get a gap. Returns the number of deleted events.
    ///
    /// For a `job:` topic the name is deleted too. It MUST NOT be appended to again: the journal treats a new job as a
    /// topic without history.
    fn purge(&self, topic: Topic) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// Reads one record; `None` if it does not exist.
    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Record>, Unavailable>>;

    /// The keys of records that begin with `prefix`, in order, after the key `after`, at most `limit`. Values may be
    /// large; read each with [`get`](Self::get).
    fn keys(
        &self,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, Unavailable>>;

    /// Deletes events by retention; `now_ms` is the time of the monotonic clock ([`Clock::steady_ms`]). The node calls
    /// it about once per second.
    fn sweep(&self, now_ms: u64) -> BoxFuture<'_, Result<(), Unavailable>>;

    /// Writes everything that was accepted to the disk, and records a clean stop. Afterwards all methods return
    /// [`Unavailable::Closed`].
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Compacts or verifies the whole journal. A second call at the same time returns [`Unavailable::Working`].
    ///
    /// The default implementation is for adapters that store nothing on a disk.
    fn maintain(&self, work: Maintenance) -> BoxFuture<'_, Result<MaintenanceReport, Unavailable>> {
        let Stats { events, topics, records, .. } = self.stats();
        Box::pin(async move {
            Ok(match work {
                Maintenance::Compact => MaintenanceReport::Compacted(Compacted { bytes_before: 0, bytes_after: 0 }),
                Maintenance::Verify => {
                    MaintenanceReport::Verified(Verified { events, topics, records, ..Verified::default() })
                }
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

/// Events and records that are written in one commit.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events, in the order in which they get their offsets.
    pub events: Vec<Draft>,
    /// Records to write or delete.
    pub records: Vec<RecordWrite>,
    /// Conditions on records. If one is false, nothing is written.
    pub expect: Vec<Expect>,
}

/// A record to write or delete.
#[derive(Clone, Debug)]
pub struct RecordWrite {
    /// Key of the record. Each component has its own prefix (`job/…`).
    pub key: String,
    /// New value; `None` deletes the record.
    pub value: Option<Bytes>,
}

/// A condition on a record.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Key of the record.
    pub key: String,
    /// The revision that the record must have; `None`: the record must not exist.
    pub revision: Option<u64>,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// Changes with every write of the record.
    pub revision: u64,
}

/// The result for one event of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Position of the event.
    pub position: Position,
    /// True if the publisher had sent this event before; `position` is then that of the first one.
    pub duplicate: bool,
}

/// Selects the events of a [`Page`].
#[derive(Clone, Debug)]
pub struct Query {
    /// Events in at least one of these topics.
    pub patterns: Arc<[Pattern]>,
    /// Only events with a greater offset.
    pub after: u64,
    /// Deletions up to this offset are known to the reader and are not reported again.
    pub floor: u64,
    /// Maximum number of events in the page.
    pub limit: usize,
    /// The page ends after the event with which its data reach this number of bytes.
    pub max_bytes: usize,
}

/// Events of some topics, as [`Journal::read`] returns them.
#[derive(Clone, Debug)]
pub struct Page {
    /// Events in journal order.
    pub events: Vec<SharedEvent>,
    /// The page is complete up to this offset. The next page begins after it.
    pub through: u64,
    /// Topics of the query of which events after both `after` and `floor` were deleted; at most [`Page::MAX_TRIMMED`].
    pub trimmed: Vec<Trimmed>,
}

/// A topic of which requested events were deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trimmed {
    /// The topic. If the topic itself was removed: the pattern of the reader.
    pub topic: String,
    /// The first event that is still stored.
    pub earliest: Option<Position>,
}

/// Events of all topics, as [`Journal::since`] returns them.
#[derive(Clone, Debug)]
pub struct Since {
    /// Events in journal order.
    pub events: Vec<SharedEvent>,
    /// Complete up to this offset.
    pub through: u64,
    /// True if events after `after` were deleted before this read.
    pub missed: bool,
}

/// Figures of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicInfo {
    /// Name of the topic.
    #[schema(value_type = String)]
    pub topic: Topic,
    /// Number of stored events.
    pub events: u64,
    /// Size of the stored events in bytes, as retention counts it.
    pub bytes: u64,
    /// Position of the first stored event.
    #[schema(value_type = Option<String>)]
    pub first: Option<Position>,
    /// Position of the last stored event.
    #[schema(value_type = Option<String>)]
    pub last: Option<Position>,
}

/// Figures of a journal.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JournalStats)]
pub struct Stats {
    /// Number of stored events.
    pub events: u64,
    /// Size of the stored events in bytes, as retention counts it.
    pub bytes: u64,
    /// Bytes of stored events in job histories, which retention does not delete.
    pub pinned_bytes: u64,
    /// Number of topics.
    pub topics: u64,
    /// Number of records.
    pub records: u64,
    /// Size of the records in bytes.
    pub record_bytes: u64,
    /// Events appended since the start.
    pub appended: u64,
    /// Events deleted by retention since the start.
    pub trimmed: u64,
    /// Events not appended since the start because their publisher had sent them before.
    pub duplicates: u64,
    /// Commits to the disk since the start. One commit writes all batches that wait.
    pub commits: u64,
    /// Commits since the start that held the thread of their publisher for more than 1 ms.
    pub worker_stalls: u64,
    /// Bytes on the disk. Deleted data count until their segment is cleaned.
    pub disk_bytes: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    /// True if the disk rejected the last write. Reading still works.
    pub refusing: bool,
}

// === impl Stats ===

impl Stats {
    /// Adds the figures of the journal.
    pub fn metrics(&self, rows: &mut Rows) {
        rows.gauge("journal_events", "Events stored.", self.events);
        rows.gauge("journal_bytes", "Bytes of the stored events.", self.bytes);
        let help = "Bytes of job histories, which retention does not delete.";
        rows.gauge("journal_pinned_bytes", help, self.pinned_bytes);
        rows.gauge("journal_topics", "Topics.", self.topics);
        rows.gauge("journal_records", "Records stored.", self.records);
        rows.gauge("journal_record_bytes", "Bytes of the records.", self.record_bytes);
        rows.gauge("journal_disk_bytes", "Bytes of the journal on disk.", self.disk_bytes);
        rows.gauge("journal_queued_bytes", "Bytes that wait to be written.", self.queued_bytes);
        rows.gauge("journal_refusing", "1 while the disk rejects events.", u64::from(self.refusing));
        rows.counter("journal_events_appended", "Events appended.", self.appended);
        rows.counter("journal_events_trimmed", "Events that retention deleted.", self.trimmed);
        let help = "Events not appended because their publisher had sent them before.";
        rows.counter("journal_duplicates", help, self.duplicates);
        rows.counter("journal_commits", "Commits to the disk. One commit writes all batches that wait.", self.commits);
        rows.counter("worker_stalls", "Commits that held a worker thread for more than 1 ms.", self.worker_stalls);
    }
}

// === impl Page ===

impl Page {
    /// Maximum number of topics in [`Page::trimmed`], so that a gap frame stays small.
    pub const MAX_TRIMMED: usize = 32;
}

// === impl Batch ===

impl Batch {
    /// A batch of events without records.
    pub fn events(events: Vec<Draft>) -> Self {
        Self { events, ..Self::default() }
    }

    /// True if the batch adds data; false if it only deletes.
    fn adds_data(&self) -> bool {
        !self.events.is_empty() || self.records.iter().any(|record| record.value.is_some())
    }
}

/// A new random epoch, so that no two incarnations of a journal share one.
fn new_epoch() -> u64 {
    // The high bit gives all epochs the same length, and none is 0.
    rand::random::<u64>() >> 16 | 1 << 47
}

/// Opens the journal that the settings select. The embedded journal stores its files in `data_dir`.
///
/// # Errors
/// If the directory cannot be used, or its content is damaged.
pub fn open(config: &Config, data_dir: &Path) -> Result<Shared, OpenError> {
    open_with(config, data_dir, Clock::system())
}

/// Like [`open`], with the clock of the node.
///
/// # Errors
/// If the directory cannot be used, or its content is damaged.
pub fn open_with(config: &Config, data_dir: &Path, clock: Clock) -> Result<Shared, OpenError> {
    Ok(match config.kind {
        Kind::Embedded => Arc::new(Embedded::with_clock(config, data_dir, clock)?),
        Kind::Memory => Arc::new(Memory::with_clock(config, clock)),
    })
}
