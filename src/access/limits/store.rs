//! The states of the rates of callers, bounded in memory for any number of callers.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// The state of each caller with a partly used allowance, by the hash of the caller.
///
/// Idle callers, whose allowance is full again, are evicted first, which loses nothing. If no caller is idle, new
/// callers share one state. So a crowd of new addresses does not affect known callers, and has the allowance of one
/// caller.
#[derive(Debug)]
pub(super) struct Store {
    /// Locked separately, so that the threads of the node do not wait for each other.
    shards: [Mutex<Shard>; SHARDS],
    crowd: Mutex<Option<Nanos>>,
    /// Maximum number of callers in one shard.
    room: usize,
    /// Cost of one permission. A state that is at most this far ahead of now is a full allowance.
    interval: Nanos,
}

#[derive(Debug, Default)]
struct Shard {
    states: HashMap<u64, Nanos>,
    /// Time of the last eviction from the full shard. A search for every new caller would help an attacker.
    shed: Option<Nanos>,
}

const SHARDS: usize = 16;
/// Minimum time in nanoseconds between two searches of a full shard.
const EVICT_EVERY: u64 = 1_000_000_000;

// === impl Store ===

impl Store {
    /// A store for at most about `max` callers.
    pub(super) fn new(max: usize, interval: Nanos) -> Self {
        let room = max.div_ceil(SHARDS).max(1);
        Self { shards: Default::default(), crowd: Mutex::default(), room, interval }
    }
}

impl ShrinkableKeyedStateStore<u64> for Store {
    fn retain_recent(&self, now: Nanos) {
        self.shards.iter().for_each(|shard| lock(shard).states.retain(|_, state| *state > now));
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).states.len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StateStore for Store {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = lock(&self.shards[usize::try_from(key % SHARDS as u64).expect("it is below 16")]);
        if let Some(state) = shard.states.get_mut(key) {
            let (answer, next) = measure(Some(*state))?;
            *state = next;
            return Ok(answer);
        }
        let (answer, next) = measure(None)?;
        if shard.states.len() >= self.room {
            // A new state is the present time plus one permission.
            shard.evict_idle(Nanos::new(next.as_u64().saturating_sub(self.interval.as_u64())));
        }
        if shard.states.len() < self.room {
            shard.states.insert(*key, next);
            return Ok(answer);
        }
        drop(shard);
        let mut crowd = lock(&self.crowd);
        let (answer, next) = measure(*crowd)?;
        *crowd = Some(next);
        Ok(answer)
    }
}

// === impl Shard ===

impl Shard {
    fn evict_idle(&mut self, now: Nanos) {
        if self.shed.is_none_or(|last| now.as_u64().saturating_sub(last.as_u64()) >= EVICT_EVERY) {
            self.shed = Some(now);
            self.states.retain(|_, state| *state > now);
        }
    }
}

/// A panic of another holder of the lock leaves correct numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
