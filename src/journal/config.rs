//! Settings of section `[journal]`.

use serde::{Deserialize, Serialize};

use crate::topic::{Pattern, Topic};

/// Settings of section `[journal]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The adapter that stores the events: `embedded`, on disk in `server.data_dir`, or `memory`.
    pub kind: Kind,
    /// When an event is written to the disk: `always`, before it is acknowledged; `interval`, at most 100 ms later; `os`,
    /// when the operating system decides. The difference matters only after a crash of the whole machine.
    pub sync: SyncMode,
    /// Age in milliseconds at which an event is deleted; 0: never.
    pub retention_ms: u64,
    /// Maximum number of events per topic; 0: no limit.
    pub retention_events: u64,
    /// Maximum number of bytes per topic; 0: no limit. The newest event of a topic is kept, whatever its size.
    pub retention_bytes: u64,
    /// Maximum number of bytes in all topics. The oldest events are deleted first; job histories only by a purge.
    pub max_bytes: u64,
    /// Maximum number of topics. Topics whose last event is oldest are deleted first. Job histories do not count.
    pub max_topics: u64,
    /// Maximum size of an event in bytes.
    pub max_event_bytes: usize,
    /// Maximum number of bytes of batches that wait for the disk.
    pub queue_bytes: u64,
    /// Maximum time in milliseconds that a publisher waits for space in that queue. Then the event is rejected.
    pub queue_wait_ms: u64,
    /// Maximum number of bytes of events in the memory cache.
    pub cache_bytes: u64,
    /// Free bytes of the disk below which new data are rejected.
    pub min_free_bytes: u64,
    /// Time in milliseconds for which an event id of a publisher is remembered, but not longer than its event.
    pub dedupe_ms: u64,
    /// Overrides for topics that match a pattern. The first match applies.
    pub retention: Vec<Retention>,
}

/// The adapters of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// On disk, in the data directory of the node.
    Embedded,
    /// In memory. The events are lost when the process ends.
    Memory,
}

/// When an event is written to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Before it is acknowledged.
    #[default]
    Always,
    /// At most 100 ms after it was acknowledged. The operating system has it before the acknowledgement.
    Interval,
    /// When the operating system decides. It has the event before the acknowledgement.
    Os,
}

/// One `[[journal.retention]]`: limits for the topics of a pattern.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// A topic, or a prefix with a trailing `*`.
    pub topic: String,
    /// Overrides [`Config::retention_ms`].
    pub retention_ms: Option<u64>,
    /// Overrides [`Config::retention_events`].
    pub retention_events: Option<u64>,
    /// Overrides [`Config::retention_bytes`].
    pub retention_bytes: Option<u64>,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::Embedded,
            sync: SyncMode::default(),
            retention_ms: 24 * 60 * 60 * 1000,
            retention_events: 10_000,
            retention_bytes: 16 << 20,
            max_bytes: 1 << 30,
            max_topics: 100_000,
            max_event_bytes: 1 << 20,
            queue_bytes: 16 << 20,
            queue_wait_ms: 5000,
            cache_bytes: 32 << 20,
            min_free_bytes: 64 << 20,
            dedupe_ms: 10 * 60 * 1000,
            retention: Vec::new(),
        }
    }
}

impl Config {
    /// Every event of a job, with its names and error messages, must fit.
    const MIN_EVENT_BYTES: usize = 4096;
    const MIN_QUEUE_BYTES: u64 = 64 << 10;

    /// Settings without limits of retention, so that nothing is deleted.
    pub(super) fn unlimited() -> Self {
        Self {
            retention_ms: 0,
            retention_events: 0,
            retention_bytes: 0,
            max_bytes: u64::MAX,
            max_topics: u64::MAX,
            ..Self::default()
        }
    }

    /// The time in milliseconds for which an event id of a publisher is remembered: for events of this topic, or, for
    /// `None`, of topics without a rule. If other limits delete the event earlier, its id is forgotten earlier.
    pub fn remembered_ms(&self, topic: Option<&Topic>) -> u64 {
        let names = |rule: &&Retention| {
            topic.is_some_and(|topic| Pattern::new(&rule.topic).is_ok_and(|pattern| pattern.matches(topic)))
        };
        let rule = self.retention.iter().find(names);
        let age = rule.and_then(|rule| rule.retention_ms).unwrap_or(self.retention_ms);
        if age == 0 { self.dedupe_ms } else { self.dedupe_ms.min(age) }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// Names the setting and the accepted values.
    pub fn check(&self) -> Result<(), String> {
        if self.max_event_bytes < Self::MIN_EVENT_BYTES || self.max_event_bytes as u64 > self.max_bytes {
            let least = Self::MIN_EVENT_BYTES;
            return Err(format!("`journal.max_event_bytes` must be from {least} to `journal.max_bytes`"));
        }
        if self.queue_bytes < Self::MIN_QUEUE_BYTES {
            return Err(format!("`journal.queue_bytes` must be at least {}", Self::MIN_QUEUE_BYTES));
        }
        if self.max_topics == 0 {
            return Err("`journal.max_topics` must be at least 1".into());
        }
        for rule in &self.retention {
            Pattern::new(&rule.topic).map_err(|e| format!("`journal.retention.topic`: {e}"))?;
        }
        Ok(())
    }
}
