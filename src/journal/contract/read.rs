//! Pages, and the positions where reading begins.

use std::cell::Cell;

use futures::future::join_all;

use super::*;
use crate::event::now_ms;

/// Waits until the clock shows another millisecond, so that later events have another timestamp.
async fn tick() -> u64 {
    let now = now_ms();
    until("the clock moves", || async { now_ms() > now }).await;
    now_ms()
}

/// One event in each of many topics `many:…`.
async fn put_many_topics(journal: &Shared) {
    put_all(journal, (0..MANY).map(|n| draft(&[&format!("many:{n:03}")], "noise")).collect()).await;
}

pub(super) async fn topics_are_read_in_one_order(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    for (topics, data) in [(&["b"][..], "1"), (&["a"], "2"), (&["c"], "3"), (&["a", "b"], "4"), (&["b"], "5")] {
        put(&journal, topics, data).await;
    }
    assert_eq!(kept(&journal, &["a", "b"]).await, ["1", "2", "4", "5"]);
    assert_eq!(kept(&journal, &["a"]).await, ["2", "4"]);
    assert_eq!(kept(&journal, &["nowhere"]).await, [""; 0]);
    assert_eq!(kept(&journal, &[]).await, [""; 0]);
    let read = page(&journal, Query { after: 2, ..all_of(&["a", "b"]) }).await;
    assert_eq!((offsets_of(&read.events), read.through), (vec![4, 5], 5));
    assert_eq!(read.trimmed, []);
}

pub(super) async fn a_star_matches_the_rest(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    for name in ["order", "order:", "order:1", "order:é", "orders", "other", "order;"] {
        put(&journal, &[name], name).await;
    }
    assert_eq!(kept(&journal, &["order:*"]).await, ["order:", "order:1", "order:é"]);
    assert_eq!(kept(&journal, &["order:1"]).await, ["order:1"]);
    assert_eq!(kept(&journal, &["order"]).await, ["order"]);
    assert_eq!(kept(&journal, &["*"]).await.len(), 7);
    assert_eq!(kept(&journal, &["order*", "orders", "o*"]).await.len(), 7, "patterns that overlap read once");
    put_many_topics(&journal).await;
    assert_eq!(kept(&journal, &["order:*", "many:*"]).await.len(), 3 + MANY);
    assert_eq!(kept(&journal, &["*"]).await.len(), 7 + MANY);
}

pub(super) async fn pages_are_bounded_by_count(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    for number in 0..5 {
        put(&journal, &["t"], &number.to_string()).await;
        put(&journal, &["u"], "other").await;
    }
    let query = |after, limit| Query { after, limit, ..all_of(&["t"]) };
    let first = page(&journal, query(0, 2)).await;
    assert_eq!((data_of(&first.events), first.through), (vec!["0".to_owned(), "1".into()], 3));
    let second = page(&journal, query(first.through, 2)).await;
    assert_eq!((data_of(&second.events), second.through), (vec!["2".to_owned(), "3".into()], 7));
    let third = page(&journal, query(second.through, 2)).await;
    assert_eq!((data_of(&third.events), third.through), (vec!["4".to_owned()], 10), "complete up to the head");
    let none = page(&journal, query(0, 0)).await;
    assert_eq!((none.events.len(), none.through), (0, 0), "a limit of 0 skips nothing");
}

pub(super) async fn pages_are_bounded_by_bytes(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    for _ in 0..5 {
        put(&journal, &["t"], "1234567890").await;
    }
    let query = |after, max_bytes| Query { after, max_bytes, ..all_of(&["t"]) };
    let first = page(&journal, query(0, 15)).await;
    assert_eq!(
        (offsets_of(&first.events), first.through),
        (vec![1, 2], 2),
        "the event that reaches the limit is the last"
    );
    let tiny = page(&journal, query(2, 0)).await;
    assert_eq!(
        (offsets_of(&tiny.events), tiny.through),
        (vec![3], 3),
        "a page has at least one event, else reading would stop"
    );
    let rest = page(&journal, query(3, 1000)).await;
    assert_eq!((offsets_of(&rest.events), rest.through), (vec![4, 5], 5));
}

pub(super) async fn a_rare_topic_is_found_among_many_others(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_events: 0, ..Config::default() });
    put_many_topics(&journal).await;
    put(&journal, &["rare"], "1").await;
    put_all(&journal, vec![draft(&["busy"], ""); 20_000]).await;
    put(&journal, &["rare"], "2").await;
    put_all(&journal, vec![draft(&["busy"], ""); 20_000]).await;
    for names in [&["rare"][..], &["rare", "many:*"]] {
        let noise = if names.len() > 1 { MANY } else { 0 };
        assert_eq!(kept(&journal, names).await[noise..], ["1", "2"], "{names:?}");
    }
}

pub(super) async fn any_position_is_accepted(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put(&journal, &["t"], "1").await;
    put_many_topics(&journal).await;
    for after in [head(&journal), head(&journal) + 1, u64::MAX - 1, u64::MAX] {
        for names in [&["t"][..], &["*"], &["nowhere"]] {
            for limit in [0, 1, usize::MAX] {
                let read = page(&journal, Query { after, limit, ..all_of(names) }).await;
                assert_eq!((read.events.len(), read.through), (0, after), "the position never goes back");
            }
        }
        let since = journal.since(after, usize::MAX).await.unwrap();
        assert_eq!((since.events.len(), since.through, since.missed), (0, after, false));
    }
    assert_eq!(journal.before_last(patterns(&["*"]), usize::MAX).await.unwrap(), 0);
}

pub(super) async fn an_expired_event_is_not_read_before_the_sweep(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    put_all(&journal, vec![draft(&["t"], "1"), Draft { ttl_ms: Some(1), ..draft(&["t"], "brief") }]).await;
    until("the event expires", || async { kept(&journal, &["t"]).await == ["1"] }).await;
    assert_eq!(journal.since(0, 10).await.unwrap().events.len(), 1);
    let last = journal.before_last(patterns(&["t"]), 1).await.unwrap();
    assert_eq!(last, 0, "the last event is the one that can be read");
    put_all(&journal, vec![Draft { ttl_ms: Some(0), ..draft(&["t"], "never") }]).await;
    assert_eq!(kept(&journal, &["t"]).await, ["1"]);
}

pub(super) async fn the_last_events_are_counted_over_all_topics(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let before = async |names: &[&str], count| journal.before_last(patterns(names), count).await.unwrap();
    assert_eq!(before(&["*"], 3).await, 0);
    // 1: a, 2: b, 3: a and b, 4: c, 5: a
    for topics in [&["a"][..], &["b"], &["a", "b"], &["c"], &["a"]] {
        put(&journal, topics, "x").await;
    }
    assert_eq!(before(&["a"], 1).await, 4);
    assert_eq!(before(&["a"], 2).await, 2);
    assert_eq!(before(&["a", "b"], 2).await, 2, "an event in both counts once");
    assert_eq!(before(&["a", "b"], 3).await, 1);
    assert_eq!(before(&["a", "b", "*"], 4).await, 1);
    assert_eq!(before(&["b"], 100).await, 1, "all of them, if there are fewer");
    assert_eq!(before(&["a"], 0).await, 5);
    assert_eq!(before(&["nowhere"], 3).await, 5, "no events: the head");
}

pub(super) async fn the_last_events_are_found_among_many_others(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_events: 0, ..Config::default() });
    put(&journal, &["before"], "x").await;
    put_many_topics(&journal).await;
    put_all(&journal, vec![draft(&["busy"], ""); 20_000]).await;
    let last = async |names: &[&str], count| journal.before_last(patterns(names), count).await.unwrap();
    assert_eq!(last(&["many:*"], 3).await, 1 + MANY as u64 - 3);
    assert_eq!(last(&["many:*", "before"], usize::MAX).await, 0);
    assert_eq!(last(&["*"], 5).await, head(&journal) - 5);
}

pub(super) async fn searches_for_the_last_events_do_not_block_other_tasks(open: impl Fn(Config) -> Shared) {
    const EVENTS: usize = 20_000;
    const READERS: usize = 10;
    let journal = open(Config { retention_events: 0, ..Config::default() });
    put_all(&journal, vec![draft(&["long"], ""); EVENTS]).await;
    let (turns, ended) = (Cell::new(0_usize), Cell::new(0));
    let others = async {
        while ended.get() < READERS {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    let searches = (0..READERS).map(|_| async {
        let found = journal.before_last(patterns(&["long"]), EVENTS).await.unwrap();
        ended.set(ended.get() + 1);
        found
    });
    let (found, ()) = tokio::join!(join_all(searches), others);
    assert!(found.iter().all(|position| *position == 0), "{found:?}");
    assert!(turns.get() >= EVENTS / 2048, "others had {} turns", turns.get());
}

pub(super) async fn the_position_of_a_time_is_found(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let before = async |timestamp| journal.before_time(timestamp).await.unwrap();
    assert_eq!(before(0).await, 0);
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(tick().await);
        put_all(&journal, vec![draft(&["t"], "x"), Draft { ttl_ms: Some(HOUR_MS), ..draft(&["u"], "y") }]).await;
    }
    let check = async || {
        for (index, time) in times.iter().enumerate() {
            let after = before(*time).await;
            let read = page(&journal, Query { after, ..all_of(&["t"]) }).await.events;
            assert_eq!(read.len(), times.len() - index);
            assert!(read.iter().all(|event| event.timestamp >= *time));
        }
    };
    check().await;
    assert_eq!(before(0).await, 0);
    assert_eq!(before(tick().await).await, 20, "nothing since");
    assert_eq!(before(u64::MAX).await, 20);
    // Offsets with holes are searched too.
    journal.sweep(now_ms() + 2 * HOUR_MS).await.unwrap();
    check().await;
}

pub(super) async fn a_time_after_all_deleted_events_is_no_gap(open: impl Fn(Config) -> Shared) {
    let journal = open(Config { retention_events: 1, ..Config::default() });
    for _ in 0..3 {
        put(&journal, &["t"], "x").await;
    }
    let now = tick().await;
    put(&journal, &["t"], "new").await;
    let after = journal.before_time(now).await.unwrap();
    assert_eq!((after, gap(&journal, &["t"], after).await.len()), (3, 0));
    journal.purge(topic("t")).await.unwrap();
    let after = journal.before_time(tick().await).await.unwrap();
    assert_eq!((after, gap(&journal, &["t"], after).await.len()), (4, 0));
    let after = journal.before_time(now).await.unwrap();
    assert_eq!(gap(&journal, &["t"], after).await, ["t"], "later events are missed");
}

pub(super) async fn topics_are_listed_in_pages(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    for topics in [&["b:2"][..], &["a"], &["b:1", "a"], &["c"], &["b:10"]] {
        put(&journal, topics, "data").await;
    }
    let list = async |pattern: &str, after: Option<&str>, limit| -> Vec<String> {
        let found = journal.topics(Pattern::new(pattern).unwrap(), after.map(topic), limit).await.unwrap();
        found.into_iter().map(|info| info.topic.to_string()).collect()
    };
    assert_eq!(list("*", None, 10).await, ["a", "b:1", "b:10", "b:2", "c"]);
    assert_eq!(list("*", None, 2).await, ["a", "b:1"]);
    assert_eq!(list("*", Some("b:1"), 2).await, ["b:10", "b:2"]);
    assert_eq!(list("b:*", None, 10).await, ["b:1", "b:10", "b:2"]);
    assert_eq!(list("b:*", Some("b:10"), 10).await, ["b:2"]);
    assert_eq!(list("b:*", Some("a"), 1).await, ["b:1"]);
    assert_eq!(list("b:*", Some("c"), 10).await, [""; 0]);
    assert_eq!(list("b:1", None, 10).await, ["b:1"]);
    assert_eq!(list("b:1", Some("a"), 10).await, ["b:1"]);
    assert_eq!(list("b:1", Some("b:1"), 10).await, [""; 0]);
    assert_eq!(list("b:1", Some("c"), 10).await, [""; 0]);
    assert_eq!(list("b:", None, 10).await, [""; 0], "a name is no prefix");

    let a = info(&journal, "a").await.unwrap();
    assert_eq!((a.events, a.first.unwrap().offset, a.last.unwrap().offset), (2, 2, 3));
    assert_eq!(a.first.unwrap().epoch, journal.epoch());
    assert!(a.bytes >= 8);
}
