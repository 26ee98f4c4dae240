//! Checks that every event arrives once and in order; pure.

use std::collections::BTreeMap;

/// The events of one publisher that one subscriber got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    /// All numbers below have arrived, except those in `missing`.
    next: u64,
    /// Ranges that were skipped: from the first number to one past the last.
    missing: BTreeMap<u64, u64>,
    reordered: u64,
    duplicated: u64,
}

/// Sums over subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// Acknowledged to the publisher, but never arrived.
    pub lost: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived after a later one.
    pub reordered: u64,
}

// === impl Track ===

impl Track {
    /// Starts at this number.
    pub(crate) fn from(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Takes an event; true if it arrived for the first time.
    pub(crate) fn take(&mut self, sequence: u64) -> bool {
        if sequence == self.next {
            self.next += 1;
            return true;
        }
        if sequence > self.next {
            self.missing.insert(self.next, sequence);
            self.next = sequence + 1;
            return true;
        }
        match self.missing.range(..=sequence).next_back() {
            Some((&first, &end)) if sequence < end => {
                self.missing.remove(&first);
                if first < sequence {
                    self.missing.insert(first, sequence);
                }
                if sequence + 1 < end {
                    self.missing.insert(sequence + 1, end);
                }
                self.reordered += 1;
                true
            }
            _ => {
                self.duplicated += 1;
                false
            }
        }
    }

    /// The faults, if `published` events were acknowledged.
    pub(crate) fn losses(&self, published: u64) -> Losses {
        let holes: u64 = self.missing.iter().map(|(first, end)| end.min(&published).saturating_sub(*first)).sum();
        Losses {
            lost: holes + published.saturating_sub(self.next),
            duplicated: self.duplicated,
            reordered: self.reordered,
        }
    }
}

// === impl Losses ===

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

impl Losses {
    /// True if all events arrived once and in order.
    pub(crate) fn none(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(from: u64, came: &[u64], published: u64) -> (u64, u64, u64) {
        let mut track = Track::from(from);
        for sequence in came {
            track.take(*sequence);
        }
        let Losses { lost, duplicated, reordered } = track.losses(published);
        (lost, duplicated, reordered)
    }

    #[test]
    fn faults_are_counted() {
        assert_eq!(losses(0, &[0, 1, 2, 3], 4), (0, 0, 0));
        assert_eq!(losses(0, &[0, 1], 4), (2, 0, 0), "the end is lost");
        assert_eq!(losses(0, &[0, 3], 4), (2, 0, 0), "a hole");
        assert_eq!(losses(0, &[0, 0, 1, 1, 1], 2), (0, 3, 0));
        assert_eq!(losses(0, &[2, 0, 1], 3), (0, 0, 2));
        assert_eq!(losses(0, &[4, 2, 2], 5), (3, 1, 1), "a hole that is split");
        assert_eq!(losses(2, &[2, 3], 4), (0, 0, 0), "a replay starts in the middle");
        assert_eq!(losses(2, &[1, 2, 3], 4), (0, 1, 0), "an earlier event is a duplicate");
        assert_eq!(losses(0, &[0, 2], 2), (1, 0, 0), "an event without acknowledgement is not lost");
    }

    #[test]
    fn an_event_counts_as_delivered_once() {
        let mut track = Track::default();
        let first: Vec<bool> = [0, 2, 1, 1, 2].iter().map(|sequence| track.take(*sequence)).collect();
        assert_eq!(first, [true, true, true, false, false]);
    }
}
