//! The end of a hub.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use super::support::{Reader, Rig, settle};
use crate::hub::{Connect, ConnectError, Reason, Selector, Start};

const DRAIN: Duration = Duration::from_secs(4);

#[actix_rt::test]
async fn a_stop_spreads_the_ends_and_the_reconnects_of_the_clients() {
    let rig = Rig::new();
    let ends = Rc::new(RefCell::new(Vec::new()));
    let begin = Instant::now();
    for _ in 0..30 {
        let (mut reader, ends) = (rig.live(&["a"]).await, ends.clone());
        spawn_local(async move {
            let frames = reader.rest().await;
            assert_eq!(
                (frames.len(), frames[0].name.as_str(), frames[0].reason().as_str()),
                (1, "disconnect", "shutdown")
            );
            ends.borrow_mut().push((begin.elapsed(), frames[0].retry.unwrap()));
        });
    }
    rig.hub.stop(DRAIN).await;
    assert!(begin.elapsed() <= DRAIN + Duration::from_millis(100), "all have ended: {:?}", begin.elapsed());
    let ends = ends.take();
    assert_eq!(ends.len(), 30);
    let (moments, retries): (BTreeSet<_>, BTreeSet<_>) = ends.into_iter().unzip();
    assert!(moments.len() > 20, "{moments:?}");
    let spread = moments.last().unwrap().abs_diff(*moments.first().unwrap());
    assert!(spread > DRAIN / 4, "{moments:?}");
    assert!(retries.len() > 20 && retries.iter().all(|retry| (1500..=4500).contains(retry)), "{retries:?}");
    assert_eq!((rig.hub.counters().closed(Reason::Shutdown), rig.hub.counters().open()), (30, 0));
}

#[actix_rt::test]
async fn a_hub_that_stops_takes_no_connections() {
    let rig = Rig::new();
    let mut reader = rig.live(&["a"]).await;
    let hub = rig.hub.clone();
    let stopping = spawn_local(async move { hub.stop(DRAIN).await });
    settle().await;
    assert!(matches!(rig.hub.connect(rig.connect(&["a"])).await, Err(ConnectError::Stopping)));
    // Open streams continue until their turn to end.
    rig.publish("a", "0").await;
    assert_eq!(reader.next().await.data, "0");
    assert_eq!(reader.rest().await[0].reason(), "shutdown");
    drop(reader);
    stopping.await.unwrap();
    assert!(matches!(rig.hub.connect(rig.connect(&["a"])).await, Err(ConnectError::Stopping)));
}

/// The first reason counts, and is the only one that the client gets.
#[actix_rt::test]
async fn a_stream_that_is_about_to_end_gets_one_reason() {
    let rig = Rig::new();
    let mut reader = rig.live(&["a"]).await;
    rig.hub.disconnect(Selector::All, Reason::Removed).await;
    let hub = rig.hub.clone();
    let stopping = spawn_local(async move { hub.stop(Duration::ZERO).await });
    settle().await;
    let frames = reader.rest().await;
    assert_eq!((frames.len(), frames[0].reason().as_str()), (1, "removed"));
    drop(reader);
    stopping.await.unwrap();
    assert_eq!(rig.hub.counters().closed(Reason::Removed), 1);
}

/// The stop does not reach a connection attempt that waits for the journal.
#[actix_rt::test]
async fn a_connection_attempt_is_refused_too() {
    let rig = Rig::new();
    rig.publish("a", "0").await;
    let held = rig.journal.pages.write().await;
    let (hub, connect) = (rig.hub.clone(), Connect { start: Start::Beginning, ..rig.connect(&["a"]) });
    let connecting = spawn_local(async move { hub.connect(connect).await.map(Reader::new).map(|_| ()) });
    settle().await;
    rig.hub.stop(Duration::ZERO).await;
    drop(held);
    assert!(matches!(connecting.await.unwrap(), Err(ConnectError::Stopping)));
    assert_eq!(rig.hub.counters().open(), 0);
}

#[actix_rt::test]
async fn a_stop_does_not_wait_for_a_client_that_never_reads() {
    let rig = Rig::new();
    let slot = Rc::new(RefCell::new(None));
    let body = slot.clone();
    let cut = move || drop(body.take());
    slot.replace(Some(rig.greeted(Connect { cut: Some(Box::new(cut)), ..rig.connect(&["a"]) }).await));
    timeout(Duration::from_secs(10), rig.hub.stop(Duration::from_secs(1))).await.unwrap();
    assert_eq!((rig.hub.counters().closed(Reason::Shutdown), rig.hub.counters().open()), (1, 0));
    // A stream that cannot even be cut does not delay the node either.
    let rig = Rig::second();
    let _stuck = rig.live(&["a"]).await;
    timeout(Duration::from_secs(10), rig.hub.stop(Duration::from_secs(1))).await.unwrap();
    assert_eq!(rig.hub.counters().open(), 1);
}

#[actix_rt::test]
async fn an_empty_hub_stops_at_once_and_twice() {
    let rig = Rig::new();
    let begin = Instant::now();
    rig.hub.stop(DRAIN).await;
    rig.hub.start_local();
    rig.hub.stop(DRAIN).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// Nodes may start and end in one process: a dropped hub leaves nothing on the thread.
#[actix_rt::test]
async fn a_hub_that_is_dropped_ends_with_its_last_stream() {
    let rig = Rig::new();
    let Rig { hub, journal } = rig;
    let rig = Rig { hub: hub.clone(), journal: journal.clone() };
    let mut reader = rig.live(&["a"]).await;
    drop((hub, rig));
    sleep(Duration::from_secs(5)).await;
    let append = crate::journal::Batch::events(vec![super::support::draft(&["a"], "0")]);
    crate::journal::Journal::append(&*journal, append).await.unwrap();
    assert_eq!(reader.events().await, ["0"]);
    assert!(Arc::strong_count(&journal) > 1);
    drop(reader);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(Arc::strong_count(&journal), 1);
}
