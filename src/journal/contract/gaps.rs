//! Gaps: deleted events are reported.

use super::*;
use crate::{
    event::{Position, now_ms},
    journal::{Retention, Trimmed},
};

fn keep_events(pattern: &str, events: u64) -> Config {
    let rule =
        Retention { topic: pattern.into(), retention_ms: None, retention_events: Some(events), retention_bytes: None };
    Config { retention: vec![rule], ..Config::default() }
}

fn brief(topics: &[&str]) -> Draft {
    Draft { ttl_ms: Some(HOUR_MS), ..draft(topics, "brief") }
}

pub(super) async fn a_trimmed_topic_is_reported_to_readers_that_missed_events(open: impl Fn(Config) -> Shared) {
    let journal = open(keep_events("t", 2));
    for _ in 0..5 {
        put(&journal, &["t"], "x").await;
        put(&journal, &["u"], "x").await;
    }
    // `t` keeps 7 and 9.
    let earliest = Some(Position { epoch: journal.epoch(), offset: 7 });
    let expected = Trimmed { topic: "t".into(), earliest };
    for after in [0, 1, 4] {
        for names in [&["t"][..], &["t", "u"], &["*"]] {
            let read = page(&journal, Query { after, ..all_of(names) }).await;
            assert_eq!(read.trimmed, std::slice::from_ref(&expected), "{names:?} after {after}");
        }
        let little = page(&journal, Query { after, limit: 1, ..all_of(&["u", "t"]) }).await;
        assert_eq!(little.trimmed, std::slice::from_ref(&expected), "reported with the first page");
    }
    for after in [5, 6, 7, 10, 11] {
        assert_eq!(gap(&journal, &["t"], after).await, [""; 0], "after {after} nothing is missed");
    }
    assert_eq!(gap(&journal, &["u"], 0).await, [""; 0]);
}

pub(super) async fn a_known_gap_is_not_reported_again(open: impl Fn(Config) -> Shared) {
    let journal = open(keep_events("t", 1));
    for _ in 0..3 {
        put(&journal, &["t"], "x").await;
    }
    let is_reported = async |floor| !page(&journal, Query { floor, ..all_of(&["t"]) }).await.trimmed.is_empty();
    assert!(is_reported(0).await && is_reported(1).await);
    assert!(!is_reported(2).await && !is_reported(3).await);
    put(&journal, &["t"], "x").await;
    assert!(is_reported(2).await, "later deletions are reported");
    let read = page(&journal, Query { floor: 3, ..all_of(&["t"]) }).await;
    assert_eq!(offsets_of(&read.events), [4], "the floor hides no events");
}

pub(super) async fn an_expired_event_is_no_gap(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![brief(&["t"]), brief(&["t", "u"]), draft(&["u"], "x"), brief(&["job:1"])]).await;
    journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    assert_eq!(kept(&journal, &["*"]).await, ["x"]);
    assert_eq!(gap(&journal, &["t", "u", "*"], 0).await, [""; 0]);
    let since = journal.since(0, 10).await.unwrap();
    assert_eq!((offsets_of(&since.events), since.through, since.missed), (vec![3], 4, false));
    assert_eq!((journal.stats().events, journal.stats().trimmed), (1, 0));
    assert!(info(&journal, "t").await.is_none_or(|info| info.events == 0 && info.bytes == 0));
    assert_eq!(journal.purge(topic("t")).await.unwrap(), 0);
    assert_eq!(gap(&journal, &["t"], 0).await, [""; 0], "nothing was left to purge");
}

pub(super) async fn an_event_that_was_trimmed_after_it_expired_is_no_gap(open: impl Fn(Config) -> Shared) {
    let journal = open(keep_events("t", 1));
    put_all(&journal, vec![Draft { ttl_ms: Some(1), ..draft(&["t"], "brief") }]).await;
    let expired = now_ms() + 1;
    until("the event has expired", || async { now_ms() > expired }).await;
    // No sweep has run, so the limit of the topic deletes the event.
    put(&journal, &["t"], "x").await;
    assert_eq!(gap(&journal, &["t"], 0).await, [""; 0]);
    assert!(!journal.since(0, 10).await.unwrap().missed);
}

pub(super) async fn a_purge_is_a_gap(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![draft(&["t"], "1"), draft(&["t"], "2"), draft(&["u"], "3")]).await;
    assert_eq!(journal.purge(topic("nowhere")).await.unwrap(), 0);
    assert_eq!(journal.purge(topic("t")).await.unwrap(), 2);
    assert_eq!(journal.purge(topic("t")).await.unwrap(), 0);
    assert_eq!(kept(&journal, &["*"]).await, ["3"]);
    let read = page(&journal, all_of(&["t"])).await;
    assert_eq!(read.trimmed, [Trimmed { topic: "t".into(), earliest: None }]);
    assert_eq!(read.through, 3);
    assert_eq!(gap(&journal, &["*"], 1).await, ["t"]);
    assert_eq!(gap(&journal, &["t"], 2).await, [""; 0], "a reader of all events has no gap");
    put(&journal, &["t"], "4").await;
    assert_eq!(gap(&journal, &["t"], 0).await, ["t"]);
    assert_eq!(gap(&journal, &["t"], 2).await, [""; 0]);
}

pub(super) async fn a_purge_does_not_change_other_topics(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![draft(&["t", "u"], "both"), draft(&["t"], "own")]).await;
    assert_eq!(journal.purge(topic("t")).await.unwrap(), 2);
    assert_eq!(kept(&journal, &["u"]).await, ["both"]);
    assert_eq!(gap(&journal, &["u"], 0).await, [""; 0]);
    assert_eq!(kept(&journal, &["t"]).await, [""; 0]);
    assert_eq!(info(&journal, "u").await.unwrap().events, 1);
}

/// For a reader of very many topics, the log may be read instead of the topics.
pub(super) async fn a_purged_event_is_hidden_from_readers_of_many_topics(open: impl Fn(Config) -> Shared) {
    let journal = open(keep_events("many:trimmed", 1));
    put_all(&journal, (0..MANY).map(|n| draft(&[&format!("many:{n}")], "x")).collect()).await;
    put(&journal, &["many:purged", "elsewhere"], "purged").await;
    put(&journal, &["many:trimmed", "elsewhere"], "trimmed").await;
    put(&journal, &["many:trimmed"], "y").await;
    journal.purge(topic("many:purged")).await.unwrap();
    let read = kept(&journal, &["many:*"]).await;
    assert_eq!((read.len(), &*read[MANY]), (MANY + 1, "y"));
    assert_eq!(kept(&journal, &["elsewhere"]).await, ["purged", "trimmed"]);
    assert_eq!(kept(&journal, &["*"]).await.len(), MANY + 3);
    let last = journal.before_last(patterns(&["many:*"]), 2).await.unwrap();
    assert_eq!(last, MANY as u64 - 1, "it is not one of the last events");
}

pub(super) async fn a_removed_topic_is_reported_with_the_pattern_of_the_reader(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { max_topics: 2, ..Config::default() });
    for name in ["a:1", "a:2", "a:3"] {
        put(&journal, &[name], "x").await;
    }
    assert_eq!(kept(&journal, &["*"]).await.len(), 2);
    for name in ["a:1", "a:*", "*"] {
        let read = page(&journal, all_of(&[name])).await;
        assert_eq!(read.trimmed, [Trimmed { topic: name.into(), earliest: None }]);
        assert_eq!(gap(&journal, &[name], 1).await, [""; 0]);
    }
    assert_eq!(gap(&journal, &["a:2", "a:3"], 0).await, [""; 0], "existing topics have no gap");
    assert_eq!(gap(&journal, &["job:*"], 0).await, [""; 0], "a purged job is no gap for readers of all jobs");
}

pub(super) async fn a_topic_that_is_created_again_has_a_gap(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { max_topics: 1, ..Config::default() });
    for name in ["a", "b", "a"] {
        put(&journal, &[name], "x").await;
    }
    assert_eq!(kept(&journal, &["*"]).await.len(), 1);
    assert_eq!(gap(&journal, &["a"], 0).await, ["a"]);
    assert_eq!(gap(&journal, &["b"], 1).await, ["b"]);
    assert_eq!(gap(&journal, &["a", "b"], 2).await, [""; 0]);
}

pub(super) async fn a_purged_job_is_a_gap_only_for_its_readers(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![draft(&["job:1"], "1"), draft(&["t"], "2"), draft(&["job:1"], "3")]).await;
    assert_eq!(journal.purge(topic("job:1")).await.unwrap(), 2);
    for name in ["job:1", "job:*", "j*", "job:1*", "*"] {
        assert_eq!(gap(&journal, &[name], 0).await, [name], "{name}");
        assert_eq!(gap(&journal, &[name], 2).await, [name], "{name}");
        assert_eq!(gap(&journal, &[name], 3).await, [""; 0], "{name}");
    }
    // Jobs are created and purged often. This must not be a gap for other topics.
    for name in ["t", "user:1", "user:*", "jobs", "jo:*"] {
        assert_eq!(gap(&journal, &[name], 0).await, [""; 0], "{name}");
    }
    put(&journal, &["job:2"], "4").await;
    assert_eq!(gap(&journal, &["job:2"], 0).await, [""; 0], "a new job has no history");
}

pub(super) async fn a_report_is_bounded_and_names_each_topic_once(open: impl Fn(Config) -> Shared) {
    let journal = open(keep_events("*", 1));
    for _ in 0..2 {
        put_all(&journal, (0..MANY).map(|n| draft(&[&format!("t:{n:03}")], "x")).collect()).await;
    }
    for names in [&["*"][..], &["t:*", "*"], &["t:000", "t:*"], &["t:0*", "t:00*", "t:*"]] {
        let mut reported = gap(&journal, names, 0).await;
        assert_eq!(reported.len(), Page::MAX_TRIMMED, "{names:?}");
        reported.sort_unstable();
        reported.dedup();
        assert_eq!(reported.len(), Page::MAX_TRIMMED, "{names:?}");
    }
    assert_eq!(gap(&journal, &["t:000", "t:000", "t:00*"], 0).await.len(), 10);
}

pub(super) async fn the_tail_reports_deleted_events(open: impl Fn(Config) -> Shared) {
    let journal = open(keep_events("t", 1));
    put_all(&journal, vec![draft(&["t", "u"], "1"), draft(&["t"], "2")]).await;
    let since = journal.since(0, 10).await.unwrap();
    assert_eq!((data_of(&since.events).len(), since.missed), (2, false), "another topic still keeps the first one");
    put(&journal, &["t"], "3").await;
    for (after, next) in [(0, vec![1]), (1, vec![3]), (2, vec![3]), (3, vec![])] {
        let since = journal.since(after, 1).await.unwrap();
        assert_eq!((since.missed, offsets_of(&since.events)), (after < 2, next), "after {after}");
    }
}
