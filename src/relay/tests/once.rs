//! No request, event or record is sent or stored twice.

use serde_json::{Value, json};

use super::rig::{Fate, Faulty, ended, eventually, relay, relays, upstream};
use crate::{
    journal::{Journal, Query},
    relay::{Handle, Status},
    topic::Topic,
};

async fn with(relays: &Handle, spec: Value) -> String {
    relays.create(serde_json::from_value(spec).unwrap(), None).await.unwrap().id
}

#[actix_rt::test]
async fn a_post_is_not_sent_again_at_the_next_start() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let before = relays(&journal, Some(up));
    let id = with(&before, json!({ "sources": [{ "path": "/5/on", "method": "POST" }] })).await;
    eventually(async || (journal.origins(&id).await.len() == 5).then_some(())).await;
    before.stop().await;
    let after = relays(&journal, Some(up));
    assert_eq!(ended(&after, &id).await, Status::Failed);
    assert_eq!(journal.states(&id, "relay_open").await.len(), 1, "it was sent once");
    assert!(journal.states(&id, "relay_error").await[0]["error"].as_str().is_some_and(|why| why.contains("POST")));
}

#[actix_rt::test]
async fn a_late_joiner_with_the_same_target_doubles_nothing_there() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let relays = relays(&journal, Some(up));
    let spec = json!({ "topic": "orders", "sources": [{ "path": "/5/on" }] });
    for _ in 0..2 {
        let id = with(&relays, spec.clone()).await;
        eventually(async || (journal.origins(&id).await.len() == 5).then_some(())).await;
    }
    let patterns = [Topic::new("orders").unwrap().into()].into();
    let query = Query { patterns, after: 0, floor: 0, limit: 1000, max_bytes: usize::MAX };
    let events = journal.read(query).await.unwrap().events;
    let ids: Vec<_> = events.iter().filter_map(|event| event.origin.as_deref()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
}

#[actix_rt::test]
async fn the_last_event_and_the_end_are_one_commit() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let relays = relays(&journal, Some(up));
    journal.judge(|batch| {
        let has = |name: &str| batch.events.iter().any(|event| event.event == name);
        let split = has("relay_complete") && !batch.events.iter().any(|event| event.origin.is_some());
        if split { Fate::Panic } else { Fate::Written }
    });
    let id = with(&relays, json!({ "endEvent": "message", "sources": [{ "path": "/1" }] })).await;
    assert_eq!(ended(&relays, &id).await, Status::Completed);
    assert_eq!(journal.origins(&id).await, [1]);
}

#[actix_rt::test]
async fn a_fault_in_the_middle_of_a_copy_doubles_nothing() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let relays = relays(&journal, Some(up));
    let elder = relay(&relays, &["/700/on"]).await;
    eventually(async || (journal.origins(&elder).await.len() == 700).then_some(())).await;
    let mut pages = 0;
    journal.judge(move |batch| {
        let copied = batch.events.len() > 100;
        pages += usize::from(copied);
        if copied && pages == 2 { Fate::Panic } else { Fate::Written }
    });
    let late = relay(&relays, &["/700/on"]).await;
    eventually(async || (journal.origins(&late).await.len() >= 700).then_some(())).await;
    assert_eq!(journal.origins(&late).await, (1..=700).collect::<Vec<u64>>());
}

#[actix_rt::test]
async fn what_specs_take_is_bounded() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let relays = relays(&journal, Some(up));
    let large = "x".repeat(4 << 20);
    for _ in 0..24 {
        let spec = json!({ "sources": [{ "path": "/1", "headers": { "X-A": large } }] });
        let Ok(created) = relays.create(serde_json::from_value(spec).unwrap(), None).await else { break };
        ended(&relays, &created.id).await;
    }
    let bytes = journal.stats().record_bytes;
    assert!(bytes < 80 << 20, "{bytes} bytes");
}
