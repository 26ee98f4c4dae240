//! The tail and the head.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;

use super::*;
use crate::{
    event::now_ms,
    journal::{Interest, Retention, Tail},
};

/// Wants events of one topic, once it is switched on.
struct OneTopic {
    topic: Topic,
    enabled: AtomicBool,
}

impl Interest for OneTopic {
    fn wants(&self, topics: &[Topic]) -> bool {
        self.enabled.load(Ordering::SeqCst) && topics.contains(&self.topic)
    }
}

fn one_topic(name: &str, enabled: bool) -> Arc<OneTopic> {
    Arc::new(OneTopic { topic: topic(name), enabled: AtomicBool::new(enabled) })
}

pub(super) async fn a_tail_sleeps_while_appended_events_are_unwanted(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let mut tail = Tail::of(journal.clone(), 0, one_topic("mine", true));
    put(&journal, &["other"], "1").await;
    assert!(tail.next().now_or_never().is_none());
    put(&journal, &["mine", "other"], "2").await;
    let pulled = tail.next().await.unwrap();
    assert_eq!((data_of(&pulled.events), pulled.through), (vec!["2".to_owned()], 2), "the first one is skipped");
    put(&journal, &["other"], "3").await;
    assert!(tail.next().now_or_never().is_none());
}

/// If unwanted events counted as missed, subscribers of other topics would read the journal again and again.
pub(super) async fn unwanted_events_are_not_missed(open: impl Fn(Config) -> Shared) {
    let (retention_ms, retention_bytes) = (None, None);
    let rule = Retention { topic: "other".into(), retention_events: Some(1), retention_ms, retention_bytes };
    let journal = open(Config { retention: vec![rule], ..Config::default() });
    let mut tail = Tail::of(journal.clone(), 0, one_topic("mine", true));
    for round in 1..4 {
        for _ in 0..3 {
            put(&journal, &["other"], "x").await;
        }
        put(&journal, &["mine"], "y").await;
        put(&journal, &["other"], "behind it").await;
        let pulled = tail.next().await.unwrap();
        assert_eq!((pulled.missed, pulled.through), (false, 5 * round));
        assert_eq!(data_of(&pulled.events), ["y", "behind it"], "events after a wanted event are pulled too");
    }
}

/// Whatever threads append in whatever order, every wanted event arrives once.
pub(super) async fn a_tail_skips_no_wanted_event(open: impl Fn(Config) -> Shared) {
    const EACH: u64 = 400;
    let journal = open(Config::default());
    on_threads(5, |thread| {
        let journal = journal.clone();
        let tail = (thread == 0).then(|| Tail::of(journal.clone(), 0, one_topic("mine", true)));
        async move {
            let Some(mut tail) = tail else {
                for number in 0..EACH {
                    put(&journal, &[if number % 4 == 0 { "mine" } else { "other" }], "x").await;
                }
                return;
            };
            let mut mine = 0;
            while mine < EACH {
                let pulled = tail.next().await.unwrap();
                mine += pulled.events.iter().filter(|event| event.topics[0].as_str() == "mine").count() as u64;
            }
        }
    })
    .await;
}

pub(super) async fn an_extended_interest_misses_no_event(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let interest = one_topic("mine", false);
    let mut tail = Tail::of(journal.clone(), 0, interest.clone());
    put(&journal, &["mine"], "before").await;
    assert!(tail.next().now_or_never().is_none());
    interest.enabled.store(true, Ordering::SeqCst);
    assert_eq!(tail.waker().wake(), 1);
    assert_eq!(tail.waker().position(), 1, "unwanted events are skipped");
    assert!(tail.next().now_or_never().is_none());
    put(&journal, &["mine"], "after").await;
    assert_eq!(data_of(&tail.next().await.unwrap().events), ["after"]);
}

pub(super) async fn a_tail_waits_for_the_next_event(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put(&journal, &["t"], "before").await;
    let mut tail = Tail::new(journal.clone(), head(&journal));
    assert!(tail.next().now_or_never().is_none(), "nothing new");
    let waiting = tokio::spawn(async move { tail.next().await.map(|pulled| (pulled, tail.position())) });
    tokio::task::yield_now().await;
    put(&journal, &["t"], "1").await;
    let (pulled, position) = waiting.await.unwrap().unwrap();
    assert_eq!((data_of(&pulled.events), pulled.through, pulled.missed), (vec!["1".to_owned()], 2, false));
    assert_eq!(position, 2);
}

pub(super) async fn a_pull_is_bounded(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![draft(&["t"], "x"); Tail::BATCH + 1]).await;
    let mut tail = Tail::new(journal.clone(), 0);
    let first = tail.next().await.unwrap();
    assert_eq!((first.events.len(), first.through), (Tail::BATCH, Tail::BATCH as u64));
    let second = tail.next().await.unwrap();
    assert_eq!((second.events.len(), second.through), (1, Tail::BATCH as u64 + 1));
}

pub(super) async fn a_cancelled_pull_loses_nothing(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let mut tail = Tail::new(journal.clone(), 0);
    let mut seen = Vec::new();
    for number in 1..=20 {
        // Dropped while it waits, and again where an adapter needs more than one poll.
        while let Some(pulled) = tail.next().now_or_never() {
            seen.extend(offsets_of(&pulled.unwrap().events));
        }
        put(&journal, &["t"], "x").await;
        if number % 3 == 0 {
            drop(tail.next());
        }
    }
    while tail.position() < 20 {
        seen.extend(offsets_of(&tail.next().await.unwrap().events));
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

pub(super) async fn a_tail_skips_expired_events(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let mut tail = Tail::new(journal.clone(), 0);
    put_all(&journal, vec![Draft { ttl_ms: Some(0), ..draft(&["t"], "brief") }; 3 * Tail::BATCH]).await;
    assert!(tail.next().now_or_never().is_none(), "there is no wake without an event");
    put(&journal, &["t"], "x").await;
    let pulled = tail.next().await.unwrap();
    assert_eq!((data_of(&pulled.events), pulled.missed), (vec!["x".to_owned()], false));
    put_all(&journal, vec![Draft { ttl_ms: Some(HOUR_MS), ..draft(&["t"], "brief") }; 3]).await;
    journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    assert!(tail.next().now_or_never().is_none());
}

pub(super) async fn a_tail_reports_missed_events(open: impl Fn(Config) -> Shared) {
    let rule = Retention { topic: "t".into(), retention_ms: None, retention_events: Some(2), retention_bytes: None };
    let journal = open(Config { retention: vec![rule], ..Config::default() });
    let mut tail = Tail::new(journal.clone(), 0);
    put_all(&journal, vec![draft(&["t"], "x"); 2]).await;
    assert!(!tail.next().await.unwrap().missed);
    put_all(&journal, vec![draft(&["t"], "x"); 3]).await;
    let pulled = tail.next().await.unwrap();
    assert_eq!((offsets_of(&pulled.events), pulled.through, pulled.missed), (vec![4, 5], 5, true));
    put(&journal, &["t"], "x").await;
    assert!(!tail.next().await.unwrap().missed, "reported once");
    put(&journal, &["u"], "x").await;
    journal.purge(topic("u")).await.unwrap();
    let pulled = tail.next().await.unwrap();
    assert_eq!((pulled.events.len(), pulled.through, pulled.missed), (0, 7, true), "also if no event is left");
}

pub(super) async fn a_tail_misses_no_event_of_other_threads(open: impl Fn(Config) -> Shared) {
    const EACH: u64 = 500;
    let journal = open(Config::default());
    // Threads 0 and 1 pull. The others append batches of one to three events.
    on_threads(5, |thread| {
        let journal = journal.clone();
        async move {
            if thread > 1 {
                for number in 0..EACH / 2 {
                    put_all(&journal, vec![draft(&["t"], "x"); 1 + 2 * (number % 2) as usize]).await;
                }
                return;
            }
            let mut tail = Tail::new(journal, 0);
            let mut last = 0;
            while last < 3 * EACH {
                let pulled = tail.next().await.unwrap();
                assert!(!pulled.missed);
                for event in pulled.events {
                    assert_eq!(event.position.offset, last + 1);
                    last += 1;
                }
                assert_eq!(tail.position(), pulled.through);
                assert!(pulled.through >= last);
            }
        }
    })
    .await;
}

pub(super) async fn the_head_never_goes_back(open: impl Fn(Config) -> Shared) {
    const EACH: u64 = 500;
    let journal = open(Config::default());
    on_threads(5, |thread| {
        let journal = journal.clone();
        async move {
            if thread > 0 {
                for _ in 0..EACH {
                    put(&journal, &["t"], "x").await;
                }
                return;
            }
            let mut watch = journal.watch_head();
            let mut last = 0;
            while last < 4 * EACH {
                watch.changed().await.unwrap();
                let now = *watch.borrow_and_update();
                assert!(now > last, "{now} after {last}");
                assert!(page(&journal, all_of(&["t"])).await.through >= now, "what the head names can be read");
                last = now;
            }
        }
    })
    .await;
}
