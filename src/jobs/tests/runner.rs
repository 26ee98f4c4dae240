//! Attempts on their own thread: a blocked thread delays no other part of the node.

use std::{
    future::pending,
    sync::{Arc, Mutex, mpsc::sync_channel},
    time::Duration,
};

use serde_json::json;
use tokio::{sync::oneshot, time::timeout};

use super::rig::{Setup, good};
use crate::jobs::Status;

/// These tests do not control the clock.
const PATIENCE: Duration = Duration::from_secs(20);

#[actix_rt::test]
async fn a_handler_that_blocks_its_thread_does_not_delay_the_engine() {
    let (free, blocked) = sync_channel::<()>(1);
    let blocked = Mutex::new(blocked);
    let block = move |_| {
        let freed = blocked.lock().unwrap().recv();
        async move { good(json!(freed.is_ok())) }
    };
    let rig = Setup::default().with("block", block).start_on_threads();
    let id = rig.submit(json!({"tasks": [{"id": "a", "run": "block"}]})).await;
    rig.until(&id, |events| events.iter().any(|event| event.name() == "task_start")).await;
    let summary = timeout(PATIENCE, rig.jobs.summary(&id)).await.expect("the engine is free");
    assert_eq!(summary.unwrap().status, Status::Running);
    free.send(()).unwrap();
    assert_eq!(rig.ended(&id).await.one("task_complete", "a")["result"], true);
}

#[actix_rt::test]
async fn attempts_end_with_the_jobs() {
    let (alive, gone) = oneshot::channel::<()>();
    let alive = Arc::new(Mutex::new(Some(alive)));
    let stubborn = move |_| {
        let alive = alive.lock().unwrap().take();
        async move {
            let _alive = alive;
            pending().await
        }
    };
    let rig = Setup::default().with("stubborn", stubborn).start_on_threads();
    let id = rig.submit(json!({"tasks": [{"id": "a", "run": "stubborn"}]})).await;
    rig.until(&id, |events| events.iter().any(|event| event.name() == "task_start")).await;
    rig.crash().await;
    // Its future is dropped, with everything that it held.
    timeout(PATIENCE, gone).await.expect("the attempt ends").unwrap_err();
}
