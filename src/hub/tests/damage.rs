//! Stored events that cannot be read: the reader gets a gap for them, and all other events.

use std::sync::atomic::Ordering::SeqCst;

use super::support::{Reader, Rig, events, numbers};
use crate::hub::Start;

/// The events before and after a gap with the reason `damaged`.
async fn around_the_gap(reader: &mut Reader) -> (Vec<String>, Vec<String>) {
    let frames = reader.frames().await;
    let at = frames.iter().position(|frame| frame.name == "gap").expect("a gap");
    assert_eq!(frames[at].reason(), "damaged");
    (events(&frames[..at]), events(&frames[at + 1..]))
}

#[actix_rt::test]
async fn a_reader_of_history_continues_after_an_event_that_cannot_be_read() {
    let rig = Rig::tiny(2);
    let positions = rig.burst("a", 0..6).await;
    rig.journal.damaged.store(positions[0].offset, SeqCst);
    let mut reader = rig.from(&["a"], Start::Beginning).await;
    assert_eq!(reader.next().await.name, "connection");
    assert_eq!(around_the_gap(&mut reader).await, (numbers(0..0), numbers(1..6)));
    rig.publish("a", "live").await;
    assert_eq!(reader.events().await, ["live"]);
}

#[actix_rt::test]
async fn a_live_reader_continues_after_an_event_that_cannot_be_read() {
    let rig = Rig::new();
    let (mut reader, mut other) = (rig.live(&["a"]).await, rig.live(&["b"]).await);
    let first = rig.publish("a", "0").await;
    assert_eq!(reader.events().await, ["0"]);
    rig.journal.damaged.store(first.offset + 2, SeqCst);
    rig.burst("a", 1..5).await;
    rig.publish("b", "x").await;
    assert_eq!(around_the_gap(&mut reader).await, (numbers(1..2), numbers(3..5)));
    assert_eq!(other.events().await, ["x"], "readers of other topics miss nothing");
    rig.publish("a", "5").await;
    assert_eq!(reader.events().await, ["5"]);
}
