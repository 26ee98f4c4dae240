//! Number of permits that one caller may hold at the same time. A permit is returned on drop.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
};

/// Permits for each caller, up to a limit. Cheap to clone. A caller without permits takes no memory.
#[derive(Clone, Debug)]
pub(crate) struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    held: Mutex<HashMap<u64, Held>>,
}

#[derive(Debug, Default)]
struct Held {
    permits: u64,
    bytes: Arc<AtomicUsize>,
}

/// A permit of one caller; returned on drop.
#[derive(Debug)]
pub struct Permit {
    caller: u64,
    of: Permits,
    bytes: Arc<AtomicUsize>,
}

// === impl Permits ===

impl Permits {
    /// `limit` permits for each caller.
    pub(super) fn new(limit: u64) -> Self {
        Self(Arc::new(Inner { limit, held: Mutex::default() }))
    }

    /// Takes a permit; `None` if the caller holds all its permits.
    pub(super) fn take(&self, caller: u64) -> Option<Permit> {
        let mut callers = self.lock();
        let held = callers.entry(caller).or_default();
        if held.permits >= self.0.limit {
            return None;
        }
        held.permits += 1;
        Some(Permit { caller, of: self.clone(), bytes: held.bytes.clone() })
    }

    /// Maximum number of permits of one caller.
    pub(super) fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Number of callers that hold permits.
    pub(super) fn callers(&self) -> usize {
        self.lock().len()
    }

    /// A panic of another holder of the lock leaves correct numbers.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Permit ===

impl Permit {
    /// The bytes that all permits of this caller count together. The owner of a permit subtracts its own bytes.
    pub(super) fn bytes(&self) -> Arc<AtomicUsize> {
        self.bytes.clone()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.of.lock().entry(self.caller) {
            held.get_mut().permits -= 1;
            if held.get().permits == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn permits_are_returned_and_idle_callers_removed() {
        let permits = Permits::new(2);
        let (first, second) = (permits.take(1).unwrap(), permits.take(1));
        assert!(second.is_some() && permits.take(1).is_none());
        assert!(permits.take(2).is_some(), "another caller has its own permits");
        drop(first);
        let third = permits.take(1);
        assert!(third.is_some() && permits.take(1).is_none());
        drop((second, third));
        assert_eq!(permits.callers(), 0);
    }

    #[test]
    fn the_permits_of_a_caller_count_together() {
        let permits = Permits::new(u64::MAX);
        let (first, second, other) = (permits.take(1).unwrap(), permits.take(1).unwrap(), permits.take(2).unwrap());
        first.bytes().fetch_add(5, Relaxed);
        assert_eq!((second.bytes().load(Relaxed), other.bytes().load(Relaxed)), (5, 0));
    }
}
