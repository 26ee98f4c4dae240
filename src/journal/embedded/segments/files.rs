//! The open files of a log, for readers.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;

use super::{disk::DiskFile, frame::Body, name_of};
use crate::journal::{embedded::StoreError, log::Stored};

/// The open files, for readers.
#[derive(Default)]
pub(in crate::journal::embedded) struct Files(RwLock<BTreeMap<u32, Arc<dyn DiskFile>>>);

// === impl Files ===

impl Files {
    /// Reads a body.
    ///
    /// # Errors
    /// If it has changed, or the disk cannot read it.
    pub(in crate::journal::embedded) fn read(&self, stored: Stored) -> Result<Bytes, StoreError> {
        let bytes = self.read_unchecked(stored)?;
        let Stored { segment, position, length, checksum } = stored;
        match (Body { length, checksum }).is_of(&bytes) {
            true => Ok(bytes),
            false => Err(StoreError::Damaged(format!(
                "{length} bytes at byte {position} of `journal/{}` have changed",
                name_of(segment)
            ))),
        }
    }

    /// Reads a body that may have changed.
    ///
    /// # Errors
    /// If the disk cannot read it.
    pub(in crate::journal::embedded) fn read_unchecked(&self, stored: Stored) -> Result<Bytes, StoreError> {
        let Stored { segment, position, length, .. } = stored;
        let file = self.get(segment).ok_or(StoreError::Removed(segment))?;
        let mut bytes = vec![0; length as usize];
        file.read_at(&mut bytes, position.into()).map_err(|error| StoreError::io(&error))?;
        Ok(bytes.into())
    }

    /// Bytes of all files on the disk.
    pub(in crate::journal::embedded) fn disk_bytes(&self) -> u64 {
        let files = self.0.read().unwrap_or_else(PoisonError::into_inner);
        files.values().map(|file| file.disk_bytes().unwrap_or(0)).sum()
    }

    /// An open file; `None` if it was removed.
    pub(in crate::journal::embedded) fn get(&self, segment: u32) -> Option<Arc<dyn DiskFile>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned()
    }

    pub(super) fn add(&self, segment: u32, file: Arc<dyn DiskFile>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(segment, file);
    }

    pub(super) fn remove(&self, segment: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    /// The files from a segment on, in order.
    pub(super) fn from(&self, segment: u32) -> Vec<(u32, Arc<dyn DiskFile>)> {
        let files = self.0.read().unwrap_or_else(PoisonError::into_inner);
        files.range(segment..).map(|(number, file)| (*number, file.clone())).collect()
    }
}
