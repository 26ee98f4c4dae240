//! Detects events that return to a topic where they have already been, before a batch is written. Such events are
//! dropped, counted and reported.
//!
//! A relay may read from its own node, or from a node that reads from this one. An event from another topic is not a
//! loop. So an event that has been at this node before is looked up in the journal. It is a loop for the members of the
//! group that have a topic in common with it.

use std::{collections::HashSet, sync::Arc};

use super::{
    group::Member,
    told::{Arrival, Back, Told},
};
use crate::{
    journal::{Query, Shared},
    topic::{Pattern, Topic},
};

/// Marks the events that have already been in a topic of one of these members, and returns their number. Counted from
/// `known` on, the 1st, 2nd, 4th and so on are reported: few, since a report may loop like any other event.
pub async fn mark(journal: &Shared, members: &[Arc<Member>], told: &mut [Told], known: u64) -> u64 {
    let mut found = 0;
    let mut patterns: Option<Arc<[Pattern]>> = None;
    for told in told {
        let Told::Event(arrival) = told else { continue };
        if arrival.back == Back::No {
            let offsets: Vec<u64> = arrival.trail.offsets(journal.epoch()).collect();
            if offsets.is_empty() {
                continue;
            }
            let patterns = patterns.get_or_insert_with(|| patterns_of(members));
            let topics = been(journal, patterns, &offsets).await;
            if !topics.is_empty() {
                arrival.back = Back::In(topics);
            }
        }
        if members.iter().any(|member| arrival.is_back(member)) {
            found += 1;
            report(arrival, known + found);
        }
    }
    found
}

fn report(arrival: &mut Arrival, dropped: u64) {
    arrival.report = dropped.is_power_of_two().then_some(dropped);
}

fn patterns_of(members: &[Arc<Member>]) -> Arc<[Pattern]> {
    let topics: HashSet<&Topic> = members.iter().flat_map(|member| &member.topics).collect();
    topics.into_iter().cloned().map(Pattern::Exact).collect()
}

/// The topics of the events at these offsets that are stored in one of the given topics. Events that were deleted or
/// cannot be read are not detected; the limit on hops ends their loops.
async fn been(journal: &Shared, patterns: &Arc<[Pattern]>, offsets: &[u64]) -> Vec<Topic> {
    let mut topics = Vec::new();
    for offset in offsets {
        let after = offset.saturating_sub(1);
        let query = Query { patterns: patterns.clone(), after, floor: after, limit: 1, max_bytes: 1 };
        let Ok(page) = journal.read(query).await else { continue };
        if let Some(event) = page.events.first().filter(|event| event.position.offset == *offset) {
            topics.extend(event.topics.iter().cloned());
        }
    }
    topics
}
