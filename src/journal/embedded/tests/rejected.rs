//! Rejected writes leave nothing behind, and deletions are accepted on a full disk.

use super::*;
use crate::journal::RecordWrite;

/// A write may fail after all of it has reached the log. Its publisher sends it again.
#[tokio::test]
async fn a_rejected_commit_is_cut_off() {
    let mut again = Reopened::new(Config::default());
    for n in 0..4 {
        again.put(&["t"], &n.to_string()).await;
    }
    again.drop();
    let store = again.dir.join("journal/store");
    // Three of four commits were acknowledged.
    check::cut(&store, 3).unwrap();
    let opened = Store::open(&store).unwrap();
    assert_eq!(restore::state(&opened).unwrap().unwrap().commit, 3);
    assert_eq!(opened.scan(b'e', &[]).count(), 3);
    drop(opened);
    check::cut(&store, 3).unwrap();
    assert_eq!(
        restore::state(&Store::open(&store).unwrap()).unwrap().unwrap().commit,
        3,
        "the second cut changes nothing"
    );
}

#[tokio::test]
async fn deletions_are_accepted_on_a_full_disk() {
    let mut again = Reopened::new(Config::default());
    let record = |value: Option<&'static str>| Batch {
        records: vec![RecordWrite { key: "r".into(), value: value.map(Bytes::from) }],
        ..Batch::default()
    };
    Journal::append(&*again, record(Some("v"))).await.unwrap();
    again.put(&["t"], "x").await;
    again.config.min_free_bytes = u64::MAX;
    again.reopen(true).await;
    for batch in [Batch::events(vec![draft(&["t"], "y")]), record(Some("w"))] {
        let refused = Journal::append(&*again, batch).await;
        assert!(matches!(refused, Err(AppendError::Unavailable(Unavailable::Full(_)))), "{refused:?}");
        assert!(again.stats().refusing);
    }
    Journal::append(&*again, record(None)).await.unwrap();
    assert_eq!((again.purge(topic("t")).await.unwrap(), again.stats().records), (1, 0));
    again.sweep(now_ms()).await.unwrap();
    assert!(again.stats().refusing, "as long as it is full");
}

/// A clone would keep the store open.
#[tokio::test]
async fn a_store_with_a_clone_is_not_alone() {
    let again = Reopened::new(Config::default());
    let clone = again.shared.with_store(|store| Ok(store.clone())).unwrap();
    let alone = || again.shared.with_store(|store| Ok(store.alone())).unwrap();
    assert!(!alone());
    drop(clone);
    assert!(alone());
}
