//! Detects events that return to a topic where they have already been. Such events are dropped, counted and reported.
//!
//! A relay may read from its own node, or from a node that reads from this one. An event from another topic is not a
//! loop. So an event that has been at this node before is looked up in the journal. It is a loop for the members that
//! have a topic in common with it.

use std::sync::Arc;

use super::{
    member::Member,
    output::{RelayOutput, Returned},
};
use crate::{journal::Shared, topic::Topic};

/// Looks up the topics of the events that have been at this node before.
pub(super) async fn find(journal: &Shared, outputs: &mut [RelayOutput]) {
    for output in outputs {
        let RelayOutput::Event(arrival) = output else { continue };
        if arrival.returned == Returned::No {
            let mut topics = Vec::new();
            for offset in arrival.trail.offsets(journal.epoch()) {
                topics.extend(topics_of(journal, offset).await);
            }
            if !topics.is_empty() {
                arrival.returned = Returned::In(topics);
            }
        }
    }
}

/// The number of events that have returned for one of these members. Counted from `known` on, the 1st, 2nd, 4th and so
/// on are marked to be reported. The reports are few because a report may loop like any other event.
pub(super) fn count(outputs: &mut [RelayOutput], members: &[Arc<Member>], known: u64) -> u64 {
    let mut found = 0;
    for output in outputs {
        if let RelayOutput::Event(arrival) = output
            && members.iter().any(|member| arrival.has_returned(member))
        {
            found += 1;
            arrival.report = Some(known + found).filter(|dropped| dropped.is_power_of_two());
        }
    }
    found
}

/// The topics of the event at this offset. An event that was deleted or cannot be read has none: its loop is not detected
/// here, and the limit on hops ends it.
async fn topics_of(journal: &Shared, offset: u64) -> Vec<Topic> {
    let Ok(found) = journal.since(offset.saturating_sub(1), 1).await else { return Vec::new() };
    let event = found.events.first().filter(|event| event.position.offset == offset);
    event.map(|event| event.topics.to_vec()).unwrap_or_default()
}
