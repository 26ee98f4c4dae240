//! The choice of ended entities that are deleted; pure.

use std::collections::VecDeque;

/// Ended entities that still exist, oldest end first. `T` is a time of a clock that does not jump.
#[derive(Debug)]
pub struct Retention<T, I> {
    ended: VecDeque<(T, I)>,
}

// === impl Retention ===

impl<T: Ord + Copy, I: PartialEq> Retention<T, I> {
    /// Adds an entity that ended at this time, after all others.
    pub fn push(&mut self, at: T, id: I) {
        self.ended.push_back((at, id));
    }

    /// Orders the entities by their end; needed after a recovery, which adds them by id.
    pub fn sort(&mut self) {
        self.ended.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    /// Takes the entity with the oldest end, if that is not after `until` or more than `most` entities exist.
    pub fn expired(&mut self, until: Option<T>, most: usize) -> Option<I> {
        let (at, _) = self.ended.front()?;
        let over = until.is_some_and(|until| *at <= until) || self.ended.len() > most;
        if over { self.oldest() } else { None }
    }

    /// Takes the entity with the oldest end.
    pub fn oldest(&mut self) -> Option<I> {
        self.ended.pop_front().map(|(_, id)| id)
    }

    /// Removes an entity that runs again or was deleted. Costs time in proportion to the number of entities.
    pub fn remove(&mut self, id: &I) {
        self.ended.retain(|(_, own)| own != id);
    }

    /// Number of ended entities.
    pub fn count(&self) -> usize {
        self.ended.len()
    }
}

impl<T, I> Default for Retention<T, I> {
    fn default() -> Self {
        Self { ended: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_expire_by_age_and_by_number() {
        let mut kept = Retention::default();
        for (at, id) in [(30, 'c'), (10, 'a'), (20, 'b'), (40, 'd')] {
            kept.push(at, id);
        }
        kept.sort();
        assert_eq!(kept.expired(None, 4), None);
        assert_eq!(kept.expired(Some(10), 4), Some('a'));
        assert_eq!(kept.expired(Some(10), 4), None);
        assert_eq!(kept.expired(Some(10), 2), Some('b'));
        kept.remove(&'c');
        assert_eq!((kept.oldest(), kept.count()), (Some('d'), 0));
    }
}
