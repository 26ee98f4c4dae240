//! Changes of emitters through the API, and the reports of the hub about them.

use std::{cell::RefCell, rc::Rc, time::Duration};

use serde_json::json;

use tokio::{sync::oneshot, task::spawn_local};

use super::support::{Reader, Rig, draft, filtered, meta, numbers, patterns, settle, topic};
use crate::{
    event::Meta,
    hub::{Change, Connect, Reason, Selector, Start},
};

async fn of_user(rig: &Rig, user: &str, groups: &[&str]) -> Reader {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let own = vec![topic(&format!("user:{user}"))];
    rig.greeted(Connect { user: Some(user.into()), groups, own, ..rig.connect(&[]) }).await
}

#[actix_rt::test]
async fn emitters_are_disconnected_by_id_user_and_group() {
    let rig = Rig::new();
    let mut one = of_user(&rig, "1", &["red"]).await;
    let mut other = of_user(&rig, "1", &["blue"]).await;
    let mut red = of_user(&rig, "2", &["red", "green"]).await;
    let last = of_user(&rig, "3", &[]).await;
    assert_eq!(rig.hub.disconnect(Selector::Id("unknown".into()), Reason::Removed).await, 0);
    assert_eq!(rig.hub.disconnect(Selector::Id(other.id()), Reason::Removed).await, 1);
    assert_eq!(rig.hub.disconnect(Selector::User("1".into()), Reason::Removed).await, 1);
    assert_eq!(rig.hub.disconnect(Selector::Group("red".into()), Reason::Removed).await, 1);
    for reader in [&mut one, &mut other, &mut red] {
        let frames = reader.rest().await;
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].name.as_str(), frames[0].json()), ("disconnect", json!({ "reason": "removed" })));
        assert!((1500..=4500).contains(&frames[0].retry.unwrap()));
    }
    drop((one, other, red));
    assert_eq!((rig.hub.counters().closed(Reason::Removed), rig.hub.counters().open()), (3, 1));
    assert_eq!(rig.hub.emitters(Selector::All).await[0].emitter_id, last.id());
}

/// The waiting frames are sent before the end, and nothing after it.
#[actix_rt::test]
async fn a_disconnected_stream_sends_its_waiting_frames_and_ends() {
    let rig = Rig::new();
    let mut reader = rig.live(&["a"]).await;
    rig.burst("a", 0..3).await;
    settle().await;
    rig.hub.disconnect(Selector::All, Reason::Removed).await;
    rig.burst("a", 3..6).await;
    settle().await;
    assert!(!rig.hub.send_to_emitter(reader.id(), "note".into(), "x".into()).await);
    let frames = reader.rest().await;
    assert_eq!(super::support::events(&frames[..3]), numbers(0..3));
    assert_eq!((frames.len(), frames[3].name.as_str()), (4, "disconnect"));
}

#[actix_rt::test]
async fn a_change_of_topics_applies_to_later_events() {
    let rig = Rig::new();
    let mut reader = of_user(&rig, "1", &["red"]).await;
    let change = |change| rig.hub.change(reader.id(), change);
    let status = change(Change { topics: Some(patterns(&["a", "o:*"])), ..Change::default() }).await.unwrap();
    assert_eq!(status.topics, patterns(&["a", "group:red", "user:1", "o:*"]));
    for name in ["user:1", "group:red", "a", "o:1"] {
        rig.publish(name, name).await;
    }
    settle().await;
    change(Change { groups: Some(vec!["blue".into()]), ..Change::default() }).await.unwrap();
    for name in ["group:red", "group:blue", "a"] {
        rig.publish(name, name).await;
    }
    settle().await;
    change(Change { topics: Some(Vec::new()), ..Change::default() }).await.unwrap();
    rig.publish("a", "a").await;
    rig.publish("user:1", "own").await;
    settle().await;
    let for_premium = || filtered(draft(&["user:1"], "gold"), r#"{"premium":true}"#);
    rig.append(vec![for_premium()]).await;
    settle().await;
    let status = change(Change { meta: Some(meta(r#"{"premium":true}"#)), ..Change::default() }).await.unwrap();
    assert_eq!((status.groups, status.meta), (vec!["blue".to_owned()], meta(r#"{"premium":true}"#)));
    rig.append(vec![for_premium()]).await;
    assert_eq!(reader.events().await, ["user:1", "group:red", "a", "o:1", "group:blue", "a", "own", "gold"]);
    assert!(rig.hub.change("unknown".into(), Change::default()).await.is_none());
    assert_eq!(rig.hub.delivered(&[topic("o:1")], false), Some(0));
    assert_eq!(rig.hub.delivered(&[topic("group:blue")], false), Some(1));
}

#[actix_rt::test]
async fn a_frame_can_be_sent_to_one_emitter_without_the_journal() {
    let rig = Rig::new();
    let (mut reader, mut other) = (rig.live(&["a"]).await, rig.live(&["a"]).await);
    assert!(rig.hub.send_to_emitter(reader.id(), "note".into(), "two\nlines".into()).await);
    let got = reader.next().await;
    assert_eq!((got.name.as_str(), got.data.as_str(), got.id), ("note", "two\nlines", None));
    assert_eq!(other.poll().await, None);
    let id = reader.id();
    drop(reader);
    assert!(!rig.hub.send_to_emitter(id.clone(), "note".into(), "x".into()).await);
    assert!(!rig.hub.send_to_emitter("unknown".into(), "note".into(), "x".into()).await);
    // A later emitter with the same key is not taken for the earlier one.
    let mut next = rig.live(&["a"]).await;
    assert!(!rig.hub.send_to_emitter(id, "note".into(), "x".into()).await);
    assert!(rig.hub.send_to_emitter(next.id(), "note".into(), "y".into()).await);
    assert_eq!(next.next().await.data, "y");
}

#[actix_rt::test]
async fn a_frame_for_an_emitter_without_room_is_refused() {
    let rig = Rig::tiny(4);
    let mut reader = rig.live(&[]).await;
    let mut sent = 0;
    while rig.hub.send_to_emitter(reader.id(), "note".into(), sent.to_string()).await {
        sent += 1;
        assert!(sent < 100);
    }
    assert!(sent >= 4);
    let got: Vec<String> = reader.frames().await.into_iter().map(|got| got.data).collect();
    assert_eq!(got, numbers(0..sent));
    assert!(rig.hub.send_to_emitter(reader.id(), "note".into(), "x".repeat(5000)).await);
}

#[actix_rt::test]
async fn delivered_counts_the_present_subscribers_of_a_topic() {
    let rig = Rig::new();
    let delivered = |names: &[&str]| {
        let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
        rig.hub.delivered(&topics, false).unwrap()
    };
    assert_eq!(delivered(&["a"]), 0);
    let exact = rig.live(&["a", "order:7"]).await;
    let prefix = rig.live(&["order:*", "order:7", "order:70*"]).await;
    let all = rig.live(&["*", "a"]).await;
    assert_eq!(
        (delivered(&["a"]), delivered(&["order:7"]), delivered(&["order:700"]), delivered(&["b"])),
        (2, 3, 2, 1)
    );
    // Each emitter counts once, even if it subscribes to several topics of the event.
    assert_eq!((delivered(&["a", "b"]), delivered(&["a", "a", "order:7", "order:700"])), (2, 3));
    assert_eq!(rig.hub.delivered(&[topic("a")], true), None);
    drop(prefix);
    assert_eq!((delivered(&["order:7"]), delivered(&["order:700"])), (2, 1));
    drop((exact, all));
    assert_eq!((delivered(&["a"]), delivered(&["order:7"]), delivered(&["b"])), (0, 0, 0));
    assert_eq!(rig.hub.totals().await.total_topics, 0);
}

#[actix_rt::test]
async fn status_and_totals_show_the_present_emitters() {
    let rig = Rig::tiny(4);
    let one = of_user(&rig, "1", &["red", "red"]).await;
    let other = of_user(&rig, "1", &["red", "blue"]).await;
    let anonymous = rig.greeted(Connect { meta: meta(r#"{"lang":"de"}"#), ..rig.connect(&["a"]) }).await;
    let totals = rig.hub.totals().await;
    assert_eq!((totals.total_emitters, totals.total_users, totals.total_groups, totals.total_topics), (3, 1, 2, 4));
    assert_eq!(json!(totals.emitters_by_user), json!({ "1": 2 }));
    assert_eq!(json!(totals.emitters_by_group), json!({ "blue": 1, "red": 2 }));
    let ids =
        |list: Vec<crate::hub::EmitterStatus>| list.into_iter().map(|status| status.emitter_id).collect::<Vec<_>>();
    let mut all = vec![one.id(), other.id(), anonymous.id()];
    all.sort();
    assert_eq!(ids(rig.hub.emitters(Selector::All).await), all);
    assert_eq!(ids(rig.hub.emitters(Selector::Group("blue".into())).await), [other.id()]);
    assert_eq!(rig.hub.emitters(Selector::User("1".into())).await.len(), 2);
    assert_eq!(rig.hub.emitters(Selector::User("2".into())).await.len(), 0);
    rig.publish("a", "0").await;
    settle().await;
    let status = rig.status(&anonymous).await;
    assert_eq!((status.user_id, status.state, status.queued_events, status.delivered_events), (None, "live", 1, 1));
    assert!(status.queued_bytes > 0);
    assert_eq!(status.meta, meta(r#"{"lang":"de"}"#));
    assert_eq!(rig.status(&one).await.meta, Meta::default());
}

#[actix_rt::test]
async fn the_end_of_a_stream_is_reported_once_with_its_reason() {
    let rig = Rig::new();
    let reasons = Rc::new(RefCell::new(Vec::new()));
    let connect = || {
        let reasons = reasons.clone();
        Connect { on_close: Some(Box::new(move |reason| reasons.borrow_mut().push(reason))), ..rig.connect(&["a"]) }
    };
    drop(rig.open(connect()).await);
    let mut flood = rig.open(connect()).await.into_inner();
    flood.set_end(Reason::InputFlood);
    drop(flood);
    let mut removed = rig.greeted(connect()).await;
    rig.hub.disconnect(Selector::All, Reason::Removed).await;
    // A second disconnect does not change the reason.
    rig.hub.disconnect(Selector::All, Reason::Shutdown).await;
    assert_eq!(removed.rest().await.len(), 1);
    assert_eq!(rig.hub.counters().open(), 1);
    drop(removed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*reasons.borrow(), [Reason::ClientGone, Reason::InputFlood, Reason::Removed]);
    let counters = rig.hub.counters();
    assert_eq!(reasons.borrow().iter().map(|reason| counters.closed(*reason)).sum::<u64>(), 3);
    assert_eq!(counters.open(), 0);
}

/// The callback at the end of a stream may use the hub.
#[actix_rt::test]
async fn the_callback_at_the_end_may_use_the_hub() {
    let rig = Rig::new();
    let other = Rc::new(RefCell::new(Some(rig.live(&["a"]).await)));
    let (hub, companion) = (rig.hub.clone(), other.clone());
    let on_close = move |_| {
        hub.start_local();
        drop(companion.take());
    };
    drop(rig.open(Connect { on_close: Some(Box::new(on_close)), ..rig.connect(&["a"]) }).await);
    assert_eq!((rig.hub.counters().open(), rig.hub.delivered(&[topic("a")], false)), (0, Some(0)));
}

/// An abandoned connection attempt is removed completely.
#[actix_rt::test]
async fn an_abandoned_connection_attempt_is_removed() {
    let rig = Rig::new();
    rig.publish("a", "0").await;
    let held = rig.journal.pages.write().await;
    let connecting = rig.hub.connect(Connect { start: Start::Beginning, ..rig.connect(&["a"]) });
    assert!(tokio::time::timeout(Duration::from_secs(1), connecting).await.is_err());
    drop(held);
    assert_eq!((rig.hub.counters().open(), rig.hub.delivered(&[topic("a")], false)), (0, Some(0)));
}

/// The only test with a second thread: the real clock, and nothing that waits for it.
#[actix_rt::test]
async fn emitters_on_all_threads_are_reached() {
    let rig = Rig::second();
    let here = of_user(&rig, "1", &[]).await;
    let (hub, (ready, there), (done, received)) = (rig.hub.clone(), oneshot::channel(), oneshot::channel());
    let arbiter = actix_rt::Arbiter::new();
    let stream = move || async move {
        let connect = Connect { user: Some("1".into()), topics: patterns(&["a*"]), ..Connect::new(hub.config()) };
        let mut reader = Reader::new(hub.connect(connect).await.unwrap());
        ready.send(reader.id()).unwrap();
        let frames = reader.rest().await;
        drop(reader);
        done.send(frames).unwrap();
    };
    arbiter.spawn_fn(move || drop(spawn_local(stream())));
    let there = there.await.unwrap();
    let mut ids = vec![here.id(), there.clone()];
    ids.sort();
    let of_user = rig.hub.emitters(Selector::User("1".into())).await;
    assert_eq!(of_user.into_iter().map(|status| status.emitter_id).collect::<Vec<_>>(), ids);
    assert_eq!((rig.hub.totals().await.total_emitters, rig.hub.delivered(&[topic("ab")], false)), (2, Some(1)));
    rig.publish("ab", "0").await;
    assert!(rig.hub.send_to_emitter(there.clone(), "note".into(), "1".into()).await);
    let change = Change { topics: Some(patterns(&["c"])), ..Change::default() };
    assert_eq!(rig.hub.change(there.clone(), change).await.unwrap().topics, patterns(&["c"]));
    assert_eq!(rig.hub.delivered(&[topic("c")], false), Some(1));
    assert_eq!(rig.hub.disconnect(Selector::Id(there), Reason::Removed).await, 1);
    let mut names: Vec<String> = received.await.unwrap().into_iter().map(|got| got.name).collect();
    names.retain(|name| name != "message");
    assert_eq!(names, ["connection", "note", "disconnect"]);
    assert_eq!(rig.hub.counters().open(), 1);
    arbiter.stop();
    arbiter.join().unwrap();
    // A thread that has ended has no emitters, and the hub does not wait for it.
    assert_eq!(rig.hub.emitters(Selector::All).await.len(), 1);
}
