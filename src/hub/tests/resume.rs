//! The start of streams in the journal, and the change from history to live events.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::json;

use super::support::{Got, Reader, Rig, draft, events, numbers, settle, topic};
use crate::{
    event::{Position, now_ms},
    hub::{Change, Config, Connect, Start},
    journal::{self, Journal},
};

/// A journal that keeps the last `events` of each topic.
fn keeping(events: u64) -> Rig {
    keeping_with(Config::default(), events)
}

fn keeping_with(config: Config, events: u64) -> Rig {
    Rig::with(config, &journal::Config { retention_events: events, ..journal::Config::default() })
}

async fn greeting(reader: &mut Reader) -> (serde_json::Value, Option<u64>) {
    let first = reader.next().await;
    assert_eq!(first.name, "connection");
    (first.json()["resume"].clone(), first.retry)
}

/// Checks that the second frame is a `gap` for this reason, and returns it.
async fn gap(reader: &mut Reader, requested: &str, reason: &str) -> Got {
    assert_eq!(greeting(reader).await.0, json!({ "from": requested, "status": "gap" }));
    let gap = reader.next().await;
    assert_eq!((gap.name.as_str(), gap.id.as_ref()), ("gap", None));
    assert_eq!((&gap.json()["requested"], gap.reason().as_str()), (&json!(requested), reason));
    gap
}

#[actix_rt::test]
async fn a_client_that_resumes_gets_exactly_the_rest() {
    let rig = Rig::new();
    let positions = rig.burst("a", 0..10).await;
    for (seen, position) in positions.iter().enumerate() {
        let mut reader = rig.from(&["a"], Start::After(position.to_string())).await;
        let (resume, retry) = greeting(&mut reader).await;
        assert_eq!(resume, json!({ "from": position.to_string(), "status": "resumed" }));
        assert_eq!(retry, Some(rig.hub.config().reconnect_time_ms));
        assert_eq!(reader.events().await, numbers(seen + 1..10));
    }
    let mut reader = rig.from(&["a"], Start::After(positions[9].to_string())).await;
    rig.burst("a", 10..12).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "resumed");
    assert_eq!(reader.events().await, numbers(10..12));
}

/// The history is longer than a page, and grows while it is read.
#[actix_rt::test]
async fn a_long_history_continues_live_without_loss() {
    let rig = Rig::tiny(8);
    rig.burst("a", 0..500).await;
    let mut reader = rig.from(&["a"], Start::After(Position::start(rig.journal.epoch()).to_string())).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "resumed");
    let mut got = Vec::new();
    for round in 0..100 {
        got.push(reader.next().await);
        rig.burst("a", 500 + round * 3..503 + round * 3).await;
    }
    assert_eq!(rig.status(&reader).await.state, "catch_up");
    got.extend(reader.frames().await);
    assert_eq!(events(&got), numbers(0..800));
    assert_eq!(rig.status(&reader).await.state, "live");
}

/// The id of the first frame is never later than the sent events. A client that resumes from it gets the same events as
/// this stream.
#[actix_rt::test]
async fn the_first_frame_carries_the_position_after_which_the_stream_continues() {
    let rig = keeping(3);
    let at = |offset| Position { offset, ..Position::start(rig.journal.epoch()) }.to_string();
    assert_eq!(rig.from(&["a"], Start::Live).await.next().await.id, Some(at(0)));
    rig.burst("a", 0..5).await;
    rig.publish("b", "5").await;
    for (start, position) in [
        (Start::Live, 6),
        (Start::After(at(6)), 6),
        (Start::After(at(4)), 4),
        (Start::After(at(2)), 2),
        (Start::After(at(1)), 2),
        (Start::After(at(7)), 2),
        (Start::After("yesterday".into()), 2),
        (Start::Beginning, 2),
        (Start::Since(0), 2),
        (Start::History(1), 5),
        (Start::History(3), 3),
    ] {
        let mut reader = rig.from(&["a", "b"], start.clone()).await;
        let first = reader.next().await;
        assert_eq!((first.name.as_str(), first.id), ("connection", Some(at(position))), "{start:?}");
        let sent: Vec<Got> = reader.frames().await.into_iter().filter(|got| got.name != "gap").collect();
        let mut again = rig.from(&["a", "b"], Start::After(at(position))).await;
        assert_eq!(greeting(&mut again).await.0["status"], "resumed", "{start:?}");
        assert_eq!(again.frames().await, sent, "{start:?}");
    }
    // The topics have no events: the stream continues after the head.
    assert_eq!(rig.from(&["none"], Start::History(3)).await.next().await.id, Some(at(6)));
}

#[actix_rt::test]
async fn a_position_of_another_journal_is_a_gap() {
    let rig = Rig::new();
    let first = rig.burst("a", 0..5).await[0];
    rig.publish("elsewhere", "x").await;
    let head = rig.publish("b", "5").await;
    let foreign = Position { epoch: first.epoch ^ 1, offset: 3 };
    let future = Position { offset: head.offset + 1, ..first };
    for (text, reason) in [
        ("yesterday".to_owned(), "unknown"),
        (String::new(), "unknown"),
        (foreign.to_string(), "foreign"),
        (future.to_string(), "future"),
        (Position { offset: u64::MAX, ..first }.to_string(), "future"),
    ] {
        let mut reader = rig.from(&["a", "b"], Start::After(text.clone())).await;
        let gap = gap(&mut reader, &text, reason).await;
        let earliest =
            json!([{ "topic": "a", "earliest": first.to_string() }, { "topic": "b", "earliest": head.to_string() }]);
        assert_eq!(gap.json()["topics"], earliest);
        assert_eq!(reader.events().await, numbers(0..6), "{reason}");
    }
    assert_eq!(rig.hub.counters().gaps.load(SeqCst), 5);
}

#[actix_rt::test]
async fn events_trimmed_meanwhile_are_a_gap() {
    let rig = keeping(3);
    let positions = rig.burst("a", 0..10).await;
    rig.publish("b", "b").await;
    let seen = positions[4].to_string();
    let mut reader = rig.from(&["a", "b"], Start::After(seen.clone())).await;
    let gap = gap(&mut reader, &seen, "trimmed").await;
    assert_eq!(gap.json()["topics"], json!([{ "topic": "a", "earliest": positions[7].to_string() }]));
    assert_eq!(reader.events().await, ["7", "8", "9", "b"]);
    // A client that received the last trimmed event has missed nothing.
    let mut reader = rig.from(&["a", "b"], Start::After(positions[6].to_string())).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "resumed");
    assert_eq!(reader.events().await, ["7", "8", "9", "b"]);
}

#[actix_rt::test]
async fn history_begins_with_the_last_events() {
    let rig = keeping(5);
    rig.burst("a", 0..4).await;
    rig.burst("b", 4..8).await;
    rig.burst("unheard", 90..95).await;
    for (count, from) in [(0, 8), (1, 7), (5, 3), (8, 0), (100, 0)] {
        let mut reader = rig.from(&["a", "b"], Start::History(count)).await;
        assert_eq!(greeting(&mut reader).await.0["status"], "live");
        assert_eq!(reader.events().await, numbers(from..8), "history={count}");
    }
    // Events that retention deleted before the connection are no loss: the client asked only for existing events.
    rig.burst("a", 8..14).await;
    let mut reader = rig.from(&["a"], Start::History(100)).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "live");
    assert_eq!(reader.events().await, numbers(9..14));
}

#[actix_rt::test]
async fn a_stream_can_start_at_a_time() {
    let rig = Rig::new();
    rig.burst("a", 0..3).await;
    let (before, after) = (now_ms() - 60_000, now_ms() + 60_000);
    for (time, from) in [(0, 0), (before, 0), (after, 3)] {
        let mut reader = rig.from(&["a"], Start::Since(time)).await;
        assert_eq!(greeting(&mut reader).await.0["status"], "live");
        assert_eq!(reader.events().await, numbers(from..3), "since={time}");
    }
}

#[actix_rt::test]
async fn the_beginning_is_the_first_existing_event() {
    let rig = keeping(3);
    rig.burst("a", 0..3).await;
    let mut whole = rig.from(&["a"], Start::Beginning).await;
    assert_eq!(greeting(&mut whole).await.0["status"], "live");
    assert_eq!(whole.events().await, numbers(0..3));
    rig.publish("a", "3").await;
    let mut torn = rig.from(&["a"], Start::Beginning).await;
    assert_eq!(greeting(&mut torn).await.0["status"], "live");
    assert_eq!(torn.events().await, numbers(1..4));
}

#[actix_rt::test]
async fn a_stream_ends_after_the_event_that_it_waits_for() {
    let rig = Rig::tiny(4);
    let job = |start| Connect { start, until: Some("complete"), ..rig.connect(&["job"]) };
    let mut live = rig.greeted(job(Start::Live)).await;
    rig.burst("job", 0..50).await;
    let complete = crate::event::Draft { event: "complete".into(), ..draft(&["job"], "done") };
    rig.append(vec![complete, draft(&["job"], "after the end")]).await;
    let expected: Vec<String> = numbers(0..50).into_iter().chain(["done".to_owned()]).collect();
    // One reader gets the end from the shard or while it catches up, one in a later page, one in the first page.
    assert_eq!(events(&live.rest().await), expected);
    let mut replay = rig.greeted(job(Start::Beginning)).await;
    assert_eq!(events(&replay.rest().await), expected);
    let mut last = rig.greeted(job(Start::History(2))).await;
    assert_eq!(events(&last.rest().await), ["done"]);
    let counters = rig.hub.counters();
    drop((live, replay, last));
    assert_eq!((counters.closed(crate::hub::Reason::Ended), counters.open()), (3, 0));
}

#[actix_rt::test]
async fn a_live_stream_ends_with_its_last_event() {
    let rig = Rig::new();
    let mut live = rig.greeted(Connect { until: Some("complete"), ..rig.connect(&["job"]) }).await;
    let complete = crate::event::Draft { event: "complete".into(), ..draft(&["job"], "done") };
    rig.append(vec![draft(&["job"], "0"), complete, draft(&["job"], "after the end")]).await;
    assert_eq!(events(&live.rest().await), ["0", "done"]);
}

/// A reader that is behind gets a report of each loss, not only of the first one.
#[actix_rt::test]
async fn every_loss_while_behind_is_reported() {
    let config = Config { outbox_events: 4, ..Config::default() };
    let rig = keeping_with(config, 20);
    rig.burst("a", 0..20).await;
    rig.burst("b", 0..20).await;
    let mut reader = rig.from(&["a", "b"], Start::Beginning).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "live");
    let mut got = vec![reader.next().await];
    for loss in 0..3 {
        // Far enough ahead that the reader's next page was deleted from both topics.
        for name in ["a", "b"] {
            rig.burst(name, 100 * (loss + 1)..100 * (loss + 1) + 30).await;
        }
        settle().await;
        let gap = loop {
            let next = reader.next().await;
            if next.name == "gap" {
                break next;
            }
            got.push(next);
        };
        assert_eq!(gap.reason(), "trimmed", "loss {loss}");
        assert_eq!(gap.json()["topics"].as_array().unwrap().len(), 2, "{gap:?}");
        got.push(reader.next().await);
        assert_eq!(got.last().unwrap().data, (100 * (loss + 1) + 10).to_string());
    }
    // Later no event is lost, and no old loss is reported again.
    let rest = events(&reader.frames().await);
    assert_eq!(rest.len(), 39);
    assert_eq!(rest.last().unwrap(), "329");
}

/// Also for a reader of "the last events": events that are deleted while they are read are a loss.
#[actix_rt::test]
async fn a_loss_while_history_is_read_is_reported() {
    let rig = keeping_with(Config { outbox_events: 4, ..Config::default() }, 20);
    rig.burst("a", 0..30).await;
    let mut reader = rig.from(&["a"], Start::History(20)).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "live");
    rig.burst("a", 30..45).await;
    settle().await;
    let frames = reader.frames().await;
    assert_eq!(events(&frames[..4]), numbers(10..14));
    assert_eq!((frames[4].name.as_str(), frames[4].reason().as_str()), ("gap", "trimmed"));
    assert_eq!(events(&frames[5..]), numbers(25..45));
}

/// A topic that was trimmed long ago is not reported to a reader of existing events, for any number of pages.
#[actix_rt::test]
async fn earlier_deletions_are_not_reported_to_readers_of_history() {
    let two =
        journal::Retention { topic: "a".into(), retention_events: Some(2), retention_ms: None, retention_bytes: None };
    let journal = journal::Config { retention: vec![two], ..journal::Config::default() };
    let rig = Rig::with(Config { outbox_events: 4, ..Config::default() }, &journal);
    rig.burst("b", 0..20).await;
    rig.burst("a", 10..22).await;
    let mut reader = rig.from(&["a", "b"], Start::History(100)).await;
    assert_eq!(greeting(&mut reader).await.0["status"], "live");
    assert_eq!(reader.events().await, numbers(0..22));
}

/// One large append can delete events that the tail has not pulled yet.
#[actix_rt::test]
async fn events_deleted_before_delivery_are_a_gap_for_their_subscribers() {
    let rig = keeping(3);
    let mut hearing = rig.live(&["a", "c"]).await;
    let mut others = rig.live(&["b"]).await;
    let start = rig.publish("a", "first").await;
    assert_eq!(hearing.events().await, ["first"]);
    rig.append((0..400).map(|n| draft(&[if n == 200 { "b" } else { "a" }], &n.to_string())).collect()).await;
    let frames = hearing.frames().await;
    assert_eq!((frames[0].name.as_str(), frames[0].reason().as_str()), ("gap", "trimmed"));
    assert_eq!(frames[0].json()["requested"], start.to_string());
    assert_eq!(events(&frames[1..]), numbers(397..400));
    assert_eq!(others.events().await, ["200"]);
    rig.publish("a", "live again").await;
    assert_eq!(hearing.events().await, ["live again"]);
}

/// A stream may be ahead of the position of the shard, and the tail may skip events that only this stream receives. A
/// loss of the tail must not move the stream back.
#[actix_rt::test]
async fn a_stream_ahead_of_the_tail_gets_nothing_twice_when_the_tail_misses_something() {
    let rig = keeping(600);
    let mut other = rig.live(&["b"]).await;
    let positions = rig.burst("a", 0..600).await;
    let mut ahead = rig.from(&["a"], Start::After(positions[399].to_string())).await;
    rig.burst("a", 600..1100).await;
    assert_eq!(greeting(&mut ahead).await.0["status"], "resumed");
    assert_eq!(ahead.events().await, numbers(400..1100));
    assert_eq!(other.events().await, numbers(0..0));
}

/// A page that was requested before the change skips events of the new topics.
#[actix_rt::test]
async fn a_change_while_a_page_is_being_read_loses_nothing() {
    let rig = Rig::tiny(2);
    rig.burst("a", 0..4).await;
    let mut reader = rig.from(&["a"], Start::Beginning).await;
    assert_eq!(reader.next().await.name, "connection");
    let mut got = vec![reader.next().await, reader.next().await];
    let held = rig.journal.pages.write().await;
    assert_eq!(reader.poll().await, None);
    settle().await;
    let change = Change { topics: Some(super::support::patterns(&["a", "new"])), ..Change::default() };
    rig.hub.change(reader.id(), change).await.unwrap();
    rig.publish("new", "4").await;
    drop(held);
    got.extend(reader.frames().await);
    assert_eq!(events(&got), numbers(0..5));
}

#[actix_rt::test]
async fn a_stream_whose_journal_fails_gets_the_reason() {
    let rig = Rig::tiny(2);
    rig.burst("a", 0..4).await;
    let mut reader = rig.from(&["a"], Start::Beginning).await;
    assert_eq!(reader.next().await.name, "connection");
    rig.journal.broken.store(true, SeqCst);
    let frames = reader.rest().await;
    assert_eq!(events(&frames[..2]), numbers(0..2));
    assert_eq!((frames[2].name.as_str(), frames[2].reason().as_str()), ("disconnect", "journal_unavailable"));
    let refused = rig.hub.connect(Connect { start: Start::Beginning, ..rig.connect(&["a"]) }).await;
    assert!(matches!(refused, Err(crate::hub::ConnectError::Journal(_))));
    drop(reader);
    assert_eq!(rig.hub.counters().open(), 0);
}

/// Keys are reused: a page for an emitter that has ended must not reach the next emitter with this key.
#[actix_rt::test]
async fn a_page_for_an_ended_emitter_does_not_reach_the_next() {
    let rig = Rig::tiny(2);
    rig.burst("a", 0..4).await;
    let mut gone = rig.from(&["a"], Start::Beginning).await;
    assert_eq!(greeting(&mut gone).await.0["status"], "live");
    assert_eq!((gone.next().await.data, gone.next().await.data), ("0".to_owned(), "1".to_owned()));
    let held = rig.journal.pages.write().await;
    assert_eq!(gone.poll().await, None);
    drop(gone);
    let mut next = rig.live(&["a"]).await;
    rig.journal.broken.store(true, SeqCst);
    drop(held);
    settle().await;
    rig.publish("a", "live").await;
    assert_eq!(next.events().await, ["live"]);
}

/// A purge is a gap for readers that are behind, and no loss for the others.
#[actix_rt::test]
async fn a_purge_is_a_gap_for_readers_that_are_behind() {
    let rig = Rig::new();
    let positions = rig.burst("a", 0..4).await;
    let mut live = rig.live(&["a"]).await;
    rig.journal.purge(topic("a")).await.unwrap();
    rig.publish("a", "4").await;
    assert_eq!(live.events().await, ["4"]);
    let seen = positions[1].to_string();
    let mut behind = rig.from(&["a"], Start::After(seen.clone())).await;
    gap(&mut behind, &seen, "trimmed").await;
    assert_eq!(behind.events().await, ["4"]);
}
