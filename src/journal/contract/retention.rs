//! Retention: which events are deleted, and which are kept.

use super::*;
use crate::{
    event::now_ms,
    journal::{AppendError, Retention, Unavailable},
};

/// Settings without limits, to which a test adds its own.
fn unbounded() -> Config {
    Config { retention_ms: 0, retention_events: 0, retention_bytes: 0, ..Config::default() }
}

fn rule(pattern: &str) -> Retention {
    Retention { topic: pattern.into(), retention_ms: None, retention_events: None, retention_bytes: None }
}

/// The size that the adapter counts for an event with ten bytes of data in a topic with a name of one letter.
async fn size_of_an_event(open: &impl Fn(Config) -> Shared) -> u64 {
    let journal = open(unbounded());
    put(&journal, &["t"], "0123456789").await;
    let size = journal.stats().bytes;
    assert_eq!(info(&journal, "t").await.unwrap().bytes, size);
    assert!(size >= 10);
    size
}

async fn put_numbers(journal: &Shared, name: &str, count: usize) {
    for number in 0..count {
        put(journal, &[name], &format!("{number:010}")).await;
    }
}

pub(super) async fn a_topic_keeps_at_most_its_number_of_events(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_events: 3, ..unbounded() });
    put_all(&journal, (0..10).map(|n| draft(&["t"], &n.to_string())).collect()).await;
    put(&journal, &["u"], "x").await;
    assert_eq!(kept(&journal, &["t"]).await, ["7", "8", "9"]);
    assert_eq!(kept(&journal, &["u"]).await, ["x"]);
    let t = info(&journal, "t").await.unwrap();
    assert_eq!((t.events, t.first.unwrap().offset, t.last.unwrap().offset), (3, 8, 10));
    assert_eq!((journal.stats().events, journal.stats().trimmed), (4, 7));
}

pub(super) async fn a_topic_keeps_at_most_its_number_of_bytes(open: impl Fn(Config) -> Shared) {
    let size = size_of_an_event(&open).await;
    let journal = open(Config { retention_bytes: 3 * size, ..unbounded() });
    put_numbers(&journal, "t", 10).await;
    assert_eq!(kept(&journal, &["t"]).await.len(), 3);
    assert_eq!(info(&journal, "t").await.unwrap().bytes, 3 * size);
    assert_eq!(journal.stats().bytes, 3 * size);
}

/// It was acknowledged, and could not have been read yet.
pub(super) async fn the_newest_event_of_a_topic_stays(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_bytes: 1, ..unbounded() });
    put_numbers(&journal, "t", 3).await;
    assert_eq!(kept(&journal, &["t"]).await, ["0000000002"]);
}

pub(super) async fn events_are_deleted_by_age(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_ms: 10 * HOUR_MS, ..unbounded() });
    put_numbers(&journal, "t", 3).await;
    let now = now_ms();
    journal.sweep(now + 9 * HOUR_MS).await.unwrap();
    assert_eq!(kept(&journal, &["t"]).await.len(), 3);
    journal.sweep(now + 10 * HOUR_MS).await.unwrap();
    assert_eq!(kept(&journal, &["t"]).await.len(), 0);
    assert_eq!(gap(&journal, &["t"], 2).await, ["t"], "deletion by age is a gap");
    assert_eq!(gap(&journal, &["t"], 3).await, [""; 0]);
    assert_eq!((journal.stats().events, journal.stats().bytes), (0, 0));
}

pub(super) async fn the_first_matching_rule_applies(open: impl Fn(Config) -> Shared) {
    let retention = vec![
        Retention { retention_events: Some(1), ..rule("order:1") },
        Retention { retention_ms: Some(HOUR_MS), ..rule("order:*") },
        Retention { retention_events: Some(0), ..rule("all:*") },
        Retention { retention_events: Some(3), ..rule("o*") },
    ];
    let journal = open(Config { retention_events: 2, retention, ..unbounded() });
    for name in ["order:1", "order:2", "other", "all:1", "unruled"] {
        put_numbers(&journal, name, 5).await;
    }
    let figures = async || {
        let mut figures = Vec::new();
        for name in ["order:1", "order:2", "other", "all:1", "unruled"] {
            figures.push(kept(&journal, &[name]).await.len());
        }
        figures
    };
    assert_eq!(figures().await, [1, 2, 3, 5, 2], "a rule without a limit keeps the general limit; 0 is no limit");
    journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    assert_eq!(figures().await, [1, 0, 3, 5, 2]);
}

pub(super) async fn the_node_deletes_the_oldest_events_first(open: impl Fn(Config) -> Shared) {
    let size = size_of_an_event(&open).await;
    let journal = open(Config { max_bytes: 4 * size, max_event_bytes: 100, ..unbounded() });
    for (number, name) in ["a", "b", "a", "c", "b", "a"].into_iter().enumerate() {
        put(&journal, &[name], &format!("{:010}", number + 1)).await;
    }
    assert_eq!(offsets_of(&page(&journal, all_of(&["*"])).await.events), [3, 4, 5, 6]);
    assert_eq!(journal.stats().bytes, 4 * size);
    assert_eq!(gap(&journal, &["*"], 0).await, ["a", "b"]);
    assert_eq!(gap(&journal, &["c"], 0).await, [""; 0]);
    assert_eq!(gap(&journal, &["*"], 2).await, [""; 0]);
}

pub(super) async fn the_topic_with_the_oldest_last_event_is_removed_first(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { max_topics: 3, ..unbounded() });
    // `a` is the oldest topic, but the last event of `b` is the oldest.
    for name in ["a", "b", "c", "a"] {
        put(&journal, &[name], name).await;
    }
    put(&journal, &["d"], "d").await;
    assert_eq!(kept(&journal, &["*"]).await, ["a", "c", "a", "d"]);
    assert_eq!(journal.stats().topics, 3);
    put(&journal, &["e", "f"], "ef").await;
    assert_eq!(kept(&journal, &["*"]).await, ["d", "ef"], "as many events as necessary are deleted");
    assert_eq!(kept(&journal, &["e"]).await, ["ef"]);
}

pub(super) async fn empty_topics_do_not_cost_others_their_events(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { max_topics: 10, ..unbounded() });
    for number in 0..9 {
        put(&journal, &[&format!("purged:{number}")], "x").await;
        journal.purge(topic(&format!("purged:{number}"))).await.unwrap();
    }
    for _ in 0..5 {
        put(&journal, &["kept"], "x").await;
    }
    for number in 0..9 {
        put_all(&journal, vec![Draft { ttl_ms: Some(HOUR_MS), ..draft(&[&format!("brief:{number}")], "x") }]).await;
        journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    }
    assert_eq!(kept(&journal, &["*"]).await.len(), 5);
    assert_eq!(gap(&journal, &["kept"], 0).await, [""; 0]);
    assert!(journal.stats().topics <= 10);
}

pub(super) async fn jobs_are_kept_whole(open: impl Fn(Config) -> Shared) {
    let size = size_of_an_event(&open).await;
    let retention = vec![Retention { retention_events: Some(10), ..rule("*") }];
    let config = Config { max_bytes: 20 * size, max_event_bytes: 100, max_topics: 2, retention, ..Config::default() };
    let journal = open(config);
    put_numbers(&journal, "job:1", 15).await;
    put(&journal, &["t", "job:1"], "both").await;
    put_numbers(&journal, "t", 5).await;
    put_numbers(&journal, "u", 30).await;
    journal.sweep(now_ms() + 1000 * HOUR_MS).await.unwrap();
    assert_eq!(kept(&journal, &["job:1"]).await.len(), 16);
    assert_eq!(gap(&journal, &["job:1"], 0).await, [""; 0]);
    let stats = journal.stats();
    assert!(stats.bytes == stats.pinned_bytes && stats.bytes >= 15 * size, "{stats:?}");
    assert_eq!(journal.purge(topic("job:1")).await.unwrap(), 16, "its owner can delete it");
    assert_eq!((journal.stats().pinned_bytes, journal.stats().bytes), (0, 0));
}

pub(super) async fn jobs_do_not_count_for_max_topics(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { max_topics: 2, ..unbounded() });
    for number in 0..5 {
        put(&journal, &[&format!("job:{number}")], "x").await;
    }
    for name in ["a", "b"] {
        put(&journal, &[name], name).await;
    }
    assert_eq!(kept(&journal, &["a", "b"]).await, ["a", "b"]);
    assert_eq!(kept(&journal, &["job:*"]).await.len(), 5);
}

pub(super) async fn events_that_cannot_be_stored_are_rejected(open: impl Fn(Config) -> Shared) {
    let size = size_of_an_event(&open).await;
    let journal = open(Config { max_bytes: 4 * size + 50, max_event_bytes: 100, ..unbounded() });
    let number = |name: &str| draft(&[name], "0123456789");
    put_all(&journal, vec![number("t"), number("t")]).await;
    let refused = journal.append(Batch::events(vec![number("t"); 5])).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(Unavailable::Full(_)))), "{refused:?}");
    assert_eq!(kept(&journal, &["t"]).await.len(), 2, "a rejected event deletes nothing");

    let mut jobs = 0;
    while journal.append(Batch::events(vec![number("job:1")])).await.is_ok() {
        jobs += 1;
        assert!(journal.stats().bytes <= 4 * size + 50);
    }
    assert!(jobs >= 3, "other events were deleted for the job");
    let refused = journal.append(Batch::events(vec![number("t")])).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(Unavailable::Full(_)))), "{refused:?}");
    assert_eq!(kept(&journal, &["job:1"]).await.len(), jobs);
    assert!(journal.append(Batch::default()).await.is_ok(), "records can still be written");
    journal.purge(topic("job:1")).await.unwrap();
    put_all(&journal, vec![number("t")]).await;
}

pub(super) async fn figures_return_to_zero(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_events: 3, ..Config::default() });
    for number in 0..5 {
        let topics = ["a", "b", "job:1", "job:2"];
        put(&journal, &topics[number % 4..], "x").await;
        put_all(&journal, vec![Draft { ttl_ms: Some(number as u64 * HOUR_MS), ..draft(&topics, "brief") }]).await;
    }
    let stats = journal.stats();
    assert!(stats.pinned_bytes <= stats.bytes, "an event of two jobs counts once");
    journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    journal.purge(topic("job:1")).await.unwrap();
    journal.sweep(now_ms() + 100 * HOUR_MS).await.unwrap();
    journal.purge(topic("job:2")).await.unwrap();
    let stats = journal.stats();
    assert_eq!((stats.events, stats.bytes, stats.pinned_bytes, stats.appended), (0, 0, 0, 10));
    assert_eq!(journal.topics(Pattern::any(), None, 10).await.unwrap(), []);
}

pub(super) async fn a_sweep_reaches_every_topic(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let brief = |n: usize| Draft { ttl_ms: n.is_multiple_of(2).then_some(HOUR_MS), ..draft(&[&format!("t:{n}")], "x") };
    put_all(&journal, (0..3000).map(brief).collect()).await;
    journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    assert_eq!(journal.stats().events, 1500);
    journal.sweep(now_ms() + 25 * HOUR_MS).await.unwrap();
    assert_eq!(journal.stats().events, 0);
}
