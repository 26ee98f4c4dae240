//! The journal fails: the upstream is held, nothing is lost, and nothing is written twice.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use super::rig::{Fate, Faulty, ended, eventually, relay, relays, upstream};
use crate::relay::{LAST_EVENT, Status, state::State};

/// With every third append failing so, all arrives once.
async fn is_survived(fate: impl Fn() -> Fate + Send + 'static) {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    let count = AtomicUsize::new(0);
    journal.judge(move |batch| {
        let fails = !batch.events.is_empty() && count.fetch_add(1, SeqCst).is_multiple_of(3);
        if fails { fate() } else { Fate::Written }
    });
    let (first, second) = (relay(&relays, &["/9"]).await, relay(&relays, &["/9"]).await);
    for id in [&first, &second] {
        assert_eq!(ended(&relays, id).await, Status::Completed);
        eventually(async || (journal.states(id, LAST_EVENT).await.len() == 1).then_some(())).await;
        assert_eq!(journal.origins(id).await, (1..=9).collect::<Vec<_>>());
        for state in ["relay_open", "relay_complete", LAST_EVENT] {
            assert_eq!(journal.states(id, state).await.len(), 1, "{state}");
        }
    }
}

#[actix_rt::test]
async fn a_journal_that_is_full_for_a_while_loses_nothing() {
    is_survived(|| Fate::Refused).await;
}

#[actix_rt::test]
async fn a_lost_answer_doubles_nothing() {
    is_survived(|| Fate::AnswerLost).await;
}

#[actix_rt::test]
async fn an_append_that_lands_late_doubles_nothing() {
    is_survived(|| Fate::Late).await;
}

#[actix_rt::test]
async fn while_the_journal_takes_nothing_the_upstream_is_held_and_that_is_shown() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    // The first batch of upstream events is written, and no later one. 5,000 events need more than one batch, however
    // fast they arrive.
    let batches = AtomicUsize::new(0);
    journal.judge(move |batch| {
        let relayed = batch.events.iter().any(|event| event.origin.is_some());
        if relayed && batches.fetch_add(1, SeqCst) > 0 { Fate::Refused } else { Fate::Written }
    });
    let id = relay(&relays, &["/5000/on"]).await;
    let error = eventually(async || relays.get(&id).await.unwrap().sources[0].last_error.clone()).await;
    assert!(error.contains("full"), "{error}");
    let before = journal.origins(&id).await.len();
    journal.judge(|_| Fate::Written);
    eventually(async || (journal.origins(&id).await.len() == 5000).then_some(())).await;
    assert!((1..5000).contains(&before), "{before}");
    assert_eq!(journal.origins(&id).await, (1..=5000).collect::<Vec<_>>());
}

/// A full report stops the reading. It continues when the report is on its way, not when it is written: otherwise every
/// other commit has only the first events that follow.
#[actix_rt::test]
async fn while_a_report_is_written_the_next_one_is_filled() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    let commits = Arc::new(AtomicUsize::new(0));
    let (counted, mut refused) = (commits.clone(), false);
    // Each batch of upstream events is refused once, and repeated after a pause in which the next one can be read.
    journal.judge(move |batch| {
        if batch.events.iter().all(|event| event.origin.is_none()) {
            return Fate::Written;
        }
        refused = !refused;
        if refused {
            return Fate::Refused;
        }
        counted.fetch_add(1, SeqCst);
        Fate::Written
    });
    let id = relay(&relays, &["/2400/on/500"]).await;
    eventually(async || (journal.origins(&id).await.len() == 2400).then_some(())).await;
    // The first commit has the events that had arrived. About 345 events fill a report.
    let commits = commits.load(SeqCst);
    assert!(commits <= 9, "{commits} commits");
}

#[actix_rt::test]
async fn a_full_journal_lets_relays_be_deleted() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    let id = relay(&relays, &["/5/on"]).await;
    eventually(async || (journal.origins(&id).await.len() == 5).then_some(())).await;
    journal.judge(|batch| if batch.events.is_empty() { Fate::Written } else { Fate::Refused });
    relays.delete(&id).await.unwrap();
    assert!(relays.get(&id).await.is_err());
    assert!(crate::journal::Journal::keys(&*journal, "relay/".into(), None, 9).await.unwrap().is_empty());
}

#[actix_rt::test]
async fn what_cannot_be_deleted_goes_on() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    let id = relay(&relays, &["/5/on"]).await;
    eventually(async || (journal.origins(&id).await.len() == 5).then_some(())).await;
    journal.judge(|_| Fate::Refused);
    relays.delete(&id).await.unwrap_err();
    journal.judge(|_| Fate::Written);
    eventually(async || (relays.get(&id).await.unwrap().sources[0].state == State::Open).then_some(())).await;
    assert_eq!(journal.origins(&id).await, [1, 2, 3, 4, 5]);
    relays.delete(&id).await.unwrap();
    assert_eq!(journal.states(&id, LAST_EVENT).await.len(), 1);
}

#[actix_rt::test]
async fn a_fault_of_this_program_ends_only_the_relays_of_that_upstream() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    journal.judge(
        |batch| if batch.events.iter().any(|event| event.event == "panic") { Fate::Panic } else { Fate::Written },
    );
    let good = relay(&relays, &["/5/on"]).await;
    let bad = relay(&relays, &["/panic", "/5"]).await;
    assert_eq!(ended(&relays, &bad).await, Status::Partial);
    let error = &journal.states(&bad, "relay_error").await[0];
    assert_eq!((error["code"].as_str(), error["source"].as_str()), (Some("internal"), Some("up")));
    assert_eq!(journal.origins(&bad).await, [1, 2, 3, 4, 5]);
    eventually(async || (journal.origins(&good).await.len() == 5).then_some(())).await;
    assert_eq!(relays.summary(&good).await.unwrap().status, Status::Running);
    assert_eq!(relays.stats().sources_failed, 1);
}

#[actix_rt::test]
async fn after_a_stop_nothing_is_appended_and_nothing_is_reported() {
    let journal = Faulty::new();
    let relays = relays(&journal, Some(upstream().await));
    let id = relay(&relays, &["/5000/on"]).await;
    eventually(async || (journal.origins(&id).await.len() > 10).then_some(())).await;
    relays.stop().await;
    let reports = Arc::new(AtomicUsize::new(0));
    let counter = reports.clone();
    journal.judge(move |_| {
        counter.fetch_add(1, SeqCst);
        Fate::Written
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(reports.load(SeqCst), 0);
    assert!(journal.states(&id, LAST_EVENT).await.is_empty());
    assert!(matches!(relays.get(&id).await, Err(crate::relay::Error::Stopping)));
}
