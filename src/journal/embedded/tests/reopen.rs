//! Acknowledged data are restored, after a clean stop and after a crash.

use super::*;
use crate::journal::Expect;

const HOUR_MS: u64 = 60 * 60 * 1000;

async fn infos(again: &Reopened) -> Vec<TopicInfo> {
    again.topics(Pattern::any(), None, 1000).await.unwrap()
}

#[tokio::test]
async fn everything_is_restored() {
    for clean in [true, false] {
        let mut again = Reopened::new(Config::default());
        let full = Draft {
            topics: vec![topic("a"), topic("b")],
            event: "named".into(),
            data: "line\nline".into(),
            retry: Some(7),
            comment: Some("remark".into()),
            key: Some("k".into()),
            publisher: "p".into(),
            ttl_ms: Some(HOUR_MS),
            filter: None,
            origin: Some("up-1".into()),
        };
        let records = vec![RecordWrite { key: "r/1".into(), value: Some(Bytes::from_static(b"v")) }];
        let batch = Batch { events: vec![full.clone(), draft(&["job:1"], "pinned")], records, expect: vec![] };
        Journal::append(&*again, batch).await.unwrap();
        again.put(&["b"], "later").await;
        let shown = |page: &Page| format!("{:?}", page.events);
        let (before, topics, epoch) = (shown(&again.all().await), infos(&again).await, again.epoch());
        let (record, stats) = (again.get("r/1".into()).await.unwrap(), again.stats());

        again.reopen(clean).await;
        // The SSE bytes are created on demand, so they do not differ.
        assert_eq!((shown(&again.all().await), infos(&again).await, again.epoch()), (before, topics, epoch));
        assert_eq!(again.get("r/1".into()).await.unwrap(), record);
        let now = again.stats();
        assert_eq!((now.events, now.bytes, now.pinned_bytes), (stats.events, stats.bytes, stats.pinned_bytes));
        assert_eq!((now.topics, now.records, now.record_bytes), (stats.topics, stats.records, stats.record_bytes));
        assert_eq!(*again.watch_head().borrow(), 3);
        // The key of a publisher is remembered, and the content of its event.
        let repeat = again.append(vec![full.clone()]).await[0];
        assert_eq!((repeat.duplicate, repeat.position.offset), (true, 1));
        let other = Draft { data: "other".into(), ..full };
        assert!(matches!(
            Journal::append(&*again, Batch::events(vec![other])).await,
            Err(AppendError::KeyReused { .. })
        ));
        // Revisions continue, so that an old expectation is not met by chance.
        let write = RecordWrite { key: "r/1".into(), value: Some(Bytes::from_static(b"w")) };
        let expect = vec![Expect { key: "r/1".into(), revision: record.map(|record| record.revision) }];
        Journal::append(&*again, Batch { records: vec![write], expect, ..Batch::default() }).await.unwrap();
        assert_eq!(again.put(&["a"], "next").await, 4);
    }
}

#[tokio::test]
async fn gaps_are_still_reported() {
    for clean in [true, false] {
        let config = Config { retention: vec![keep("few", 2)], ..Config::default() };
        let mut again = Reopened::new(config);
        for n in 0..5 {
            again.put(&["few"], &n.to_string()).await;
        }
        again.put(&["gone"], "x").await;
        again.purge(topic("gone")).await.unwrap();
        again.reopen(clean).await;
        assert_eq!(again.data().await, ["3", "4"]);
        let trimmed: Vec<_> = again.after(1).await.trimmed.into_iter().map(|trimmed| trimmed.topic).collect();
        assert_eq!(trimmed, ["few", "gone"]);
        assert_eq!(again.after(6).await.trimmed, []);
        assert_eq!(again.put(&["few"], "5").await, 7);
    }
}

#[tokio::test]
async fn a_time_is_still_found() {
    let mut again = Reopened::new(Config::default());
    again.put(&["a"], "early").await;
    let first = again.all().await.events[0].timestamp;
    while now_ms() <= first {
        tokio::task::yield_now().await;
    }
    again.put(&["a"], "late").await;
    let second = again.all().await.events[1].timestamp;
    again.reopen(false).await;
    assert_eq!((again.before_time(first).await.unwrap(), again.before_time(second).await.unwrap()), (0, 1));
    assert_eq!(again.before_time(second + HOUR_MS).await.unwrap(), 2);
}

#[tokio::test]
async fn histories_of_jobs_are_still_pinned() {
    let config = Config { max_bytes: 3000, max_event_bytes: 1000, ..Config::default() };
    let mut again = Reopened::new(config);
    again.put(&["job:1"], &"x".repeat(100)).await;
    again.reopen(false).await;
    for _ in 0..20 {
        again.put(&["t"], &"y".repeat(100)).await;
    }
    again.sweep(now_ms() + 100 * HOUR_MS).await.unwrap();
    assert_eq!(again.before_last(vec![Pattern::new("job:*").unwrap()].into(), 1).await.unwrap(), 0);
    assert!(again.stats().pinned_bytes > 0);
    assert_eq!(again.purge(topic("job:1")).await.unwrap(), 1);
    assert_eq!(again.stats().pinned_bytes, 0);
    again.reopen(false).await;
    assert_eq!(again.topics(Pattern::new("job:*").unwrap(), None, 9).await.unwrap(), []);
}

/// The sweep ran at a time far ahead. At the next start the clock is right again.
#[tokio::test]
async fn expired_events_stay_deleted_after_the_clock_was_set_back() {
    for clean in [true, false] {
        let mut again = Reopened::new(Config::default());
        again.append(vec![Draft { ttl_ms: Some(HOUR_MS), ..draft(&["t"], "brief") }]).await;
        again.put(&["t"], "stays").await;
        again.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
        assert_eq!(again.data().await, ["stays"]);
        // A change by expiry alone is written with the next commit at the latest.
        again.put(&["t"], "more").await;
        again.reopen(clean).await;
        assert_eq!(again.data().await, ["stays", "more"], "clean: {clean}");
        assert_eq!(again.all().await.trimmed, []);
    }
}

#[tokio::test]
async fn lower_limits_apply_from_the_start() {
    let mut again = Reopened::new(Config::default());
    for n in 0..9 {
        again.put(&["t"], &n.to_string()).await;
    }
    again.close().await;
    again.config.retention_events = 4;
    again.open().unwrap();
    assert_eq!(again.data().await, ["5", "6", "7", "8"]);
    assert_ne!(again.after(2).await.trimmed, []);
}

/// Its name has two ids then. The older id must not delete the events of the newer one.
#[tokio::test]
async fn a_topic_that_is_created_again_before_a_crash_is_one_topic() {
    let mut again = Reopened::new(Config { max_topics: 2, ..Config::default() });
    for name in ["back", "b", "c", "back"] {
        again.put(&[name], "x").await;
    }
    again.reopen(false).await;
    let patterns = vec![topic("back").into()].into();
    let query = Query { patterns, after: 3, floor: 0, limit: 9, max_bytes: usize::MAX };
    let page = again.read(query).await.unwrap();
    let offsets: Vec<u64> = page.events.iter().map(|event| event.position.offset).collect();
    assert!(offsets == [4] || !page.trimmed.is_empty(), "{page:?}");
    again.put(&["back"], "y").await;
    again.sweep(now_ms()).await.unwrap();
    again.reopen(true).await;
    assert_eq!(again.stats().topics, 2);
}
