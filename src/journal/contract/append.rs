//! Order, atomicity and acknowledgement of a batch.

use std::{
    collections::BTreeMap,
    pin::pin,
    task::{Context, Waker},
};

use super::*;
use crate::{
    event::{Filter, Invalid},
    journal::{AppendError, Expect, RecordWrite},
};

pub(super) async fn offsets_are_dense_and_grow_by_commit(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    assert_eq!(head(&journal), 0);
    let mut offsets = Vec::new();
    for size in 1..5 {
        let receipts = put_all(&journal, vec![draft(&["t"], "x"); size]).await;
        assert!(receipts.iter().all(|r| r.position.epoch == journal.epoch() && !r.duplicate));
        offsets.extend(receipts.iter().map(|r| r.position.offset));
        assert_eq!(head(&journal), *offsets.last().unwrap());
    }
    assert_eq!(offsets, (1..=10).collect::<Vec<_>>());
    assert_ne!(journal.epoch(), open(Config::default()).epoch());
}

pub(super) async fn acknowledged_events_are_read_with_all_fields(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let filter = Filter::new(BTreeMap::from([("premium".to_owned(), true.into())]));
    let sent = Draft {
        topics: vec![topic("a"), topic("b")],
        event: "greeting".into(),
        data: "two\nlines \0 é".into(),
        retry: Some(7),
        comment: Some("c".into()),
        key: Some("k".into()),
        publisher: "p".into(),
        ttl_ms: Some(HOUR_MS),
        filter: Some(filter.clone()),
        origin: Some("up-1".into()),
    };
    let before = crate::event::now_ms();
    let receipt = put_all(&journal, vec![sent]).await[0];
    let event = page(&journal, all_of(&["a"])).await.events.remove(0);
    assert_eq!(event.position, receipt.position);
    assert_eq!(*event.topics, [topic("a"), topic("b")]);
    assert_eq!((&*event.event, &*event.data), ("greeting", "two\nlines \0 é"));
    assert_eq!((event.retry, event.comment.as_deref()), (Some(7), Some("c")));
    assert_eq!((event.key.as_deref(), &*event.publisher), (Some("k"), "p"));
    assert_eq!((event.filter.as_ref(), event.origin.as_deref()), (Some(&filter), Some("up-1")));
    assert!(event.timestamp >= before && event.timestamp <= crate::event::now_ms());
    assert_eq!(event.expires, Some(event.timestamp + HOUR_MS));
}

/// A batch with a valid event that has a key, and a record. Each test adds its fault.
fn batch_with_a_fault() -> Batch {
    let record = RecordWrite { key: "r".into(), value: Some("1".into()) };
    Batch { events: vec![keyed("k", "p", "good")], records: vec![record], expect: Vec::new() }
}

async fn assert_nothing_was_written(journal: &Shared) {
    assert_eq!(head(journal), 0);
    assert_eq!(kept(journal, &["*"]).await, [""; 0]);
    assert_eq!(journal.get("r".into()).await.unwrap(), None);
    let receipts = put_all(journal, vec![keyed("k", "p", "another body")]).await;
    assert!(!receipts[0].duplicate, "a rejected batch leaves its key unused");
    assert_eq!(receipts[0].position.offset, 1, "a rejected batch leaves its offset unused");
}

pub(super) async fn an_invalid_draft_rejects_the_whole_batch(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let mut batch = batch_with_a_fault();
    batch.events.push(Draft { event: "a\nb".into(), ..draft(&["t"], "bad") });
    let refused = journal.append(batch).await;
    assert!(
        matches!(refused, Err(AppendError::Invalid { index: 1, reason: Invalid::ControlCharacter("event") })),
        "{refused:?}"
    );
    assert_nothing_was_written(&journal).await;
}

pub(super) async fn an_event_above_the_limit_is_rejected(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { max_event_bytes: 5, ..Config::default() });
    let mut batch = batch_with_a_fault();
    batch.events.push(draft(&["t"], "123456"));
    let refused = journal.append(batch).await;
    assert!(
        matches!(refused, Err(AppendError::Invalid { index: 1, reason: Invalid::TooLarge { size: 6, limit: 5 } })),
        "{refused:?}"
    );
    assert_eq!(head(&journal), 0);
    put(&journal, &["t"], "12345").await;
}

pub(super) async fn a_failed_expectation_rejects_the_whole_batch(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let expect = vec![Expect { key: "s".into(), revision: None }, Expect { key: "r".into(), revision: Some(1) }];
    let refused = journal.append(Batch { expect, ..batch_with_a_fault() }).await;
    assert!(matches!(&refused, Err(AppendError::Conflict(key)) if key == "r"), "{refused:?}");
    assert_nothing_was_written(&journal).await;
}

pub(super) async fn an_event_in_several_topics_is_one_event(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let receipts = put_all(&journal, vec![draft(&["a", "b", "a", "a"], "1"), draft(&["b"], "2")]).await;
    assert_eq!(receipts.iter().map(|r| r.position.offset).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(kept(&journal, &["a"]).await, ["1"]);
    assert_eq!(kept(&journal, &["b"]).await, ["1", "2"]);
    assert_eq!(kept(&journal, &["a", "b", "*"]).await, ["1", "2"], "read once by a reader of both");
    assert_eq!(info(&journal, "a").await.unwrap().events, 1, "stored once in a topic that was named three times");
    assert_eq!(journal.stats().events, 2);
    assert_eq!(journal.since(0, 10).await.unwrap().events.len(), 2);
}

pub(super) async fn a_batch_without_events_does_not_move_the_head(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put(&journal, &["t"], "1").await;
    let mut seen = journal.watch_head();
    seen.mark_unchanged();
    let records = vec![RecordWrite { key: "r".into(), value: Some("1".into()) }];
    assert_eq!(journal.append(Batch { records, ..Batch::default() }).await.unwrap(), []);
    assert!(!seen.has_changed().unwrap());
    assert_eq!(head(&journal), 1);
    assert_eq!(journal.get("r".into()).await.unwrap().unwrap().value, "1");
}

pub(super) async fn a_dropped_append_is_written_whole_or_not_at_all(open: impl Fn(Config) -> Shared) {
    for polls in 0..3 {
        let journal = open(Config::default());
        let mut batch = batch_with_a_fault();
        batch.events.push(draft(&["t"], "second"));
        {
            let mut append = pin!(journal.append(batch));
            for _ in 0..polls {
                if append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
            }
        }
        put(&journal, &["end"], "end").await;
        let events = kept(&journal, &["t"]).await;
        let record = journal.get("r".into()).await.unwrap();
        match &*events {
            [] => assert_eq!(record, None),
            _ => assert!(events == ["good", "second"] && record.is_some(), "a part of a batch: {events:?}, {record:?}"),
        }
    }
}

pub(super) async fn threads_share_one_dense_order(open: impl Fn(Config) -> Shared) {
    const THREADS: usize = 8;
    const EACH: usize = 200;
    let journal = open(Config::default());
    on_threads(THREADS, |thread| {
        let journal = journal.clone();
        async move {
            let mut last = 0;
            for number in 0..EACH {
                let topics = ["all-threads".to_owned(), format!("thread:{thread}")];
                let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
                let offset = put(&journal, &topics, &number.to_string()).await;
                assert!(offset > last, "offsets grow for each publisher");
                assert!(head(&journal) >= offset, "the head is not before an acknowledged event");
                last = offset;
            }
        }
    })
    .await;
    let all = page(&journal, all_of(&["all-threads"])).await.events;
    assert_eq!(offsets_of(&all), (1..=(THREADS * EACH) as u64).collect::<Vec<_>>());
    for thread in 0..THREADS {
        let own = page(&journal, all_of(&[&format!("thread:{thread}")])).await.events;
        assert_eq!(data_of(&own), (0..EACH).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

pub(super) async fn a_batch_is_never_seen_in_part(open: impl Fn(Config) -> Shared) {
    const BATCHES: usize = 200;
    let journal = open(Config::default());
    // Thread 0 reads while the others write.
    on_threads(3, |thread| {
        let journal = journal.clone();
        async move {
            if thread > 0 {
                for _ in 0..BATCHES {
                    put_all(&journal, vec![draft(&["t"], "x"), draft(&["u"], "x"), draft(&["t"], "x")]).await;
                }
                return;
            }
            while head(&journal) < 2 * 3 * BATCHES as u64 {
                let read = page(&journal, all_of(&["t", "u"])).await;
                assert_eq!((read.events.len() % 3, read.through % 3), (0, 0));
                assert_eq!(head(&journal) % 3, 0);
                let since = journal.since(0, usize::MAX).await.unwrap();
                assert_eq!((since.events.len() % 3, since.through % 3), (0, 0));
            }
        }
    })
    .await;
}
