//! Bytes that several responses send from the same memory.

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};

use bytes::Bytes;

use super::Unsent;

/// A copy that counts once for all responses that send it.
#[derive(Debug)]
pub struct Share {
    unsent: Unsent,
    bytes: Bytes,
    /// Waiting responses that send it.
    accounts: AtomicUsize,
    /// True if the last of them is ending, so the copy is freed soon.
    leaving: AtomicBool,
}

// === impl Share ===

impl Share {
    pub(super) fn new(unsent: Unsent, bytes: Bytes) -> Self {
        Self { unsent, bytes, accounts: AtomicUsize::new(0), leaving: AtomicBool::new(false) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn joined(&self) {
        self.accounts.fetch_add(1, Relaxed);
        self.stays();
    }

    /// One response fewer.
    pub(super) fn left(&self) {
        if self.accounts.fetch_sub(1, AcqRel) == 1 && !self.leaving.swap(true, AcqRel) {
            self.unsent.0.leaving.fetch_add(self.bytes.len(), Relaxed);
        }
    }

    fn stays(&self) {
        if self.leaving.swap(false, AcqRel) {
            self.unsent.0.leaving.fetch_sub(self.bytes.len(), Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.stays();
        self.unsent.shrink(self.bytes.len());
    }
}
