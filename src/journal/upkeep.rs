//! Looking after a journal: what there is in it, all of it as lines of JSON, and whether it is as it was written.
//!
//! Everything here goes through the port, so that a running node, a stopped one and the journal in memory tell the same.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use utoipa::ToSchema;

use super::{Journal, Query, Stats, TopicInfo, Unavailable};
use crate::{
    event::{Event, Position},
    json::Json,
    topic::{Pattern, Topic},
};

/// Work on a journal as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Clear away what was deleted.
    Compact,
    /// Read everything and say what is wrong.
    Verify,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of [`Maintenance::Compact`].
    Compacted(Compacted),
    /// Of [`Maintenance::Verify`].
    Verified(Verified),
}

/// How much less there is on the disk.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(examples(json!({ "bytesBefore": 4096, "bytesAfter": 1024 })))]
pub struct Compacted {
    /// Bytes on the disk before.
    pub bytes_before: u64,
    /// And after it.
    pub bytes_after: u64,
}

/// What a verification has read, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(examples(json!({
    "damaged": false, "events": 17, "topics": 2, "records": 1, "counts": {}, "findings": [],
})))]
pub struct Verified {
    /// Something that was acknowledged is missing, or is not as it was written.
    pub damaged: bool,
    /// Events read.
    pub events: u64,
    /// Topics read.
    pub topics: u64,
    /// Records read.
    pub records: u64,
    /// How many findings there are of each kind.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub counts: BTreeMap<&'static str, u64>,
    /// The first [`Verified::MAX_FINDINGS`] of them.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// One word for it.
    pub kind: &'static str,
    /// Which, and what is wrong with it.
    pub detail: String,
}

/// What there is in a journal.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JournalInspection, examples(json!({
    "epoch": "9c1f00aa0b77", "head": "9c1f00aa0b77-12", "oldest": 1_790_000_000_000_u64, "newest": 1_790_000_000_400_u64,
    "events": 12, "bytes": 2048, "pinnedBytes": 0, "topics": 1, "records": 0, "recordBytes": 0, "appended": 12, "trimmed": 0,
    "duplicates": 0, "commits": 9, "diskBytes": 4096, "queuedBytes": 0, "refusing": false,
    "topTopics": [{ "topic": "order:7", "events": 12, "bytes": 2048, "first": "9c1f00aa0b77-1", "last": "9c1f00aa0b77-12" }],
})))]
pub struct Inspection {
    /// The epoch, as positions spell it.
    pub epoch: String,
    /// The last event that was ever appended.
    #[schema(value_type = String)]
    pub head: Position,
    /// When the first event that is kept was appended, in Unix milliseconds.
    pub oldest: Option<u64>,
    /// And the last.
    pub newest: Option<u64>,
    /// How the node stopped that wrote it; none while one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_stop: Option<&'static str>,
    /// Figures.
    #[serde(flatten)]
    pub stats: Stats,
    /// The topics with the most bytes, at most ten.
    pub top_topics: Vec<TopicInfo>,
}

/// All events of some topics as lines of JSON, in journal order, a bounded part at a time.
pub struct Export {
    journal: Arc<dyn Journal>,
    query: Query,
    left: u64,
}

/// Events and bytes in one part of an export.
const PART_EVENTS: usize = 1000;
const PART_BYTES: usize = 64 << 10;
const TOP_TOPICS: usize = 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
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
    /// Most findings that are listed; the rest is counted.
    pub const MAX_FINDINGS: usize = 100;

    pub(super) fn damage(&mut self, kind: &'static str, detail: impl Into<String>) {
        self.damaged = true;
        self.note(kind, detail);
    }

    /// Notes what is no damage.
    pub(super) fn note(&mut self, kind: &'static str, detail: impl Into<String>) {
        *self.counts.entry(kind).or_default() += 1;
        if self.findings.len() < Self::MAX_FINDINGS {
            self.findings.push(Finding { kind, detail: detail.into() });
        }
    }
}

// === impl Inspection ===

impl Inspection {
    /// Looks at a journal.
    ///
    /// # Errors
    /// When the journal does not answer.
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
    /// An export of the events after an offset; `limit` bounds how many.
    pub fn new(journal: Arc<dyn Journal>, patterns: Vec<Pattern>, after: u64, limit: Option<u64>) -> Self {
        let patterns = if patterns.is_empty() { vec![Pattern::any()] } else { patterns };
        let query = Query { patterns: patterns.into(), after, floor: after, limit: PART_EVENTS, max_bytes: PART_BYTES };
        Self { journal, query, left: limit.unwrap_or(u64::MAX) }
    }

    /// The next lines, each with its line break; `None` at the end.
    ///
    /// # Errors
    /// When the journal does not answer.
    pub async fn next(&mut self) -> Result<Option<String>, Unavailable> {
        while self.left > 0 && self.query.after < *self.journal.watch_head().borrow() {
            self.query.limit = PART_EVENTS.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let page = self.journal.read(self.query.clone()).await?;
            self.query.after = page.through;
            self.left -= page.events.len() as u64;
            if !page.events.is_empty() {
                // Joined at the end: a growing buffer would hold up to twice the bytes.
                let lines: Vec<String> = page.events.iter().map(|event| line(event)).collect();
                return Ok(Some(lines.concat()));
            }
        }
        Ok(None)
    }
}

fn line(event: &Event) -> String {
    let Some((topic, also_in)) = event.topics.split_first() else { return String::new() };
    let row = Row {
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
