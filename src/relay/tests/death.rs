//! Parts of the relays that panic: the node ends, or the part begins again. A runner that panics is in `faults`.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use serde_json::json;
use tokio::time::timeout;

use super::rig::{Fate, Faulty, ended, eventually, relay, relays, supervised, upstream};
use crate::{
    journal::{Journal, RecordWrite, Unavailable},
    relay::{Error, Filter, LAST_EVENT, Status, state::State},
    supervise::Supervisor,
};

async fn failure(supervisor: &Supervisor) -> &'static str {
    timeout(Duration::from_secs(60), supervisor.failure()).await.expect("it is noticed")
}

#[actix_rt::test]
async fn a_task_of_relays_that_panics_ends_the_node() {
    let (journal, supervisor) = (Faulty::new(), Supervisor::default());
    let relays = supervised(&journal, None, supervisor.clone());
    assert!(relays.list(Filter::default()).await.unwrap().relays.is_empty());
    // The task is the last one that has the journal.
    journal.drop_panics.store(true, SeqCst);
    drop((journal, relays));
    assert_eq!(failure(&supervisor).await, "relays");
}

#[actix_rt::test]
async fn a_recovery_that_panics_ends_the_node() {
    let (journal, supervisor) = (Faulty::new(), Supervisor::default());
    journal.keys_panic.store(true, SeqCst);
    let relays = supervised(&journal, None, supervisor.clone());
    assert_eq!(failure(&supervisor).await, "recovery of relays");
    assert!(matches!(relays.list(Filter::default()).await, Err(Error::Stopping)));
}

#[actix_rt::test]
async fn a_relay_whose_end_panics_ends_after_all() {
    let (journal, supervisor) = (Faulty::new(), Supervisor::default());
    let relays = supervised(&journal, Some(upstream().await), supervisor.clone());
    let mut left = 2;
    journal.judge(move |batch| match batch.events.iter().any(|event| event.event == LAST_EVENT) && left > 0 {
        true => {
            left -= 1;
            Fate::Panic
        }
        false => Fate::Written,
    });
    let id = relay(&relays, &["/5"]).await;
    eventually(async || (!journal.states(&id, LAST_EVENT).await.is_empty()).then_some(())).await;
    assert_eq!(ended(&relays, &id).await, Status::Completed);
    assert_eq!((journal.states(&id, LAST_EVENT).await.len(), supervisor.trouble()), (1, None));
}

#[actix_rt::test]
async fn a_source_whose_failure_panics_fails_after_all() {
    let (journal, supervisor) = (Faulty::new(), Supervisor::default());
    let relays = supervised(&journal, Some(upstream().await), supervisor.clone());
    let own = std::sync::Arc::downgrade(&journal);
    journal.judge(move |batch| match batch.events.iter().any(|event| event.event == "panic") {
        true => {
            // The runner ends; what writes its end reads the record first.
            own.upgrade().expect("the test has it").reads_panic.store(2, SeqCst);
            Fate::Panic
        }
        false => Fate::Written,
    });
    let id = relay(&relays, &["/panic"]).await;
    assert_eq!(ended(&relays, &id).await, Status::Failed);
    let errors = journal.states(&id, "relay_error").await;
    assert_eq!((errors.len(), &errors[0]["code"]), (1, &json!("internal")));
    assert_eq!((supervisor.restarts(), supervisor.failed()), (2, None));
}

#[actix_rt::test]
async fn a_request_that_panics_is_an_error_and_changes_nothing() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    let id = relay(&relays, &["/5/on"]).await;
    eventually(async || (journal.origins(&id).await.len() == 5).then_some(())).await;
    // A new relay, and one that leaves; a cursor is written all the same.
    journal.judge(|batch| {
        let request = |record: &RecordWrite| record.value.is_none() || record.key.ends_with("/spec");
        if batch.records.iter().any(request) { Fate::Panic } else { Fate::Written }
    });
    let spec = serde_json::from_value(json!({ "sources": [{ "path": "/5" }] })).unwrap();
    let refused = relays.create(spec, None).await.unwrap_err();
    assert!(matches!(&refused, Error::Journal(Unavailable::Failed(why)) if why.contains("a fault")), "{refused:?}");
    let refused = relays.delete(&id).await.unwrap_err();
    assert!(matches!(&refused, Error::Journal(Unavailable::Failed(_))), "{refused:?}");
    assert_eq!(relays.summary(&id).await.unwrap().status, Status::Running);
    journal.judge(|_| Fate::Written);
    eventually(async || (relays.get(&id).await.ok()?.sources[0].state == State::Open).then_some(())).await;
    assert_eq!(journal.origins(&id).await, [1, 2, 3, 4, 5]);
    relays.delete(&id).await.unwrap();
    assert!(journal.keys("relay/".into(), None, 9).await.unwrap().is_empty());
}
