//! The budget of memory for specs, inputs and answers of tasks until they are in the journal.
//!
//! Each of them has its own bound (`server.body_limit_bytes`, `jobs.max_response_bytes`); `jobs.max_memory_bytes` bounds
//! their sum. Without room they wait in order. A holder of one part never takes an earlier part, so there is no deadlock:
//!
//! | part | taken by | from | until |
//! |---|---|---|---|
//! | specs, 1/4 | a request body | before it is read | the request is answered |
//! | inputs, 1/4 | an attempt | before its input is read back | the attempt has ended |
//! | small answers, 1/8 | an attempt | its answer has passed 64 KiB | the result is in the journal |
//! | large answers, 3/8 | an attempt | its answer may pass 1 MiB | the result is in the journal |
//!
//! Bytes are weighted by their highest cost on the way (text, parsed value, encoded copy). Up to 64 KiB are not counted:
//! slots and connections already bound their number.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::shares::{Figures, Held, Owner, Pool, Share};

/// The budget of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    share: Share,
    specs: Pool,
    inputs: Pool,
    small: Pool,
    large: Pool,
    /// The permit to work on a large text.
    work: Arc<Semaphore>,
}

/// The part of the budget that one attempt holds for its answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reserve {
    memory: Memory,
    owner: Owner,
    held: Arc<Mutex<Vec<Held>>>,
}

/// The default of `jobs.max_memory_bytes`.
pub const DEFAULT: usize = 128 << 20;
/// Up to this size nothing is counted.
pub const FREE: usize = 64 << 10;
/// A larger answer takes from the part for large ones.
pub const SMALL: usize = 1 << 20;
/// What a request body costs: its bytes, the values, what is written, and the journal's copy.
const SPEC_WEIGHT: u64 = 4;
/// What an input costs: the values, and what is sent of them.
const INPUT_WEIGHT: u64 = 2;
/// What an answer costs: its bytes, the result as JSON, and the journal's copy.
const ANSWER_WEIGHT: u64 = 3;

// === impl Memory ===

impl Memory {
    /// A budget of this number of bytes.
    pub fn new(bytes: usize, share: Share) -> Self {
        let eighth = bytes as u64 / 8;
        let pool = |eighths: u64| Pool::new((eighth * eighths).max(1));
        let work = Arc::new(Semaphore::new(1));
        Self { share, specs: pool(2), inputs: pool(2), small: pool(1), large: pool(3), work }
    }

    /// Room for a request body of this size.
    pub async fn spec(&self, owner: &Owner, bytes: usize) -> Option<Held> {
        self.acquire(&self.specs, owner, bytes, SPEC_WEIGHT).await
    }

    /// Room for the input of an attempt.
    pub async fn input(&self, owner: &Owner, bytes: usize) -> Option<Held> {
        self.acquire(&self.inputs, owner, bytes, INPUT_WEIGHT).await
    }

    /// Room for an answer.
    pub async fn answer(&self, owner: &Owner, bytes: usize) -> Option<Held> {
        let pool = if bytes <= SMALL { &self.small } else { &self.large };
        self.acquire(pool, owner, bytes, ANSWER_WEIGHT).await
    }

    /// Runs work on a large text on a thread for blocking work, one at a time.
    ///
    /// A large text would delay the other tasks of an async thread. One at a time leaves the other cores to the streams,
    /// and bounds the copies that exist at the same time.
    ///
    /// # Panics
    /// When the work panics.
    pub async fn large<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.work.acquire().await.expect("the semaphore is never closed");
        spawn_blocking(work).await.expect("the work does not panic")
    }

    /// Name and figures of each part.
    pub fn figures(&self) -> [(&'static str, Figures); 4] {
        let Self { specs, inputs, small, large, .. } = self;
        [("specs", specs), ("inputs", inputs), ("small_answers", small), ("large_answers", large)]
            .map(|(name, pool)| (name, pool.figures()))
    }

    async fn acquire(&self, pool: &Pool, owner: &Owner, bytes: usize, weight: u64) -> Option<Held> {
        if bytes <= FREE {
            return None;
        }
        Some(pool.acquire(self.share, owner, bytes as u64 * weight).await)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(DEFAULT, Share::WHOLE)
    }
}

// === impl Reserve ===

impl Reserve {
    /// Holds nothing yet, for this owner.
    pub fn new(memory: Memory, owner: Owner) -> Self {
        Self { memory, owner, held: Arc::default() }
    }

    /// Waits until there is room for an answer of this size. Call it before the bytes are read, and once more with the larger
    /// size if there are more.
    pub async fn answer(&self, bytes: usize) {
        if let Some(held) = self.memory.answer(&self.owner, bytes).await {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        }
    }

    /// Runs work on a large answer, as [`Memory::large`] does.
    pub async fn large<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.memory.large(work).await
    }

    /// Passes the room on to the next holder of the answer.
    pub fn take(&self) -> Vec<Held> {
        std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new(Memory::default(), None)
    }
}
