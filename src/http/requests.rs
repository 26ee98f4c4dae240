//! Counts of the responses of a node, by class of status, and of refused requests, by reason; and the text of the last
//! scrape of its metrics.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix_web::HttpResponse;

use super::{error::Refused, refusal::Refusal};
use crate::{
    metrics::Rows,
    unsent::{Share, Unsent},
};

/// Responses and refused requests since the start, and the text of the last scrape.
#[derive(Debug)]
pub(super) struct Requests {
    classes: [AtomicU64; 5],
    refused: [AtomicU64; Refusal::ALL.len()],
    pub(super) scrapes: Scrapes,
}

/// The text of the last scrape. While the node holds many unread responses, a scrape gets this text again: scrapes must
/// not add to the held memory.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<Option<(Instant, Weak<Share>)>>);

/// Maximum age of a reused text.
const SAME_FOR: Duration = Duration::from_secs(1);

// === impl Requests ===

impl Requests {
    /// Counts a response, and the refusal that it carries.
    pub(super) fn count<B>(&self, response: &HttpResponse<B>) {
        let class = usize::from(response.status().as_u16() / 100).clamp(1, 5);
        self.classes[class - 1].fetch_add(1, Relaxed);
        if let Some(Refused { refusal, .. }) = response.extensions().get() {
            self.refused[*refusal as usize].fetch_add(1, Relaxed);
        }
    }

    /// Adds the counts.
    pub(super) fn metrics(&self, rows: &mut Rows) {
        let count = |count: &AtomicU64| count.load(Relaxed);
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(self.classes.iter().map(count));
        rows.counters("http_responses", "Responses, by class of status.", "class", classes);
        let reasons = Refusal::ALL.iter().map(|refusal| refusal.as_str()).zip(self.refused.iter().map(count));
        rows.counters("http_refused", "Requests that the node refused, by reason.", "reason", reasons);
    }
}

impl Default for Requests {
    fn default() -> Self {
        let refused = std::array::from_fn(|_| AtomicU64::default());
        Self { classes: Default::default(), refused, scrapes: Scrapes::default() }
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
