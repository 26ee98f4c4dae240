//! Full outboxes: each policy, and the memory that a reader can use.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::support::{Got, Rig, draft, events, numbers, settle};
use crate::{
    hub::{Config, Connect, Overflow, Reason, Start},
    journal,
};

fn policy(rig: &Rig, overflow: Overflow) -> Connect {
    Connect { overflow, ..rig.connect(&["a"]) }
}

fn dropped(got: &Got) -> u64 {
    assert_eq!((got.name.as_str(), got.reason().as_str(), got.id.as_ref()), ("gap", "dropped", None));
    assert_eq!(got.json()["topics"], json!([]));
    got.json()["dropped"].as_u64().unwrap()
}

#[actix_rt::test]
async fn catching_up_loses_nothing() {
    let rig = Rig::tiny(4);
    let mut reader = rig.live(&["a"]).await;
    rig.burst("a", 0..1000).await;
    settle().await;
    let status = rig.status(&reader).await;
    assert_eq!((status.state, status.queued_events), ("catch_up", 4));
    assert_eq!(reader.events().await, numbers(0..1000));
    let status = rig.status(&reader).await;
    assert_eq!((status.state, status.delivered_events, status.dropped_events), ("live", 1000, 0));
    let counters = rig.hub.counters();
    assert_eq!((counters.lagged.load(SeqCst), counters.dropped.load(SeqCst), counters.gaps.load(SeqCst)), (1, 0, 0));
}

/// One turn delivers at most half an outbox, also in bytes.
#[actix_rt::test]
async fn a_burst_of_large_events_does_not_overflow_a_fast_reader() {
    let rig = Rig::tiny(1000);
    let mut reader = rig.live(&["a"]).await;
    let reading = actix_rt::spawn(async move { reader.events().await });
    settle().await;
    let large = "x".repeat(200);
    rig.append((0..30).map(|_| draft(&["a"], &large)).collect()).await;
    assert_eq!(reading.await.unwrap(), vec![large; 30]);
    assert_eq!(rig.hub.counters().lagged.load(SeqCst), 0, "it had to catch up");
}

#[actix_rt::test]
async fn events_trimmed_while_a_reader_lags_are_a_gap_and_then_it_continues() {
    let config = Config { outbox_events: 4, ..Config::default() };
    let rig = Rig::with(config, &journal::Config { retention_events: 10, ..journal::Config::default() });
    let mut reader = rig.live(&["a"]).await;
    for number in 0..100 {
        rig.publish("a", &number.to_string()).await;
        settle().await;
    }
    let frames = reader.frames().await;
    assert_eq!(events(&frames[..4]), numbers(0..4));
    assert_eq!((frames[4].name.as_str(), frames[4].reason().as_str()), ("gap", "trimmed"));
    assert_eq!(frames[4].json()["requested"], json!(frames[3].id));
    assert_eq!(frames[4].json()["topics"][0]["earliest"], json!(frames[5].id));
    assert_eq!(events(&frames[5..]), numbers(90..100));
    rig.publish("a", "100").await;
    assert_eq!(reader.events().await, ["100"]);
}

#[actix_rt::test]
async fn drop_oldest_reports_the_number_of_dropped_events_at_their_position() {
    let rig = Rig::tiny(4);
    let mut reader = rig.open(policy(&rig, Overflow::DropOldest)).await;
    rig.burst("a", 0..10).await;
    settle().await;
    // Nothing was read yet: the greeting is still the first frame.
    let frames = reader.frames().await;
    assert_eq!(frames[0].name, "connection");
    assert_eq!(dropped(&frames[1]), 6);
    assert_eq!(events(&frames[2..]), numbers(6..10));
    let status = rig.status(&reader).await;
    assert_eq!((status.state, status.dropped_events, status.delivered_events), ("live", 6, 4));
    assert_eq!(rig.hub.counters().dropped.load(SeqCst), 6);
    assert_eq!(rig.hub.counters().gaps.load(SeqCst), 1);
    rig.publish("a", "10").await;
    assert_eq!(reader.events().await, ["10"]);
}

#[actix_rt::test]
async fn drop_oldest_counts_all_events_that_a_large_event_replaces() {
    let rig = Rig::tiny(100);
    let mut reader = rig.greeted(policy(&rig, Overflow::DropOldest)).await;
    rig.burst("a", 0..10).await;
    let large = "x".repeat(2000);
    rig.publish("a", &large).await;
    settle().await;
    let frames = reader.frames().await;
    assert_eq!(dropped(&frames[0]), 10);
    assert_eq!(events(&frames[1..]), [large]);
    assert_eq!(rig.status(&reader).await.dropped_events, 10);
    assert_eq!(rig.hub.counters().dropped.load(SeqCst), 10);
}

#[actix_rt::test]
async fn drop_latest_reports_the_number_of_dropped_events_at_their_position() {
    let rig = Rig::tiny(4);
    let mut reader = rig.open(policy(&rig, Overflow::DropLatest)).await;
    rig.burst("a", 0..10).await;
    settle().await;
    let mut got: Vec<Got> = Vec::new();
    for _ in 0..3 {
        got.push(reader.next().await);
    }
    rig.burst("a", 10..12).await;
    got.extend(reader.frames().await);
    assert_eq!(got[0].name, "connection");
    assert_eq!(events(&got[1..5]), numbers(0..4));
    assert_eq!(dropped(&got[5]), 6);
    assert_eq!(events(&got[6..]), numbers(10..12));
    let status = rig.status(&reader).await;
    assert_eq!((status.dropped_events, status.delivered_events), (6, 6));
    assert_eq!((rig.hub.counters().dropped.load(SeqCst), rig.hub.counters().gaps.load(SeqCst)), (6, 1));
}

/// Bursts are delivered in portions that fit: only a slow reader overflows.
#[actix_rt::test]
async fn a_reader_that_keeps_up_never_overflows() {
    let rig = Rig::tiny(2);
    for overflow in [Overflow::DropOldest, Overflow::DropLatest, Overflow::Disconnect, Overflow::CatchUp] {
        let mut reader = rig.greeted(policy(&rig, overflow)).await;
        rig.burst("a", 0..500).await;
        assert_eq!(reader.events().await, numbers(0..500), "{overflow:?}");
    }
    let counters = rig.hub.counters();
    assert_eq!((counters.dropped.load(SeqCst), counters.lagged.load(SeqCst), counters.closed(Reason::Slow)), (0, 0, 0));
}

/// The loss is reported when the reader reaches its position, without waiting for another event.
#[actix_rt::test]
async fn drop_latest_reports_a_loss_at_the_end() {
    let rig = Rig::tiny(2);
    let mut reader = rig.greeted(policy(&rig, Overflow::DropLatest)).await;
    rig.burst("a", 0..5).await;
    settle().await;
    let frames = reader.frames().await;
    assert_eq!(events(&frames[..2]), numbers(0..2));
    assert_eq!((frames.len(), dropped(&frames[2])), (3, 3));
}

#[actix_rt::test]
async fn a_reader_that_is_too_slow_for_its_policy_is_disconnected() {
    let rig = Rig::tiny(4);
    let mut slow = rig.open(policy(&rig, Overflow::Disconnect)).await;
    let mut other = rig.live(&["a"]).await;
    rig.burst("a", 0..10).await;
    settle().await;
    assert_eq!(rig.status(&slow).await.state, "closing");
    let frames = slow.rest().await;
    // The waiting events are dropped: the client resumes after the last event that it has received.
    assert_eq!(frames.iter().map(|got| got.name.as_str()).collect::<Vec<_>>(), ["connection", "disconnect"]);
    assert_eq!(frames[1].reason(), "slow");
    assert!(frames[1].retry.is_some());
    drop(slow);
    assert_eq!(rig.hub.counters().closed(Reason::Slow), 1);
    assert_eq!(other.events().await, numbers(0..10));
}

#[actix_rt::test]
async fn an_event_above_the_bound_is_still_delivered() {
    let rig = Rig::tiny(4);
    let large = "x".repeat(100_000);
    for overflow in [Overflow::CatchUp, Overflow::DropOldest, Overflow::DropLatest, Overflow::Disconnect] {
        let mut reader = rig.greeted(policy(&rig, overflow)).await;
        rig.publish("a", &large).await;
        assert_eq!(reader.events().await, [large.as_str()], "{overflow:?}");
    }
}

/// For any events and any behaviour, a reader uses no more memory than its outbox and one page.
#[actix_rt::test]
async fn a_reader_uses_no_more_memory_than_its_outbox_and_a_page() {
    let rig =
        Rig::with(Config { outbox_events: 64, outbox_bytes: 4096, ..Config::default() }, &journal::Config::default());
    let event = 400;
    let bound = 4096 + 4096 / 2 + event + 512;
    for overflow in [Overflow::CatchUp, Overflow::DropOldest, Overflow::DropLatest] {
        let mut reader = rig.open(policy(&rig, overflow)).await;
        let mut most = 0;
        for round in 0..200 {
            let data = "x".repeat(round * 7 % event);
            rig.append((0..20).map(|_| draft(&["a"], &data)).collect()).await;
            settle().await;
            for _ in 0..round % 13 {
                reader.poll().await;
                settle().await;
            }
            rig.hub.send_to_emitter(reader.id(), "note".into(), "x".repeat(50)).await;
            let status = rig.status(&reader).await;
            most = most.max(status.queued_bytes);
            assert!(status.queued_bytes <= bound, "{overflow:?}: {} bytes", status.queued_bytes);
            assert!(status.queued_events <= 2 * 64 + 2, "{overflow:?}: {} frames", status.queued_events);
        }
        assert!(most > 2048, "{overflow:?}: the bound was never near");
    }
}

/// Clients that request history and do not read must not block the memory that other readers need.
#[actix_rt::test]
async fn unread_history_makes_room_for_other_readers() {
    let rig = Rig::with_pages(5000);
    let large = "x".repeat(1000);
    rig.append((0..20).map(|_| draft(&["a"], &large)).collect()).await;
    let mut stuck = rig.from(&["a"], Start::Beginning).await;
    let begin = Instant::now();
    let mut reader = rig.from(&["a"], Start::Beginning).await;
    let waited = begin.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    assert_eq!(rig.hub.counters().closed(Reason::WriteDeadline), 0, "it is not disconnected yet");
    let frames = reader.frames().await;
    assert_eq!(events(&frames[1..]), vec![large.clone(); 20]);
    let last = stuck.rest().await;
    assert_eq!(last.iter().filter(|got| got.data == large).count(), 20, "it gets the waiting events, and no more");
    drop(stuck);
    assert_eq!(rig.hub.counters().closed(Reason::WriteDeadline), 1);
    // A client that reads does not wait for others.
    let begin = Instant::now();
    for _ in 0..5 {
        let mut reader = rig.from(&["a"], Start::Beginning).await;
        assert_eq!(reader.frames().await.len(), 21);
    }
    assert!(begin.elapsed() < Duration::from_secs(1));
}
