//! Bytes that several answers send from the same memory.

use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};

use bytes::Bytes;

use super::Unsent;

/// A copy that is counted once, however many answers send it.
#[derive(Debug)]
pub struct Share {
    unsent: Unsent,
    bytes: Bytes,
    /// Answers that wait for their clients with it.
    accounts: AtomicUsize,
}

// === impl Share ===

impl Share {
    pub(super) fn new(unsent: Unsent, bytes: Bytes) -> Self {
        Self { unsent, bytes, accounts: AtomicUsize::new(0) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn joined(&self) {
        self.accounts.fetch_add(1, Relaxed);
    }

    /// One answer less; how many bytes that makes free.
    pub(super) fn left(&self) -> usize {
        if self.accounts.fetch_sub(1, AcqRel) == 1 { self.bytes.len() } else { 0 }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.unsent.shrink(self.bytes.len());
    }
}
