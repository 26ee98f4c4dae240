//! Pages of history that wait for readers who are behind: bounded over all emitters of a thread.
//!
//! Live events are in memory once for all emitters. A page is read for one emitter alone, so readers that ask for history
//! and take nothing would cost a page each. When the pages are too many, the next one is read when another was written;
//! emitters whose clients take nothing of theirs do not make the others wait for long.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{sync::Notify, time::timeout};

use super::Bounds;
use crate::unsent::{Unsent, Why};

/// An emitter whose client has not taken enough for so long gives its page up when others wait for one.
pub(super) const STUCK: Duration = Duration::from_secs(1);
/// How often an emitter that waits for room looks for those that are stuck.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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

    /// Bytes that are to go before another page is read.
    pub(super) fn excess(&self) -> usize {
        (self.bytes.get() + 1).saturating_sub(self.max_bytes)
    }

    /// Waits until a page was written, or for a moment.
    pub(super) async fn changed(&self) {
        let _ = timeout(LOOK_EVERY, self.written.notified()).await;
    }

    /// One more emitter was ended for the room that its page takes.
    pub(super) fn count(&self) {
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

    /// So many bytes more wait for the emitter.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.pages.bytes.set(self.pages.bytes.get() + bytes);
        self.pages.unsent.grow(bytes);
    }

    /// All of it was written, or is given up.
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
