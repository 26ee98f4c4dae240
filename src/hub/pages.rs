//! Limits the pages of history that wait for readers, over all emitters of a thread.
//!
//! Live events are in memory once for all emitters. A page is read for a single emitter, so each client that requests
//! history and does not read would hold one page. At the limit, the next page is read only after another page was
//! written. Emitters whose clients do not read are ended soon, so that the others do not wait long.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{sync::Notify, time::timeout};

use super::Bounds;
use crate::unsent::{Unsent, Why};

/// An emitter whose client has read too little for this time is ended when other emitters wait for a page.
pub(super) const STUCK: Duration = Duration::from_secs(1);
/// Interval at which a waiting emitter checks for blocked emitters.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The pages of all emitters of a thread.
pub(super) struct Pages {
    bytes: Cell<usize>,
    max_bytes: usize,
    unsent: Unsent,
    written: Notify,
}

/// The bytes of one emitter's page.
pub(super) struct PageBytes {
    pages: Rc<Pages>,
    bytes: usize,
}

// === impl Pages ===

impl Pages {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let Bounds { unsent, max_page_bytes } = bounds.clone();
        Self { bytes: Cell::new(0), max_bytes: max_page_bytes, unsent, written: Notify::new() }
    }

    /// Bytes that must be freed before another page is read.
    pub(super) fn excess(&self) -> usize {
        (self.bytes.get() + 1).saturating_sub(self.max_bytes)
    }

    /// Waits until a page was written, at most [`CHECK_EVERY`].
    pub(super) async fn changed(&self) {
        let _ = timeout(CHECK_EVERY, self.written.notified()).await;
    }

    /// Counts an emitter that was ended to free its page.
    pub(super) fn count_evicted(&self) {
        self.unsent.count(Why::UnsentBytes);
    }
}

// === impl PageBytes ===

impl PageBytes {
    pub(super) fn new(pages: Rc<Pages>) -> Self {
        Self { pages, bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds bytes that wait for the emitter.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.pages.bytes.set(self.pages.bytes.get() + bytes);
        self.pages.unsent.grow(bytes);
    }

    /// Releases the page after it was written or dropped.
    pub(super) fn clear(&mut self) {
        if self.bytes > 0 {
            self.pages.bytes.set(self.pages.bytes.get() - self.bytes);
            self.pages.unsent.shrink(self.bytes);
            self.bytes = 0;
            self.pages.written.notify_one();
        }
    }
}

impl Drop for PageBytes {
    fn drop(&mut self) {
        self.clear();
    }
}
