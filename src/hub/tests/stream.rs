//! The frames of a live stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

use serde_json::json;

use super::support::{Rig, draft, events, filtered, meta, numbers, settle, topic};
use crate::{
    event::Position,
    hub::{Connect, Greeting, Reason, Selector, Start},
};

#[actix_rt::test]
async fn the_first_frame_contains_user_and_position() {
    let rig = Rig::new();
    let last = rig.publish("a", "0").await;
    let mut reader = rig
        .open(Connect {
            user: Some("42".into()),
            groups: vec!["staff".into()],
            own: vec![topic("user:42")],
            retry_ms: 1234,
            ..rig.connect(&["a", "order:*", "order:7"])
        })
        .await;
    let first = reader.next().await;
    assert_eq!((first.name.as_str(), first.retry, &first.id), ("connection", Some(1234), &Some(last.to_string())));
    let data = first.json();
    assert!(data["emitterId"].as_str().unwrap().starts_with("user_42_"), "{data}");
    assert_eq!(data["emitterId"], reader.id());
    assert_eq!(
        (&data["status"], &data["userId"], &data["groups"]),
        (&json!("connected"), &json!("42"), &json!(["staff"]))
    );
    assert_eq!(data["topics"], json!(["a", "group:staff", "user:42", "order:*"]));
    assert_eq!(data["resume"], json!({ "from": last.to_string(), "status": "live" }));
    assert!(data["timestamp"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(data.get("clientId").is_none());
}

#[actix_rt::test]
async fn a_client_without_user_is_anonymous() {
    let rig = Rig::new();
    let (mut one, mut other) = (rig.open(rig.connect(&[])).await, rig.open(rig.connect(&[])).await);
    let (one, other) = (one.next().await.json(), other.next().await.json());
    assert!(one["emitterId"].as_str().unwrap().starts_with("anonymous_"), "{one}");
    assert_ne!(one["emitterId"], other["emitterId"]);
    assert_eq!(one["userId"], json!(null));
}

#[actix_rt::test]
async fn a_named_stream_has_its_own_first_frame() {
    let rig = Rig::new();
    let mut greeting = Greeting { event: Some("connected".into()), ..Greeting::default() };
    greeting.fields.insert("jobId".into(), json!("j1"));
    let mut reader = rig.open(Connect { greeting, ..rig.connect(&[]) }).await;
    let first = reader.next().await;
    assert_eq!(first.name, "connected");
    assert_eq!((&first.json()["clientId"], &first.json()["jobId"]), (&json!(reader.id()), &json!("j1")));
}

#[actix_rt::test]
async fn each_event_of_its_topics_arrives_once_and_in_order() {
    let rig = Rig::new();
    let mut reader = rig
        .greeted(Connect {
            groups: vec!["staff".into()],
            own: vec![topic("user:42"), topic("all")],
            ..rig.connect(&["news", "order:*", "order:7"])
        })
        .await;
    let mut positions = Vec::new();
    for name in
        ["user:42", "other", "group:staff", "all", "order:7", "news", "order:", "group:other", "user:4", "order"]
    {
        positions.push((name, rig.publish(name, name).await.to_string()));
    }
    let got = reader.frames().await;
    let got: Vec<_> = got.iter().map(|got| (got.data.as_str(), got.id.clone().unwrap())).collect();
    positions.retain(|(name, _)| !["other", "group:other", "user:4", "order"].contains(name));
    assert_eq!(got, positions);
}

#[actix_rt::test]
async fn an_event_in_several_topics_comes_once() {
    let rig = Rig::new();
    let topics = ["a", "b", "order:7"];
    let mut live = rig.live(&["a", "b", "order:*"]).await;
    rig.append(vec![draft(&topics, "x"), draft(&topics, "y")]).await;
    assert_eq!(live.events().await, ["x", "y"]);
    let mut replay = rig.from(&["a", "b", "order:*"], Start::Beginning).await;
    assert_eq!(replay.next().await.name, "connection");
    assert_eq!(replay.events().await, ["x", "y"]);
}

#[actix_rt::test]
async fn an_envelope_is_the_same_live_and_on_replay() {
    let rig = Rig::new();
    let mut live = rig.greeted(Connect { envelope: true, ..rig.connect(&["a"]) }).await;
    let position = rig.publish("a", r#"{"x":1}"#).await.to_string();
    let got = live.next().await;
    let data = got.json();
    assert_eq!((&data["topic"], &data["id"], &data["data"]), (&json!("a"), &json!(position), &json!({ "x": 1 })));
    assert_eq!(got.id, Some(position));
    let mut replay = rig.greeted(Connect { envelope: true, start: Start::Beginning, ..rig.connect(&["a"]) }).await;
    assert_eq!(replay.next().await, got);
}

#[actix_rt::test]
async fn filtered_events_reach_matching_emitters_live_and_on_replay() {
    let rig = Rig::new();
    let connect = |json: &str, start| Connect { meta: meta(json), start, ..rig.connect(&["a"]) };
    let mut premium = rig.greeted(connect(r#"{"premium":true,"lang":"de"}"#, Start::Live)).await;
    let mut basic = rig.greeted(connect(r#"{"premium":false}"#, Start::Live)).await;
    let for_premium = filtered(draft(&["a"], "gold"), r#"{"premium":true}"#);
    rig.append(vec![draft(&["a"], "1"), for_premium, draft(&["a"], "2")]).await;
    assert_eq!(premium.events().await, ["1", "gold", "2"]);
    assert_eq!(basic.events().await, ["1", "2"]);
    let mut premium = rig.greeted(connect(r#"{"premium":true}"#, Start::Beginning)).await;
    let mut basic = rig.greeted(connect("{}", Start::Beginning)).await;
    assert_eq!(premium.events().await, ["1", "gold", "2"]);
    assert_eq!(basic.events().await, ["1", "2"]);
}

#[actix_rt::test]
async fn a_costly_filter_takes_several_turns_and_the_order_holds() {
    let rig = Rig::new();
    let groups: Vec<String> = (0..100).map(|number| format!("g{number}")).collect();
    let expression = format!("groups.exists(g, {}g == 'g99')", "g == 'x' || ".repeat(8));
    let costly = || filtered(draft(&["a"], "costly"), &serde_json::to_string(&expression).unwrap());
    let connect = |start| Connect { groups: groups.clone(), start, ..rig.connect(&["a"]) };
    let mut readers = Vec::new();
    for _ in 0..30 {
        readers.push(rig.greeted(connect(Start::Live)).await);
    }
    let mut other = rig.live(&["a"]).await;
    rig.append(vec![draft(&["a"], "1"), costly(), draft(&["a"], "2"), costly(), draft(&["a"], "3")]).await;
    let all = ["1", "costly", "2", "costly", "3"];
    // A reader that connects between the turns starts after the events that were already offered.
    readers.push(rig.greeted(connect(Start::Beginning)).await);
    for reader in &mut readers {
        assert_eq!(reader.events().await, all);
    }
    assert_eq!(other.events().await, ["1", "2", "3"]);
    rig.append((0..20).map(|_| costly()).collect()).await;
    let mut late = rig.greeted(connect(Start::Beginning)).await;
    assert_eq!(late.events().await.len(), 25, "a page in several parts");
    assert_eq!(rig.hub.counters().filters_failed.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// Events appended before a connection was made may arrive; events appended after it must arrive.
#[actix_rt::test]
async fn a_live_stream_begins_at_the_position_of_its_first_frame() {
    let rig = Rig::new();
    let mut early = rig.live(&["a"]).await;
    rig.burst("a", 0..100).await;
    // The shard has not had a turn yet.
    let mut reader = rig.open(rig.connect(&["a"])).await;
    rig.burst("a", 100..200).await;
    let from: Position = reader.next().await.json()["resume"]["from"].as_str().unwrap().parse().unwrap();
    let seen = usize::try_from(from.offset).unwrap();
    assert!(seen <= 100);
    assert_eq!(reader.events().await, numbers(seen..200));
    assert_eq!(early.events().await, numbers(0..200));
}

#[actix_rt::test]
async fn a_burst_larger_than_a_pull_arrives_whole() {
    let rig = Rig::new();
    let mut reader = rig.live(&["a"]).await;
    rig.burst("a", 0..3000).await;
    assert_eq!(reader.events().await, numbers(0..3000));
}

#[actix_rt::test]
async fn two_hubs_on_one_thread_do_not_mix() {
    let (left, right) = (Rig::new(), Rig::second());
    let (mut one, mut other) = (left.live(&["a"]).await, right.live(&["a"]).await);
    left.publish("a", "left").await;
    right.publish("a", "right").await;
    assert_eq!(one.events().await, ["left"]);
    assert_eq!(other.events().await, ["right"]);
    assert_eq!((left.hub.counters().open(), right.hub.counters().open()), (1, 1));
    assert_eq!(left.hub.disconnect(Selector::All, Reason::Removed).await, 1);
    assert_eq!(one.rest().await[0].name, "disconnect");
    right.publish("a", "still").await;
    assert_eq!(other.events().await, ["still"]);
}

#[actix_rt::test]
async fn a_slow_reader_does_not_delay_a_fast_one() {
    let rig = Rig::tiny(4);
    let slow = rig.live(&["a"]).await;
    let mut fast = rig.live(&["a"]).await;
    for round in 0..50 {
        rig.burst("a", round * 4..round * 4 + 4).await;
        // No reader waits for time: the fast reader does not depend on a timer.
        let before = tokio::time::Instant::now();
        let mut got = Vec::new();
        while got.len() < 4 {
            got.push(fast.next().await);
        }
        assert_eq!(events(&got), numbers(round * 4..round * 4 + 4));
        assert_eq!(tokio::time::Instant::now(), before);
    }
    assert_eq!(rig.status(&slow).await.state, "catch_up");
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A body is woken once for all events of a turn, and never again after it has ended.
#[actix_rt::test]
async fn a_reader_is_woken_once_for_many_events() {
    let rig = Rig::new();
    let mut subscription = rig.live(&["a"]).await.into_inner();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(subscription.poll_frame(&mut cx).is_pending());
    rig.burst("a", 0..32).await;
    settle().await;
    assert_eq!(wakes.0.load(SeqCst), 1);
    for _ in 0..32 {
        assert!(subscription.poll_frame(&mut cx).is_ready());
    }
    assert!(subscription.poll_frame(&mut cx).is_pending());
    drop(subscription);
    rig.publish("a", "it has no subscriber").await;
    settle().await;
    assert_eq!(wakes.0.load(SeqCst), 1);
}
