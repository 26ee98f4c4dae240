//! A node ends in the middle of something, and the next one finishes it.

use super::rig::{Fate, Faulty, ended, eventually, relay, relays, upstream};
use crate::relay::{LAST_EVENT, Status};

#[actix_rt::test]
async fn a_relay_whose_end_was_not_written_ends_at_the_next_start() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let before = relays(&journal, Some(up));
    journal.judge(|batch| {
        if batch.events.iter().any(|event| event.event == LAST_EVENT) { Fate::Refused } else { Fate::Written }
    });
    let id = relay(&before, &["/3"]).await;
    eventually(async || (journal.states(&id, "relay_complete").await.len() == 1).then_some(())).await;
    before.stop().await;
    journal.judge(|_| Fate::Written);
    let after = relays(&journal, Some(up));
    assert_eq!(ended(&after, &id).await, Status::Completed);
    eventually(async || (journal.states(&id, LAST_EVENT).await.len() == 1).then_some(())).await;
    after.stop().await;
    // And has ended from then on.
    let last = relays(&journal, Some(up));
    assert_eq!(last.summary(&id).await.unwrap().status, Status::Completed);
    assert_eq!(journal.states(&id, LAST_EVENT).await.len(), 1);
}

#[actix_rt::test]
async fn a_newcomer_whose_history_was_copied_in_part_gets_the_rest_at_the_next_start() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let before = relays(&journal, Some(up));
    let elder = relay(&before, &["/700/on"]).await;
    eventually(async || (journal.origins(&elder).await.len() == 700).then_some(())).await;
    let mut pages = 0;
    journal.judge(move |batch| {
        let copied = batch.events.len() > 100;
        pages += usize::from(copied);
        if copied && pages > 1 { Fate::Refused } else { Fate::Written }
    });
    let late = relay(&before, &["/700/on"]).await;
    // A page less the state in it.
    eventually(async || (journal.origins(&late).await.len() == 255).then_some(())).await;
    before.stop().await;
    assert_eq!(journal.origins(&late).await.len(), 255);
    journal.judge(|_| Fate::Written);
    let after = relays(&journal, Some(up));
    eventually(async || (journal.origins(&late).await.len() == 700).then_some(())).await;
    assert_eq!(journal.origins(&late).await, (1..=700).collect::<Vec<_>>());
    assert_eq!(journal.origins(&elder).await, (1..=700).collect::<Vec<_>>());
    after.stop().await;
}

#[actix_rt::test]
async fn a_source_whose_remote_is_gone_fails_with_a_reason() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let before = relays(&journal, Some(up));
    let id = relay(&before, &["/3/on"]).await;
    eventually(async || (journal.origins(&id).await.len() == 3).then_some(())).await;
    before.stop().await;
    let after = relays(&journal, None);
    assert_eq!(ended(&after, &id).await, Status::Failed);
    let error = &journal.states(&id, "relay_error").await[0];
    assert_eq!(error["code"], "unknown_remote");
    assert!(error["error"].as_str().unwrap().contains("`up`"), "{error}");
}

#[actix_rt::test]
async fn a_record_of_a_later_version_is_left_alone() {
    let (journal, up) = (Faulty::new(), upstream().await);
    let record = crate::journal::RecordWrite {
        key: "relay/later/spec".into(),
        value: Some(r#"{"version":2,"createdAt":1,"spec":{"sources":[]}}"#.into()),
    };
    let batch = crate::journal::Batch { records: vec![record], ..Default::default() };
    crate::journal::Journal::append(&*journal, batch).await.unwrap();
    let relays = relays(&journal, Some(up));
    assert!(relays.get("later").await.is_err());
    assert_eq!(relays.stats().records_unreadable, 1);
    let stored = crate::journal::Journal::get(&*journal, "relay/later/spec".into()).await.unwrap();
    assert!(stored.is_some());
}
