//! The memory budget for specs, inputs and responses of tasks until they are in the journal.
//!
//! Each of them has its own limit (`server.body_limit_bytes`, `jobs.max_response_bytes`); `jobs.max_memory_bytes`
//! limits their sum. Requests and attempts wait in order for free memory. A holder of one part never takes an earlier
//! part, so there is no deadlock:
//!
//! | part | taken by | from | until |
//! |---|---|---|---|
//! | specs, 1/4 | a request body | before it is read | the request is answered |
//! | inputs, 1/4 | an attempt | before its input is read back | the attempt has ended |
//! | small responses, 1/8 | an attempt | its response has more than 64 KiB | the result is in the journal |
//! | large responses, 3/8 | an attempt | its response may have more than 1 MiB | the result is in the journal |
//!
//! Bytes are weighted by their maximum number of copies (text, parsed value, encoded copy). Up to 64 KiB are not
//! counted: slots and connections already limit their number.

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

/// The part of the budget that one attempt holds for its response. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reserve {
    memory: Memory,
    owner: Owner,
    held: Arc<Mutex<Vec<Held>>>,
}

/// The default of `jobs.max_memory_bytes`.
pub const DEFAULT: usize = 128 << 20;
/// Sizes up to this limit are not counted.
pub const FREE: usize = 64 << 10;
/// Larger responses use the part for large responses.
pub const SMALL: usize = 1 << 20;
/// Copies of a request body: its bytes, the values, the record, and the journal's copy.
const SPEC_WEIGHT: u64 = 4;
/// Copies of an input: the values, and the sent bytes.
const INPUT_WEIGHT: u64 = 2;
/// Copies of a response: its bytes, the result as JSON, and the journal's copy.
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

    /// Reserves memory for a request body of this size.
    pub async fn spec(&self, owner: &Owner, bytes: usize) -> Option<Held> {
        self.acquire(&self.specs, owner, bytes, SPEC_WEIGHT).await
    }

    /// Reserves memory for the input of an attempt.
    pub async fn input(&self, owner: &Owner, bytes: usize) -> Option<Held> {
        self.acquire(&self.inputs, owner, bytes, INPUT_WEIGHT).await
    }

    /// Reserves memory for a response.
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
    /// If the work panics.
    pub async fn large<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.work.acquire().await.expect("the semaphore is never closed");
        spawn_blocking(work).await.expect("the work does not panic")
    }

    /// Name and usage of each part.
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
    /// A reserve of this owner, without memory.
    pub fn new(memory: Memory, owner: Owner) -> Self {
        Self { memory, owner, held: Arc::default() }
    }

    /// Waits until there is memory for a response of this size. Call it before the bytes are read, and once more with
    /// the larger size if there are more.
    pub async fn answer(&self, bytes: usize) {
        if let Some(held) = self.memory.answer(&self.owner, bytes).await {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        }
    }

    /// Runs work on a large response, as [`Memory::large`] does.
    pub async fn large<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.memory.large(work).await
    }

    /// Passes the memory on to the next holder of the response.
    pub fn take(&self) -> Vec<Held> {
        std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new(Memory::default(), None)
    }
}
