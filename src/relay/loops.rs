//! Events that come back to where they have been: found before a batch is written, dropped, counted and reported.
//!
//! A relay may read from the node that it runs on, and from one that reads from here: what comes from another topic is no
//! loop. So an event that has been at this node before is looked up in the journal. It is a loop for those members of the
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

/// Marks the events that have been in a topic of one of these members before; how many there are. Of `known` and more
/// the 1st, the 2nd, the 4th and so on are reported: a report goes round like any other event.
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

/// The topics of those of these events that are kept in one of the topics that are asked for. What retention has let go is
/// not known any more, nor is what a journal that fails has; the number of hops bounds what comes of that.
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
