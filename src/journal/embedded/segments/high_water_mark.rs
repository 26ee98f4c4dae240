//! The file `MARK`: what the log promises. It is written after each commit and before its acknowledgement, so that an
//! opening detects missing commits.
//!
//! ```text
//!  MARK = slot (64 bytes) at 0, slot at 512
//!  slot = magic "MSMARK02", sequence u64, acknowledged u64, synced u64, oldest u32, flags u32, boot u128, checksum u64
//! ```
//!
//! The slots are written in turn. The valid slot with the greater sequence number counts, so that an interrupted write
//! leaves the one before it. Flags: 1 after a clean stop, 2 with `sync = "always"`.

use std::{io, sync::Arc};

use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Disk, DiskFile};

/// The content of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::journal::embedded) struct HighWaterMark {
    /// Number of the last commit that was acknowledged.
    pub acknowledged: u64,
    /// All commits up to this number are on the disk.
    pub synced: u64,
    /// Number of the oldest segment.
    pub oldest: u32,
    /// True after a clean stop.
    pub clean: bool,
    /// True if each commit is on the disk before it is acknowledged.
    pub always: bool,
    /// The boot of the machine during which it was written; 0 if it is unknown.
    pub boot: u128,
}

/// The open file.
pub(in crate::journal::embedded) struct HighWaterMarkFile {
    file: Arc<dyn DiskFile>,
    /// Sequence number of the last slot that was written.
    sequence: u64,
}

pub(in crate::journal::embedded) const NAME: &str = "MARK";
const MAGIC: &[u8; 8] = b"MSMARK02";
const SLOT_BYTES: usize = 64;
/// Distance of the slots: they are in different sectors, so that an interrupted write damages only one of them.
const DISTANCE: u64 = 512;
const CLEAN: u32 = 1;
const ALWAYS: u32 = 2;

// === impl HighWaterMarkFile ===

impl HighWaterMarkFile {
    /// Creates the file with this content, on the disk when it returns.
    pub(super) fn create(disk: &dyn Disk, first: HighWaterMark) -> io::Result<Self> {
        let mut file = Self { file: disk.create(NAME)?, sequence: 0 };
        file.write(first)?;
        file.write(first)?;
        file.sync()?;
        disk.sync()?;
        Ok(file)
    }

    /// True if nothing was written to it.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        Ok(self.file.len()? == 0)
    }

    /// Opens the file and reads it. The inner value is `None` if no slot is valid.
    pub(in crate::journal::embedded) fn open(disk: &dyn Disk) -> io::Result<(Self, Option<HighWaterMark>)> {
        let file = disk.open(NAME)?;
        let mut valid = None;
        for position in [0, DISTANCE] {
            let mut slot = [0; SLOT_BYTES];
            match file.read_at(&mut slot, position) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                result => result?,
            }
            let newer = HighWaterMark::decode(&slot)
                .filter(|(sequence, _)| valid.is_none_or(|(greatest, _)| *sequence > greatest));
            valid = newer.or(valid);
        }
        let sequence = valid.map_or(0, |(sequence, _)| sequence);
        Ok((Self { file, sequence }, valid.map(|(_, high_water_mark)| high_water_mark)))
    }

    /// Writes the content. It outlives the process when this returns, and the machine after [`sync`](Self::sync).
    pub(in crate::journal::embedded) fn write(&mut self, high_water_mark: HighWaterMark) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.write_at(&high_water_mark.encode(sequence), sequence % 2 * DISTANCE)?;
        self.sequence = sequence;
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

// === impl HighWaterMark ===

impl HighWaterMark {
    /// Number of the last acknowledged commit that must be there.
    pub(in crate::journal::embedded) fn promised(&self, boot: u128) -> u64 {
        if self.may_have_lost(boot) { self.synced } else { self.acknowledged }
    }

    /// True if commits may be missing without damage: the machine crashed, and they may not have been on the disk.
    pub(in crate::journal::embedded) fn may_have_lost(&self, boot: u128) -> bool {
        !self.always && self.machine_crashed(boot)
    }

    /// True if the machine has stopped without a clean stop of the journal, so that writes without a sync may be lost.
    pub(in crate::journal::embedded) fn machine_crashed(&self, boot: u128) -> bool {
        !self.clean && (self.boot != boot || boot == 0)
    }

    fn encode(self, sequence: u64) -> [u8; SLOT_BYTES] {
        let flags = u32::from(self.clean) * CLEAN + u32::from(self.always) * ALWAYS;
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&sequence.to_le_bytes());
        slot[16..24].copy_from_slice(&self.acknowledged.to_le_bytes());
        slot[24..32].copy_from_slice(&self.synced.to_le_bytes());
        slot[32..36].copy_from_slice(&self.oldest.to_le_bytes());
        slot[36..40].copy_from_slice(&flags.to_le_bytes());
        slot[40..56].copy_from_slice(&self.boot.to_le_bytes());
        let checksum = xxh3_64(&slot[..56]);
        slot[56..].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// Sequence number and content of a slot; `None` if it is not valid.
    fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, Self)> {
        let number = |at: usize| slot[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let small = |at: usize| slot[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let flags = small(36)?;
        let high_water_mark = Self {
            acknowledged: number(16)?,
            synced: number(24)?,
            oldest: small(32)?,
            clean: flags & CLEAN != 0,
            always: flags & ALWAYS != 0,
            boot: u128::from_le_bytes(*slot[40..].first_chunk()?),
        };
        let valid = slot.starts_with(MAGIC) && xxh3_64(&slot[..56]) == number(56)?;
        valid.then_some((number(8)?, high_water_mark))
    }
}
