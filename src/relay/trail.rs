//! The path of an event: its positions in the journals that it has passed, in order; pure.
//!
//! A position begins with the random epoch of its journal, which identifies the node. The events of a relay carry their
//! path in a comment, `via 9c1f00aa0b77-12 4d20ab12cc00-31`. The comment is part of the stream, so proxies that change
//! header fields keep it, and clients ignore it.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    event::Position,
    upstream::events::{RemoteEvent, TRAIL},
};

/// The positions of an event in the journals on its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trail(Vec<Position>);

/// The origins of the events that a source has sent recently.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: HashSet<Position>,
    order: VecDeque<(Instant, Position)>,
}

/// Range of journal epochs; similar ids of other servers are usually outside it.
const EPOCHS: std::ops::Range<u64> = 1 << 47..1 << 48;

// === impl Trail ===

impl Trail {
    /// Maximum number of hops of an event.
    pub(super) const MAX: usize = 16;

    /// The path of an event; the last hop is the node from which it was read.
    pub(super) fn of(event: &RemoteEvent) -> Self {
        let words = event.trail.split_ascii_whitespace().chain([event.id.as_str()]);
        let hop = |word: &str| word.parse().ok().filter(|hop: &Position| EPOCHS.contains(&hop.epoch));
        let mut hops: Vec<Position> = words.filter_map(hop).take(Self::MAX + 1).collect();
        // An event without its own id repeats the id of the event before it.
        hops.dedup();
        Self(hops)
    }

    /// True if the number of hops exceeds the limit.
    pub(super) fn too_long(&self) -> bool {
        self.0.len() > Self::MAX
    }

    /// The origin of the event, if it was relayed before.
    pub(super) fn begin(&self) -> Option<Position> {
        self.0.first().copied().filter(|_| self.0.len() > 1)
    }

    /// The offsets of the event in the journal of this epoch.
    pub(super) fn offsets(&self, epoch: u64) -> impl Iterator<Item = u64> {
        self.0.iter().filter(move |hop| hop.epoch == epoch).map(|hop| hop.offset)
    }

    /// The comment for passing the event on; `None` if there is no hop.
    pub(super) fn comment(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| format!("{TRAIL}{}", self.words().join(" ")))
    }

    /// The hops as text.
    pub(super) fn words(&self) -> Vec<String> {
        self.0.iter().map(Position::to_string).collect()
    }
}

// === impl Recent ===

impl Recent {
    /// Maximum number of remembered origins.
    const MAX: usize = 4096;
    /// How long an origin is remembered.
    const TIME: Duration = Duration::from_mins(1);

    /// Records the origin of an event; true if an event with the same origin arrived within [`TIME`](Self::TIME).
    pub(super) fn again(&mut self, begin: Position, now: Instant) -> bool {
        while let Some((at, oldest)) = self.order.front()
            && (self.order.len() >= Self::MAX || now.saturating_duration_since(*at) > Self::TIME)
        {
            self.known.remove(oldest);
            self.order.pop_front();
        }
        if !self.known.insert(begin) {
            return true;
        }
        self.order.push_back((now, begin));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(trail: &str, id: &str) -> RemoteEvent {
        let (event, data) = ("e".into(), String::new());
        RemoteEvent { event, data, id: id.into(), trail: trail.into(), control: false }
    }

    fn at(offset: u64) -> Position {
        Position { epoch: 1 << 47, offset }
    }

    #[test]
    fn each_relay_adds_where_it_has_read_the_event() {
        let first = Trail::of(&event("", "800000000000-7"));
        assert_eq!((first.comment().as_deref(), first.begin()), (Some("via 800000000000-7"), None));
        let second = Trail::of(&event("800000000000-7", "9c1f00aa0b77-3"));
        assert_eq!(second.comment().as_deref(), Some("via 800000000000-7 9c1f00aa0b77-3"));
        assert_eq!(second.begin(), Some(at(7)));
        assert_eq!(second.offsets(1 << 47).collect::<Vec<_>>(), [7]);
        let sticky = Trail::of(&event("800000000000-7 9c1f00aa0b77-3", "9c1f00aa0b77-3"));
        assert_eq!(sticky, second);
    }

    #[test]
    fn ids_of_other_servers_are_no_hops() {
        for id in ["", "7", "1-9", "1526919030474-0", "800000000000-07", "800000000000", "x-1"] {
            assert_eq!(Trail::of(&event("free text", id)).comment(), None, "{id}");
        }
    }

    #[test]
    fn a_way_is_bounded() {
        let hops = |count: u64| (0..count).map(|hop| at(hop).to_string()).collect::<Vec<_>>().join(" ");
        assert!(!Trail::of(&event(&hops(15), "9c1f00aa0b77-3")).too_long());
        assert!(Trail::of(&event(&hops(16), "9c1f00aa0b77-3")).too_long());
        assert_eq!(Trail::of(&event(&hops(10_000), "")).words().len(), Trail::MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_begin_of_a_trail_is_known_for_a_minute() {
        let mut recent = Recent::default();
        assert!(!recent.again(at(1), Instant::now()));
        assert!(recent.again(at(1), Instant::now()));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(recent.again(at(1), Instant::now()) && !recent.again(at(2), Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!recent.again(at(1), Instant::now()) && recent.again(at(2), Instant::now()));
        for offset in 10..20_000 {
            assert!(!recent.again(at(offset), Instant::now()));
        }
        assert_eq!((recent.known.len(), recent.order.len()), (Recent::MAX, Recent::MAX));
    }
}
