//! Deleted data are deleted from the disk.

use super::*;

#[tokio::test]
async fn rows_of_deleted_events_are_deleted() {
    let mut again = Reopened::new(Config { retention_events: 10, ..Config::default() });
    for part in 0..100 {
        again.append((0..100).map(|n| draft(&["t"], &format!("{part}-{n}"))).collect()).await;
    }
    again.sweep(now_ms()).await.unwrap();
    assert_eq!(again.stats().events, 10);
    let (events, spans) = (again.count_rows(b'e'), again.count_rows(b'i'));
    assert!(events <= 10 && spans <= 4, "{events} events and {spans} index rows on the disk");
    again.reopen(false).await;
    again.sweep(now_ms()).await.unwrap();
    assert_eq!((again.stats().events, again.count_rows(b'e')), (10, 10));
    assert!(again.count_rows(b'i') <= 4);
}

#[tokio::test]
async fn index_rows_of_single_events_are_joined() {
    let again = Reopened::new(Config::default());
    let spans = 3;
    for n in 0..spans * rows::SPAN {
        again.put(&["t"], &n.to_string()).await;
    }
    again.put(&["t"], "last").await;
    again.sweep(now_ms()).await.unwrap();
    let rows = again.count_rows(b'i');
    assert!(rows <= 8, "{rows} index rows for {spans} spans");
    assert_eq!(again.data().await.len() as u64, spans * rows::SPAN + 1);
}

#[tokio::test]
async fn rows_of_deleted_topics_and_records_are_deleted() {
    let again = Reopened::new(Config { max_topics: 3, ..Config::default() });
    for n in 0..20 {
        let record = |value| RecordWrite { key: format!("r/{n}"), value };
        let put = record(Some(Bytes::from_static(b"v")));
        let batch = Batch { events: vec![draft(&[&format!("t:{n}")], "x")], records: vec![put], expect: vec![] };
        Journal::append(&*again, batch).await.unwrap();
        let batch = Batch { records: vec![record(None)], ..Batch::default() };
        Journal::append(&*again, batch).await.unwrap();
    }
    again.sweep(now_ms()).await.unwrap();
    let rows = [b't', b'e', b'k', b'r'].map(|kind| again.count_rows(kind));
    assert_eq!(rows, [3, 3, 0, 0]);
}
