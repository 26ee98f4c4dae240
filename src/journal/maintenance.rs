//! Maintenance of a journal: inspect, export as JSON lines, verify, compact.
//!
//! Everything here uses the port only, so that a running node, a stopped node and the journal in memory give equal
//! results.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use utoipa::ToSchema;

use super::{Journal, Query, Stats, TopicInfo, Unavailable};
use crate::{
    event::{Event, Position},
    json::Json,
    topic::{Pattern, Topic},
};

/// Work on the whole journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Free the disk space of deleted data.
    Compact,
    /// Read everything and report damage.
    Verify,
}

/// Result of [`Journal::maintain`].
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum MaintenanceReport {
    /// Result of [`Maintenance::Compact`].
    Compacted(Compacted),
    /// Result of [`Maintenance::Verify`].
    Verified(Verified),
}

/// Disk usage before and after a compaction.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({ "bytesBefore": 4096, "bytesAfter": 1024 })))]
pub struct Compacted {
    /// Bytes on the disk before the compaction.
    pub bytes_before: u64,
    /// Bytes on the disk after the compaction.
    pub bytes_after: u64,
}

/// Result of a verification: the number of items read, and the damage found.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(examples(json!({
    "damaged": false, "events": 17, "topics": 2, "records": 1, "counts": {}, "findings": [],
})))]
pub struct Verified {
    /// True if acknowledged data are missing or have changed.
    pub damaged: bool,
    /// Number of events read.
    pub events: u64,
    /// Number of topics read.
    pub topics: u64,
    /// Number of records read.
    pub records: u64,
    /// Number of findings of each kind.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub counts: BTreeMap<&'static str, u64>,
    /// The first [`Verified::MAX_FINDINGS`] findings.
    pub findings: Vec<Finding>,
}

/// Something that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// Kind of the finding, one word.
    pub kind: &'static str,
    /// The affected item and its defect.
    pub detail: String,
}

/// Summary of a journal.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JournalInspection, examples(json!({
    "epoch": "9c1f00aa0b77", "head": "9c1f00aa0b77-12", "oldest": 1_790_000_000_000_u64, "newest": 1_790_000_000_400_u64,
    "events": 12, "bytes": 2048, "pinnedBytes": 0, "topics": 1, "records": 0, "recordBytes": 0, "appended": 12, "trimmed": 0,
    "duplicates": 0, "commits": 9, "workerStalls": 0, "diskBytes": 4096, "queuedBytes": 0, "refusing": false,
    "topTopics": [{ "topic": "order:7", "events": 12, "bytes": 2048, "first": "9c1f00aa0b77-1", "last": "9c1f00aa0b77-12" }],
})))]
pub struct Inspection {
    /// The epoch, as it is written in positions.
    pub epoch: String,
    /// Position of the last appended event, whether it is still stored or not.
    #[schema(value_type = String)]
    pub head: Position,
    /// Time at which the oldest stored event was appended, in Unix milliseconds.
    pub oldest: Option<u64>,
    /// Time at which the newest stored event was appended, in Unix milliseconds.
    pub newest: Option<u64>,
    /// How the last node stopped. Absent for a running node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_stop: Option<&'static str>,
    /// Figures of the journal.
    #[serde(flatten)]
    pub stats: Stats,
    /// The topics with the most bytes, at most ten.
    pub top_topics: Vec<TopicInfo>,
}

/// Exports all events of some topics as JSON lines, in journal order, in parts of bounded size.
pub struct Export {
    journal: Arc<dyn Journal>,
    query: Query,
    remaining: u64,
}

/// Maximum number of events and bytes in one part of an export.
const PART_EVENTS: usize = 1000;
const PART_BYTES: usize = 64 << 10;
const TOP_TOPICS: usize = 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportRow<'a> {
    id: Position,
    topic: &'a Topic,
    #[serde(skip_serializing_if = "<[Topic]>::is_empty")]
    also_in: &'a [Topic],
    event: &'a str,
    data: Json,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher_id: Option<&'a str>,
}

// === impl Verified ===

impl Verified {
    /// Maximum number of listed findings; further ones are only counted.
    pub const MAX_FINDINGS: usize = 100;

    pub(super) fn damage(&mut self, kind: &'static str, detail: impl Into<String>) {
        self.damaged = true;
        self.note(kind, detail);
    }

    /// Records a finding that is not damage.
    pub(super) fn note(&mut self, kind: &'static str, detail: impl Into<String>) {
        *self.counts.entry(kind).or_default() += 1;
        if self.findings.len() < Self::MAX_FINDINGS {
            self.findings.push(Finding { kind, detail: detail.into() });
        }
    }
}

// === impl Inspection ===

impl Inspection {
    /// Inspects a journal.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn of(journal: &dyn Journal) -> Result<Self, Unavailable> {
        let any: Arc<[Pattern]> = vec![Pattern::any()].into();
        let epoch = journal.epoch();
        let head = *journal.watch_head().borrow();
        let before_last = journal.before_last(any.clone(), 1).await?;
        Ok(Self {
            epoch: format!("{epoch:x}"),
            head: Position { epoch, offset: head },
            oldest: first_after(journal, &any, 0).await?,
            newest: first_after(journal, &any, before_last).await?,
            last_stop: None,
            stats: journal.stats(),
            top_topics: top_topics(journal).await?,
        })
    }
}

/// The timestamp of the first event after an offset.
async fn first_after(journal: &dyn Journal, any: &Arc<[Pattern]>, mut after: u64) -> Result<Option<u64>, Unavailable> {
    loop {
        let query = Query { patterns: any.clone(), after, floor: after, limit: 1, max_bytes: 1 };
        let page = journal.read(query).await?;
        if let Some(event) = page.events.first() {
            return Ok(Some(event.timestamp));
        }
        if page.through <= after || page.through >= *journal.watch_head().borrow() {
            return Ok(None);
        }
        after = page.through;
    }
}

async fn top_topics(journal: &dyn Journal) -> Result<Vec<TopicInfo>, Unavailable> {
    let mut top: Vec<TopicInfo> = Vec::new();
    let mut after = None;
    loop {
        let page = journal.topics(Pattern::any(), after, PART_EVENTS).await?;
        let Some(last) = page.last() else { return Ok(top) };
        after = Some(last.topic.clone());
        top.extend(page);
        top.sort_by_key(|info| std::cmp::Reverse(info.bytes));
        top.truncate(TOP_TOPICS);
    }
}

// === impl Export ===

impl Export {
    /// An export of the events after the offset `after`, at most `limit`. No pattern means all topics.
    pub fn new(journal: Arc<dyn Journal>, patterns: Vec<Pattern>, after: u64, limit: Option<u64>) -> Self {
        let patterns = if patterns.is_empty() { vec![Pattern::any()] } else { patterns };
        let query = Query { patterns: patterns.into(), after, floor: after, limit: PART_EVENTS, max_bytes: PART_BYTES };
        Self { journal, query, remaining: limit.unwrap_or(u64::MAX) }
    }

    /// The next lines, each with its line break; `None` at the end.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn next(&mut self) -> Result<Option<String>, Unavailable> {
        while self.remaining > 0 && self.query.after < *self.journal.watch_head().borrow() {
            self.query.limit = PART_EVENTS.min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
            let page = self.journal.read(self.query.clone()).await?;
            self.query.after = page.through;
            self.remaining -= page.events.len() as u64;
            if !page.events.is_empty() {
                // Joined at the end: a growing buffer would need up to twice the memory.
                let lines: Vec<String> = page.events.iter().map(|event| line(event)).collect();
                return Ok(Some(lines.concat()));
            }
        }
        Ok(None)
    }
}

fn line(event: &Event) -> String {
    let Some((topic, also_in)) = event.topics.split_first() else { return String::new() };
    let row = ExportRow {
        id: event.position,
        topic,
        also_in,
        event: event.name(),
        data: event.data_json(),
        timestamp: event.timestamp,
        origin: event.origin.as_deref(),
        source: event.source(),
        publisher_id: event.key.as_deref(),
    };
    serde_json::to_string(&row).expect("plain data serialises") + "\n"
}
