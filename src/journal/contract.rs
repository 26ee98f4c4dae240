//! The contract: behaviours that every adapter must have, one per function. The macro at the end runs them against each
//! adapter.
//!
//! A behaviour gets a factory and uses only the port. Time is passed to `sweep`. Where only the wall clock counts, the
//! test waits with a deadline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Batch, Config, Page, Query, Receipt, Shared, TopicInfo};
use crate::{
    event::{Draft, SharedEvent},
    topic::{Pattern, Topic},
};

mod append;
mod gaps;
mod keys;
mod model;
mod read;
mod records;
mod retention;
mod tail;

/// More topics than an adapter merges one by one.
const MANY: usize = 100;

const HOUR_MS: u64 = 60 * 60 * 1000;

// === words of the tests ===

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("the name is valid")
}

fn patterns(names: &[&str]) -> Arc<[Pattern]> {
    names.iter().map(|name| Pattern::new(name).expect("the pattern is valid")).collect()
}

fn draft(topics: &[&str], data: &str) -> Draft {
    Draft { topics: topics.iter().map(|name| topic(name)).collect(), data: data.into(), ..Draft::default() }
}

fn keyed(key: &str, publisher: &str, data: &str) -> Draft {
    Draft { key: Some(key.into()), publisher: publisher.into(), ..draft(&["t"], data) }
}

/// Selects all events of these patterns in one page.
fn all_of(names: &[&str]) -> Query {
    Query { patterns: patterns(names), after: 0, floor: 0, limit: usize::MAX, max_bytes: usize::MAX }
}

async fn put_all(journal: &Shared, events: Vec<Draft>) -> Vec<Receipt> {
    journal.append(Batch::events(events)).await.expect("the batch is valid")
}

async fn put(journal: &Shared, topics: &[&str], data: &str) -> u64 {
    put_all(journal, vec![draft(topics, data)]).await[0].position.offset
}

async fn page(journal: &Shared, query: Query) -> Page {
    journal.read(query).await.expect("the journal is open")
}

/// The data of all stored events of these patterns, read in pages of two.
async fn kept(journal: &Shared, names: &[&str]) -> Vec<String> {
    let mut query = Query { limit: 2, ..all_of(names) };
    let mut payloads = Vec::new();
    let head = head(journal);
    while query.after < head {
        let Page { events, through, .. } = page(journal, query.clone()).await;
        assert!(through > query.after, "a page makes progress");
        payloads.extend(data_of(&events));
        query.after = through;
    }
    payloads
}

/// Names of the topics that are reported as trimmed to a reader after `after`.
async fn gap(journal: &Shared, names: &[&str], after: u64) -> Vec<String> {
    let page = page(journal, Query { after, ..all_of(names) }).await;
    page.trimmed.into_iter().map(|trimmed| trimmed.topic).collect()
}

async fn info(journal: &Shared, name: &str) -> Option<TopicInfo> {
    journal.topics(topic(name).into(), None, 1).await.expect("the journal is open").pop()
}

fn data_of(events: &[SharedEvent]) -> Vec<String> {
    events.iter().map(|event| event.data.to_string()).collect()
}

fn offsets_of(events: &[SharedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position.offset).collect()
}

fn head(journal: &Shared) -> u64 {
    *journal.watch_head().borrow()
}

/// Waits until the condition is true. Fails the test after a deadline.
async fn until<F: Future<Output = bool>>(what: &str, mut asked: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !asked().await {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs `work` on several threads at once, each with the number of its thread.
async fn on_threads<F>(threads: usize, work: impl Fn(usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let handle = tokio::runtime::Handle::current();
    let spawn = |number| {
        let (handle, work) = (handle.clone(), work(number));
        tokio::task::spawn_blocking(move || handle.block_on(work))
    };
    let running: Vec<_> = (0..threads).map(spawn).collect();
    for thread in running {
        thread.await.expect("no thread panics");
    }
}

// === every behaviour with every adapter ===

/// The list of all behaviours. `$open` creates an empty journal from a [`Config`].
macro_rules! contract {
    ($adapter:ident, $open:expr) => {
        mod $adapter {
            suite! { $open;
                append: offsets_are_dense_and_grow_by_commit;
                append: acknowledged_events_are_read_with_all_fields;
                append: an_invalid_draft_rejects_the_whole_batch;
                append: an_event_above_the_limit_is_rejected;
                append: a_failed_expectation_rejects_the_whole_batch;
                append: an_event_in_several_topics_is_one_event;
                append: a_batch_without_events_does_not_move_the_head;
                append: a_dropped_append_is_written_whole_or_not_at_all;
                append: threads_share_one_dense_order;
                append: a_batch_is_never_seen_in_part;
                keys: the_same_key_appends_once;
                keys: keys_of_publishers_are_independent;
                keys: a_key_belongs_to_the_first_topic;
                keys: another_body_with_the_same_key_rejects_the_batch;
                keys: the_same_key_twice_in_a_batch_appends_once;
                keys: many_keys_in_one_batch_are_fast;
                keys: a_duplicate_still_writes_its_records;
                keys: a_key_is_forgotten_after_its_time;
                keys: a_key_is_forgotten_with_its_event;
                keys: a_key_does_not_outlive_an_expired_event;
                keys: threads_that_append_duplicates_append_once;
                read: topics_are_read_in_one_order;
                read: a_star_matches_the_rest;
                read: pages_are_bounded_by_count;
                read: pages_are_bounded_by_bytes;
                read: a_rare_topic_is_found_among_many_others;
                read: any_position_is_accepted;
                read: an_expired_event_is_not_read_before_the_sweep;
                read: the_last_events_are_counted_over_all_topics;
                read: the_last_events_are_found_among_many_others;
                read: searches_for_the_last_events_do_not_block_other_tasks;
                read: the_position_of_a_time_is_found;
                read: a_time_after_all_deleted_events_is_no_gap;
                read: topics_are_listed_in_pages;
                gaps: a_trimmed_topic_is_reported_to_readers_that_missed_events;
                gaps: a_known_gap_is_not_reported_again;
                gaps: an_expired_event_is_no_gap;
                gaps: an_event_that_was_trimmed_after_it_expired_is_no_gap;
                gaps: a_purge_is_a_gap;
                gaps: a_purge_does_not_change_other_topics;
                gaps: a_purged_event_is_hidden_from_readers_of_many_topics;
                gaps: a_removed_topic_is_reported_with_the_pattern_of_the_reader;
                gaps: a_topic_that_is_created_again_has_a_gap;
                gaps: a_purged_job_is_a_gap_only_for_its_readers;
                gaps: a_report_is_bounded_and_names_each_topic_once;
                gaps: the_tail_reports_deleted_events;
                retention: a_topic_keeps_at_most_its_number_of_events;
                retention: a_topic_keeps_at_most_its_number_of_bytes;
                retention: the_newest_event_of_a_topic_stays;
                retention: events_are_deleted_by_age;
                retention: the_first_matching_rule_applies;
                retention: the_node_deletes_the_oldest_events_first;
                retention: the_topic_with_the_oldest_last_event_is_removed_first;
                retention: empty_topics_do_not_cost_others_their_events;
                retention: jobs_are_kept_whole;
                retention: jobs_do_not_count_for_max_topics;
                retention: events_that_cannot_be_stored_are_rejected;
                retention: figures_return_to_zero;
                retention: a_sweep_reaches_every_topic;
                records: a_record_is_written_read_and_deleted;
                records: every_write_has_its_own_revision;
                records: expectations_guard_a_record;
                records: large_records_are_like_small_ones;
                records: keys_are_scanned_in_order_and_pages;
                records: records_are_counted;
                tail: a_tail_waits_for_the_next_event;
                tail: a_tail_sleeps_while_appended_events_are_unwanted;
                tail: unwanted_events_are_not_missed;
                tail: a_tail_skips_no_wanted_event;
                tail: an_extended_interest_misses_no_event;
                tail: a_pull_is_bounded;
                tail: a_cancelled_pull_loses_nothing;
                tail: a_tail_skips_expired_events;
                tail: a_tail_reports_missed_events;
                tail: a_tail_misses_no_event_of_other_threads;
                tail: the_head_never_goes_back;
            }
            models! { $open;
                pages_agree_with_a_plain_list;
                pages_of_many_topics_agree_with_a_plain_list;
                every_gap_by_the_limits_of_the_node_is_reported;
            }
        }
    };
}

macro_rules! suite {
    ($open:expr; $($part:ident: $behaviour:ident;)+) => {
        $(
            #[tokio::test]
            async fn $behaviour() {
                super::$part::$behaviour($open).await;
            }
        )+
    };
}

macro_rules! models {
    ($open:expr; $($behaviour:ident;)+) => {
        $(
            #[test]
            fn $behaviour() {
                super::model::$behaviour($open);
            }
        )+
    };
}

contract!(memory, |config| std::sync::Arc::new(crate::journal::Memory::new(&config)));
contract!(embedded, |config| crate::journal::embedded::tests::fresh(&config));
