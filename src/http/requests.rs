//! Counts of the responses of a node, by class of status; and the text of the last scrape of its metrics.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix_web::http::StatusCode;

use crate::unsent::{Share, Unsent};

/// Responses since the start, by class of status, and the text of the last scrape.
#[derive(Debug, Default)]
pub(super) struct Requests {
    classes: [AtomicU64; 5],
    pub(super) scrapes: Scrapes,
}

/// The text of the last scrape. While the node holds many responses for clients that do not read them, a scrape gets this
/// text again: scrapes must not add to them.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<Option<(Instant, Weak<Share>)>>);

/// How long a text is used again.
const SAME_FOR: Duration = Duration::from_secs(1);

// === impl Requests ===

impl Requests {
    /// Counts a response.
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.classes[class - 1].fetch_add(1, Relaxed);
    }

    /// The counts with the names of their classes, `1xx` to `5xx`.
    pub(super) fn by_class(&self) -> [(&'static str, u64); 5] {
        let names = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        std::array::from_fn(|class| (names[class], self.classes[class].load(Relaxed)))
    }
}

// === impl Scrapes ===

impl Scrapes {
    /// The last text; `None` if it is old, or if a new text costs little.
    pub(super) fn last(&self, unsent: &Unsent) -> Option<Arc<Share>> {
        if unsent.bytes() <= unsent.max_bytes() / 2 {
            return None;
        }
        let last = self.0.lock().expect("no code that holds the lock panics");
        last.as_ref().filter(|(made, _)| made.elapsed() < SAME_FOR)?.1.upgrade()
    }

    /// Keeps a new text for as long as a response holds it.
    pub(super) fn keep(&self, text: &Arc<Share>) {
        *self.0.lock().expect("no code that holds the lock panics") = Some((Instant::now(), Arc::downgrade(text)));
    }
}
