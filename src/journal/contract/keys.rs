//! Idempotency: event ids of publishers.

use std::collections::BTreeMap;

use super::*;
use crate::{
    event::{Filter, now_ms},
    journal::{AppendError, RecordWrite, Retention},
};

pub(super) async fn the_same_key_appends_once(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let first = put_all(&journal, vec![keyed("k", "p", "x")]).await[0];
    put(&journal, &["t"], "between").await;
    let mut head_seen = journal.watch_head();
    head_seen.mark_unchanged();
    let again = put_all(&journal, vec![keyed("k", "p", "x")]).await[0];
    assert_eq!(again, Receipt { position: first.position, duplicate: true });
    assert!(!head_seen.has_changed().unwrap(), "a duplicate does not move the head");
    assert_eq!(kept(&journal, &["t"]).await, ["x", "between"]);
    assert_eq!((journal.stats().appended, journal.stats().duplicates), (2, 1));
    let mixed = put_all(&journal, vec![draft(&["t"], "y"), keyed("k", "p", "x"), draft(&["t"], "z")]).await;
    assert_eq!(
        mixed.iter().map(|r| (r.position.offset, r.duplicate)).collect::<Vec<_>>(),
        [(3, false), (1, true), (4, false)]
    );
}

pub(super) async fn keys_of_publishers_are_independent(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    // The boundary between two fields counts.
    let batch = vec![
        keyed("k", "p", "1"),
        keyed("k", "q", "2"),
        keyed("", "pk", "3"),
        keyed("pk", "", "4"),
        keyed("kp", "", "5"),
    ];
    assert!(put_all(&journal, batch.clone()).await.iter().all(|receipt| !receipt.duplicate));
    assert!(put_all(&journal, batch).await.iter().all(|receipt| receipt.duplicate));
    let none = Draft { key: None, ..keyed("", "p", "6") };
    assert!(put_all(&journal, vec![none.clone(), none]).await.iter().all(|receipt| !receipt.duplicate));
}

/// One id in two first topics is two events, like row ids of two tables.
pub(super) async fn a_key_belongs_to_the_first_topic(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let to =
        |topics: &[&str]| Draft { topics: topics.iter().map(|name| topic(name)).collect(), ..keyed("1", "p", "x") };
    let batch = vec![to(&["t"]), to(&["u"]), to(&["v", "t"])];
    assert!(put_all(&journal, batch.clone()).await.iter().all(|receipt| !receipt.duplicate));
    assert!(put_all(&journal, batch).await.iter().all(|receipt| receipt.duplicate));
    let other = journal.append(Batch::events(vec![to(&["t", "v"])])).await;
    assert!(matches!(&other, Err(AppendError::KeyReused { key, .. }) if key == "1"), "{other:?}");
}

pub(super) async fn another_body_with_the_same_key_rejects_the_batch(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![keyed("k", "p", "x")]).await;
    let same = || keyed("k", "p", "x");
    let others = [
        keyed("k", "p", "y"),
        Draft { event: "e".into(), ..same() },
        Draft { topics: vec![topic("t"), topic("u")], ..same() },
        Draft { retry: Some(1), ..same() },
        Draft { comment: Some("c".into()), ..same() },
        Draft { ttl_ms: Some(HOUR_MS), ..same() },
        Draft { filter: Some(Filter::new(BTreeMap::from([("a".to_owned(), 1.into())]))), ..same() },
    ];
    for other in others {
        let refused = journal.append(Batch::events(vec![draft(&["t"], "beside"), other.clone()])).await;
        assert!(
            matches!(&refused, Err(AppendError::KeyReused { index: 1, key }) if key == "k"),
            "{other:?} gave {refused:?}"
        );
    }
    assert_eq!(kept(&journal, &["*"]).await, ["x"]);
    assert!(put_all(&journal, vec![same()]).await[0].duplicate, "the first one is still remembered");
}

pub(super) async fn the_same_key_twice_in_a_batch_appends_once(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let batch = vec![
        keyed("k", "p", "x"),
        draft(&["t"], "y"),
        keyed("k", "p", "x"),
        keyed("k", "q", "z"),
        keyed("k", "p", "x"),
    ];
    let receipts = put_all(&journal, batch).await;
    let seen: Vec<_> = receipts.iter().map(|r| (r.position.offset, r.duplicate)).collect();
    assert_eq!(seen, [(1, false), (2, false), (1, true), (3, false), (1, true)]);
    assert_eq!(kept(&journal, &["t"]).await, ["x", "y", "z"]);
    let refused = journal.append(Batch::events(vec![keyed("l", "p", "x"), keyed("l", "p", "y")])).await;
    assert!(matches!(&refused, Err(AppendError::KeyReused { index: 1, key }) if key == "l"), "{refused:?}");
    assert_eq!(head(&journal), 3);
}

/// Comparing all pairs would block other publishers for seconds.
pub(super) async fn many_keys_in_one_batch_are_fast(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_events: 0, ..Config::default() });
    let began = Instant::now();
    let batch: Vec<Draft> = (0..20_000).map(|n| keyed(&format!("key-{n}"), "p", "x")).collect();
    put_all(&journal, batch).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(head(&journal), 20_000);
}

pub(super) async fn a_duplicate_still_writes_its_records(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![keyed("k", "p", "x")]).await;
    let records = vec![RecordWrite { key: "r".into(), value: Some("1".into()) }];
    let batch = Batch { events: vec![keyed("k", "p", "x")], records, expect: Vec::new() };
    assert!(journal.append(batch).await.unwrap()[0].duplicate);
    assert!(journal.get("r".into()).await.unwrap().is_some());
}

pub(super) async fn a_key_is_forgotten_after_its_time(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { dedupe_ms: 1, ..Config::default() });
    put_all(&journal, vec![keyed("k", "p", "x")]).await;
    until("the key is free again", || async { !put_all(&journal, vec![keyed("k", "p", "x")]).await[0].duplicate })
        .await;
    assert_eq!(kept(&journal, &["t"]).await, ["x", "x"]);
}

pub(super) async fn a_key_is_forgotten_with_its_event(open: impl Fn(Config) -> Shared) {
    let rule = Retention { topic: "t".into(), retention_ms: None, retention_events: Some(1), retention_bytes: None };
    let journal = open(Config { retention: vec![rule], ..Config::default() });
    put_all(&journal, vec![keyed("k", "p", "x")]).await;
    put(&journal, &["t"], "trims it").await;
    let again = put_all(&journal, vec![keyed("k", "p", "another body")]).await[0];
    assert_eq!((again.duplicate, again.position.offset), (false, 3));
    let repeat = put_all(&journal, vec![keyed("k", "p", "another body")]).await[0];
    assert_eq!(repeat, Receipt { duplicate: true, ..again }, "the key stands for the second event now");
    journal.purge(topic("t")).await.unwrap();
    assert!(!put_all(&journal, vec![keyed("k", "p", "x")]).await[0].duplicate);
}

pub(super) async fn a_key_does_not_outlive_an_expired_event(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let brief = Draft { ttl_ms: Some(1), ..keyed("k", "p", "x") };
    let first = put_all(&journal, vec![brief.clone()]).await[0];
    let expired = now_ms() + 1;
    until("the event has expired", || async { now_ms() > expired }).await;
    let again = put_all(&journal, vec![brief]).await[0];
    assert!(!again.duplicate && again.position != first.position);
    let expired = now_ms() + 1;
    until("the event has expired", || async { now_ms() > expired }).await;
    // The sweep deletes the first two, and must not remove the key of the third.
    let lasting = keyed("k", "p", "x");
    assert!(!put_all(&journal, vec![lasting.clone()]).await[0].duplicate);
    journal.sweep(now_ms()).await.unwrap();
    assert_eq!(journal.stats().events, 1);
    assert!(put_all(&journal, vec![lasting]).await[0].duplicate);
}

pub(super) async fn threads_that_append_duplicates_append_once(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    on_threads(4, |_| {
        let journal = journal.clone();
        async move {
            for number in 0..100 {
                put_all(&journal, vec![keyed(&number.to_string(), "p", "x")]).await;
            }
        }
    })
    .await;
    assert_eq!((head(&journal), journal.stats().duplicates), (100, 300));
}
