//! Failures in a shard: a failed part of the shard ends the node, a failed read of one emitter ends that stream.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::json;
use tokio::time::sleep;

use super::support::{Rig, settle};
use crate::hub::Selector;

/// The test holds the state's `RefCell` borrow, so that the next borrow panics.
#[actix_rt::test]
#[expect(clippy::await_holding_refcell_ref, reason = "that is the fault")]
async fn a_shard_that_no_longer_delivers_ends_the_node() {
    let rig = Rig::new();
    let shard = rig.hub.local();
    assert_eq!(rig.hub.inner.supervisor.trouble(), None);
    let held = shard.state.borrow_mut();
    sleep(Duration::from_secs(1)).await;
    drop(held);
    assert_eq!(rig.hub.inner.supervisor.failed(), Some("delivery of events"));
}

#[actix_rt::test]
#[expect(clippy::await_holding_refcell_ref, reason = "that is the fault")]
async fn a_shard_that_no_longer_responds_ends_the_node() {
    let rig = Rig::new();
    let shard = rig.hub.local();
    let held = shard.state.borrow_mut();
    assert!(rig.hub.emitters(Selector::All).await.is_empty(), "the actor is gone");
    drop(held);
    assert_eq!(rig.hub.inner.supervisor.failed(), Some("shard of emitters"));
}

#[actix_rt::test]
async fn an_emitter_whose_read_panics_is_ended_and_no_other() {
    let rig = Rig::tiny(4);
    let mut ill = rig.live(&["a"]).await;
    rig.journal.panics.store(true, SeqCst);
    // More than the outbox holds, so the emitter continues from the journal.
    rig.burst("a", 0..20).await;
    settle().await;
    let frames = ill.rest().await;
    let last = frames.last().expect("a last frame with the reason");
    assert_eq!((last.name.as_str(), last.json()), ("disconnect", json!({ "reason": "journal_unavailable" })));
    rig.journal.panics.store(false, SeqCst);
    let mut well = rig.live(&["a"]).await;
    rig.publish("a", "20").await;
    assert_eq!(well.events().await, ["20"]);
    assert_eq!(rig.hub.inner.supervisor.trouble(), None);
}
