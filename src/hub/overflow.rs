//! Overflow policies: the handling of an event that does not fit into the outbox of a slow client.
//!
//! Everything about a policy is in this file: its name in settings and in the API, its decision, and which waiting events it
//! drops. A new policy is a variant of [`Overflow`], its name in [`Overflow::NAMES`], and an arm of [`Overflow::decide`].

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::outbox::Outbox;

/// What happens to an event when the outbox of an emitter is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The emitter reads from the journal until it has caught up. It loses no event that retention still keeps.
    #[default]
    CatchUp,
    /// The oldest waiting events are dropped until the new one fits. A `gap` frame reports how many.
    DropOldest,
    /// The new event is dropped. A `gap` frame reports how many.
    DropLatest,
    /// The stream ends with `disconnect {"reason":"slow"}`.
    Disconnect,
}

/// What a policy decides about a new event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Queue the event. The outbox has dropped this number of waiting events for it.
    Queue { dropped: u64 },
    /// Drop the event. The outbox has noted the loss at its end.
    Drop,
    /// Leave the event to the journal, from which the emitter reads it later.
    CatchUp,
    /// End the stream.
    Disconnect,
}

// === impl Overflow ===

impl Overflow {
    /// The names of all policies, as an error message lists them.
    pub const NAMES: &str = "`catch_up`, `drop_oldest`, `drop_latest` or `disconnect`";

    /// Decides about a new event of this size, and makes room for it if the policy is to drop waiting events.
    pub(super) fn decide(self, outbox: &mut Outbox, bytes: usize, now: Instant) -> Decision {
        if outbox.has_room(bytes) {
            return Decision::Queue { dropped: 0 };
        }
        match self {
            Self::CatchUp => Decision::CatchUp,
            Self::DropOldest => Decision::Queue { dropped: make_room(outbox, bytes, |_| 0) },
            Self::DropLatest => {
                outbox.note_dropped(now);
                Decision::Drop
            }
            Self::Disconnect => Decision::Disconnect,
        }
    }
}

/// Drops waiting events until one of this size fits, and returns how many. `choose` gets the number of waiting events and
/// returns the index of the next one to drop, from 0 for the oldest.
fn make_room(outbox: &mut Outbox, bytes: usize, choose: impl Fn(usize) -> usize) -> u64 {
    let mut dropped = 0;
    while !outbox.has_room(bytes) && outbox.drop_event(choose(outbox.events())) {
        dropped += 1;
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::super::outbox::testing::{drain, frame, outbox};
    use super::*;

    fn drop_oldest(outbox: &mut Outbox, bytes: usize) -> u64 {
        match Overflow::DropOldest.decide(outbox, bytes, Instant::now()) {
            Decision::Queue { dropped } => dropped,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_list_of_names_has_the_name_of_each_policy() {
        let error = serde_json::from_str::<Overflow>("\"\"").unwrap_err().to_string();
        let (_, known) = error.split_once("expected one of ").unwrap();
        let (known, _) = known.rsplit_once(" at line").unwrap();
        let (others, last) = known.rsplit_once(", ").unwrap();
        assert_eq!(Overflow::NAMES, format!("{others} or {last}"));
    }

    /// The first frame of a stream is `connection`, also if the policy drops the oldest events.
    #[test]
    fn dropping_the_oldest_keeps_control_frames_and_notes_the_position() {
        let now = Instant::now();
        let mut outbox = outbox(2, 100, None);
        outbox.push_control(frame("connection"), now);
        outbox.push(frame("a"), now);
        outbox.push_control(frame("note"), now);
        outbox.push(frame("b"), now);
        for text in ["c", "d"] {
            assert_eq!(drop_oldest(&mut outbox, 1), 1);
            outbox.push(frame(text), now);
        }
        assert_eq!(drain(&mut outbox), ["connection", "-1", "note", "-1", "c", "d"]);
    }

    #[test]
    fn a_large_event_takes_the_room_of_many_small_ones() {
        let now = Instant::now();
        let mut outbox = outbox(10, 4, None);
        for text in ["a", "b", "c"] {
            outbox.push(frame(text), now);
        }
        assert_eq!(drop_oldest(&mut outbox, 3), 2);
        outbox.push(frame("ddd"), now);
        assert_eq!(drop_oldest(&mut outbox, 9), 2);
        outbox.push(frame("beyond all"), now);
        assert_eq!(drain(&mut outbox), ["-4", "beyond all"]);
    }
}
