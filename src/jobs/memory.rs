//! Bytes in flight: how much memory specs and answers of tasks may take in sum, before they are in the journal.
//!
//! Each of them is bounded by itself (`server.body_limit_bytes`, `jobs.max_response_bytes`); here is the bound on all of
//! them together, `jobs.max_memory_bytes`. What finds no room waits, and takes its turn in order. No part of the budget is
//! taken by something that holds a later one, so nothing waits for itself:
//!
//! | part | who takes it | from when | until when |
//! |---|---|---|---|
//! | specs, 1/4 | a request body | before it is read | the request is answered |
//! | inputs, 1/4 | an attempt | before its input is read back | the attempt has ended |
//! | small answers, 1/8 | an attempt | its answer has passed 64 KiB | the result is in the journal |
//! | large answers, 3/8 | an attempt | its answer may pass 1 MiB | the result is in the journal |
//!
//! Bytes are weighed by what they cost at most on their way (text, parsed value, encoded copy). What has at most 64 KiB is
//! not counted: there are no more of these than slots and connections.

use std::sync::{Arc, Mutex, PoisonError};

use crate::shares::{Figures, Held, Owner, Pool, Share};

/// The budget of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    share: Share,
    specs: Pool,
    inputs: Pool,
    small: Pool,
    large: Pool,
}

/// What one attempt takes of the budget for its answer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reserve {
    memory: Memory,
    owner: Owner,
    held: Arc<Mutex<Vec<Held>>>,
}

/// The default of `jobs.max_memory_bytes`.
pub const DEFAULT: usize = 128 << 20;
/// So many bytes are not counted.
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
    /// A budget of so many bytes.
    pub fn new(bytes: usize, share: Share) -> Self {
        let eighth = bytes as u64 / 8;
        let pool = |eighths: u64| Pool::new((eighth * eighths).max(1));
        Self { share, specs: pool(2), inputs: pool(2), small: pool(1), large: pool(3) }
    }

    /// Room for a request body of so many bytes.
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
    /// Nothing so far, for this owner.
    pub fn new(memory: Memory, owner: Owner) -> Self {
        Self { memory, owner, held: Arc::default() }
    }

    /// Waits until there is room for an answer of so many bytes. To be asked before they are read; if it turns out that
    /// there are more, it may be asked once more for the larger number.
    pub async fn answer(&self, bytes: usize) {
        if let Some(held) = self.memory.answer(&self.owner, bytes).await {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        }
    }

    /// Gives what was taken to whoever holds the answer next.
    pub fn take(&self) -> Vec<Held> {
        std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new(Memory::default(), None)
    }
}
