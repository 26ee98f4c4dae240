//! Settings of section `[journal]`.

use serde::{Deserialize, Serialize};

use crate::topic::{Pattern, Topic};

/// Settings of section `[journal]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which adapter keeps the events: `embedded`, on disk in `server.data_dir`, or `memory`.
    pub kind: Kind,
    /// When an event is on the disk: `always`, before it is acknowledged; `interval`, at most 100 ms after it; `os`, when
    /// the system likes. Only a crash of the whole machine tells them apart.
    pub sync: SyncMode,
    /// An event is let go after so many milliseconds; 0: never.
    pub retention_ms: u64,
    /// Most events that a topic keeps; 0: no bound.
    pub retention_events: u64,
    /// Most bytes that a topic keeps; 0: no bound. Its newest event stays, however large it is.
    pub retention_bytes: u64,
    /// Most bytes that the node keeps in all topics; the oldest go first, job histories only when they are purged.
    pub max_bytes: u64,
    /// Most topics that the node keeps; the ones that were silent longest go first. Job histories do not count.
    pub max_topics: u64,
    /// Largest event in bytes.
    pub max_event_bytes: usize,
    /// Bytes of batches that may wait for the disk.
    pub queue_bytes: u64,
    /// How long a publisher waits for room in that queue, in milliseconds; then it is told to come back later.
    pub queue_wait_ms: u64,
    /// Bytes of events that are kept ready in memory.
    pub cache_bytes: u64,
    /// Nothing more is accepted while the disk has fewer bytes left.
    pub min_free_bytes: u64,
    /// How long a publisher's own id is remembered, in milliseconds, at most as long as its event.
    pub dedupe_ms: u64,
    /// Overrides for topics that match a pattern; the first that matches counts.
    pub retention: Vec<Retention>,
}

/// The adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// On disk, in the node's data directory.
    Embedded,
    /// In memory: gone with the process.
    Memory,
}

/// When an event is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Before it is acknowledged.
    #[default]
    Always,
    /// At most 100 ms after it was acknowledged; the system has it before.
    Interval,
    /// When the system likes; it has it before it is acknowledged.
    Os,
}

/// One `[[journal.retention]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// A topic or a prefix with a trailing `*`.
    pub topic: String,
    /// As in [`Config::retention_ms`].
    pub retention_ms: Option<u64>,
    /// As in [`Config::retention_events`].
    pub retention_events: Option<u64>,
    /// As in [`Config::retention_bytes`].
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
    /// The events of a job, errors and names included, must fit.
    const MIN_EVENT_BYTES: usize = 4096;
    const MIN_QUEUE_BYTES: u64 = 64 << 10;

    /// How long, in milliseconds, a publisher's own id is remembered as far as time decides; for events of this topic, or of
    /// one that has no rule of its own. Bounds of number and size may let an event go earlier, and its id with it.
    pub fn remembered_ms(&self, topic: Option<&Topic>) -> u64 {
        let names = |rule: &&Retention| {
            topic.is_some_and(|topic| Pattern::new(&rule.topic).is_ok_and(|pattern| pattern.matches(topic)))
        };
        let rule = self.retention.iter().find(names);
        let age = rule.and_then(|rule| rule.retention_ms).unwrap_or(self.retention_ms);
        if age == 0 { self.dedupe_ms } else { self.dedupe_ms.min(age) }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the key and the accepted form.
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
