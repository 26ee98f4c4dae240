//! An engine that panics ends the node; the journal has all data for the next start.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::timeout;

use super::rig::{Setup, submission};
use crate::{
    jobs::{Error, Filter, Submission},
    supervise::Supervisor,
};

/// Panics when the engine drops it.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "the test requested this panic");
    }
}

#[actix_rt::test]
async fn an_engine_that_panics_ends_the_node() {
    let supervisor = Supervisor::default();
    let rig = Setup { supervisor: supervisor.clone(), ..Setup::usual() }.start_on_threads();
    let job = submission(json!({"tasks": [{"run": "echo"}]}));
    rig.jobs.submit(Submission { quota_guard: Some(Arc::new(Bomb)), ..job }).await.unwrap();
    let failed = timeout(Duration::from_secs(60), supervisor.failure()).await.expect("it is noticed");
    assert_eq!(failed, "jobs");
    assert!(matches!(rig.jobs.list(Filter::default()).await, Err(Error::Stopping)));
}

/// It is not a failure when an engine ends because its last handle was dropped.
#[actix_rt::test]
async fn an_engine_that_ends_in_order_ends_no_node() {
    let supervisor = Supervisor::default();
    let rig = Setup { supervisor: supervisor.clone(), ..Setup::usual() }.start_on_threads();
    rig.run(json!({"tasks": [{"run": "echo"}]})).await;
    rig.crash().await;
    assert_eq!(supervisor.trouble(), None);
}
