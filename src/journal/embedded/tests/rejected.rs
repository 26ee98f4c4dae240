//! Deletions are accepted on a full disk.

use super::*;
use crate::journal::RecordWrite;

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
