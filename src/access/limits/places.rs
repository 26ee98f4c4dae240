//! So many at once, for each caller: places that are taken, and given back when they are dropped.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Counted places. Cheap to clone. Keeps nothing of a caller that has none.
#[derive(Clone, Debug)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    taken: Mutex<HashMap<u64, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    places: u64,
    bytes: Arc<AtomicUsize>,
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place {
    caller: u64,
    of: Places,
    bytes: Arc<AtomicUsize>,
}

// === impl Places ===

impl Places {
    /// So many places for each caller.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Inner { limit, taken: Mutex::default() }))
    }

    /// Takes a place; `None` when the caller has all that it may have.
    pub fn take(&self, caller: u64) -> Option<Place> {
        let mut places = self.lock();
        let taken = places.entry(caller).or_default();
        if taken.places >= self.0.limit {
            return None;
        }
        taken.places += 1;
        Some(Place { caller, of: self.clone(), bytes: taken.bytes.clone() })
    }

    /// Most places of one caller.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Callers that have places.
    pub fn callers(&self) -> usize {
        self.lock().len()
    }

    /// A panic of somebody else leaves numbers that are still true.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Taken>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    /// What all places of this caller count together; whoever adds to it takes it away again.
    pub fn bytes(&self) -> Arc<AtomicUsize> {
        self.bytes.clone()
    }

    /// The same figure.
    pub fn counted(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = self.of.lock().entry(self.caller) {
            taken.get_mut().places -= 1;
            if taken.get().places == 0 {
                taken.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_callers_forgotten() {
        let places = Places::new(2);
        let (first, second) = (places.take(1).unwrap(), places.take(1));
        assert!(second.is_some() && places.take(1).is_none());
        assert!(places.take(2).is_some(), "another caller's are apart");
        drop(first);
        let third = places.take(1);
        assert!(third.is_some() && places.take(1).is_none());
        drop((second, third));
        assert_eq!(places.callers(), 0);
    }

    #[test]
    fn the_places_of_a_caller_count_together() {
        let places = Places::new(u64::MAX);
        let (first, second, other) = (places.take(1).unwrap(), places.take(1).unwrap(), places.take(2).unwrap());
        first.bytes().fetch_add(5, Relaxed);
        assert_eq!((second.counted(), other.counted()), (5, 0));
    }
}
