//! What the contract cannot see: what stands on the disk, and what an opening makes of it.

use std::sync::{Arc, OnceLock};

use super::*;
use crate::journal::{Shared as Journal_, SyncMode};

/// A fresh journal in a directory that goes with the test process.
pub fn fresh(config: &Config) -> Journal_ {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let root = ROOT.get_or_init(|| tempfile::tempdir().unwrap());
    let dir = root.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let config = Config { sync: SyncMode::Os, min_free_bytes: 0, ..config.clone() };
    Arc::new(Embedded::open(&config, &dir).unwrap())
}
