//! Where the rates of callers are kept: bounded in memory, whoever calls.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// The state of each caller that is not as good as new, by a hash of who it is.
///
/// At the bound those go first that are as good as new again, which loses nothing. Where all are in use, newcomers share
/// one state: nobody who is known suffers from a crowd of new addresses, and the crowd has the allowance of one caller.
#[derive(Debug)]
pub struct Store {
    /// Locked apart, so that the threads of the node do not wait for each other.
    shards: [Mutex<Shard>; SHARDS],
    crowd: Mutex<Option<Nanos>>,
    /// Most callers in one shard.
    room: usize,
    /// What one permission costs: a state that lies no further ahead than now is as good as new.
    interval: Nanos,
}

#[derive(Debug, Default)]
struct Shard {
    states: HashMap<u64, Nanos>,
    /// When it was last full and shed what it could: to look through it for every newcomer would be a gift to a crowd.
    shed: Option<Nanos>,
}

const SHARDS: usize = 16;
/// A full shard is looked through at most once in so long.
const SHED_EVERY: u64 = 1_000_000_000;

// === impl Store ===

impl Store {
    /// A store for at most about `max` callers.
    pub fn new(max: usize, interval: Nanos) -> Self {
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
            // A new state is that of now and one permission.
            shard.shed(Nanos::new(next.as_u64().saturating_sub(self.interval.as_u64())));
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
    fn shed(&mut self, now: Nanos) {
        if self.shed.is_none_or(|last| now.as_u64().saturating_sub(last.as_u64()) >= SHED_EVERY) {
            self.shed = Some(now);
            self.states.retain(|_, state| *state > now);
        }
    }
}

/// A panic of somebody else leaves numbers that are still true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
