//! The disk space of deleted data is freed.

use super::*;

const MIB: usize = 1 << 20;

/// Settings with segments of 4 MiB.
fn small() -> Config {
    Config { max_bytes: 64 << 20, retention_bytes: 0, ..Config::default() }
}

#[tokio::test]
async fn a_segment_without_live_data_is_removed() {
    let mut again = Reopened::new(Config { retention_events: 10, ..small() });
    for part in 0..40 {
        again.append((0..10).map(|n| draft(&["t"], &format!("{part}-{n}-{}", "x".repeat(100_000)))).collect()).await;
    }
    again.sweep(now_ms()).await.unwrap();
    again.cleaned().await;
    assert_eq!(again.stats().events, 10);
    assert!(again.segments() <= 2, "{} segments", again.segments());
    let data = again.data().await;
    again.reopen(false).await;
    assert_eq!(again.data().await, data);
}

/// The deletions of the last second are only in the index; without the removed events they could not be determined again.
#[tokio::test]
async fn deletions_are_reported_after_their_segment_was_removed_and_the_process_killed() {
    let mut again = Reopened::new(Config { retention_events: 10, ..small() });
    let large = "x".repeat(100_000);
    let segment_of = |again: &Reopened, offset| again.shared.log().stored(offset).unwrap().segment;
    for _ in 0..25 {
        again.put(&["few"], "early").await;
    }
    let first = segment_of(&again, 25);
    while segment_of(&again, again.put(&["busy"], &large).await) == first {}
    // Both topics are written to the second segment: `few` was deleted up to event 15.
    again.sweep(now_ms()).await.unwrap();
    again.cleaned().await;
    for _ in 0..10 {
        again.put(&["few"], "late").await;
    }
    assert!(again.shared.files.get(first).is_some());
    // The next segment begins, and the first one is removed.
    while again.shared.files.get(first).is_some() {
        again.put(&["busy"], &large).await;
        again.cleaned().await;
    }
    again.reopen(false).await;
    let few = vec![topic("few").into()].into();
    let query = Query { patterns: few, after: 16, floor: 0, limit: 99, max_bytes: usize::MAX };
    let page = again.read(query).await.unwrap();
    assert!(page.events[0].position.offset > 25 && !page.trimmed.is_empty(), "{:?}", page.trimmed);
}

/// One topic keeps an event in each segment, so that none is empty.
#[tokio::test]
async fn live_data_are_moved_out_of_segments_that_are_mostly_deleted() {
    let mut again = Reopened::new(Config { retention: vec![keep("busy", 5)], ..small() });
    let value = |n: u64| noise(1000, n);
    for n in 0..400 {
        if n % 10 == 0 {
            again.append(vec![Draft { key: Some(n.to_string()), ..draft(&["kept", "also"], &n.to_string()) }]).await;
            again.write(&format!("r/{n}"), Some(value(n))).await;
            again.write("replaced", Some(value(n))).await;
        }
        again.put(&["busy"], &"x".repeat(100_000)).await;
    }
    again.sweep(now_ms()).await.unwrap();
    again.cleaned().await;
    assert!(again.segments() <= 4, "{} segments", again.segments());
    for clean in [true, false, true] {
        assert_eq!(again.stats().events, 45);
        let kept = vec![topic("also").into()].into();
        let query = Query { patterns: kept, after: 0, floor: 0, limit: usize::MAX, max_bytes: usize::MAX };
        let page = again.read(query).await.unwrap();
        let data: Vec<String> = page.events.iter().map(|event| event.data.to_string()).collect();
        assert_eq!(data, (0..400).step_by(10).map(|n| n.to_string()).collect::<Vec<_>>());
        for n in (0..400).step_by(10) {
            assert_eq!(again.value(&format!("r/{n}")).await, Some(value(n)));
        }
        assert_eq!(again.value("replaced").await, Some(value(390)));
        let repeat = Draft { key: Some("0".into()), ..draft(&["kept", "also"], "0") };
        assert!(again.append(vec![repeat]).await[0].duplicate, "the key is moved with its event");
        again.reopen(clean).await;
        assert_eq!(again.stats().topics, 3);
    }
}

#[tokio::test]
async fn a_compaction_frees_the_space_of_all_deleted_data() {
    let mut again = Reopened::new(small());
    for n in 0..20 {
        again.put(&["gone"], &"x".repeat(MIB / 2)).await;
        again.put(&["kept"], &n.to_string()).await;
        again.write(&n.to_string(), Some(noise(100_000, n))).await;
    }
    again.purge(topic("gone")).await.unwrap();
    for n in 1..20 {
        again.write(&n.to_string(), None).await;
    }
    let Ok(MaintenanceReport::Compacted(done)) = again.maintain(Maintenance::Compact).await else { panic!() };
    assert!(done.bytes_before > 8 << 20 && done.bytes_after < 1 << 20, "{done:?}");
    again.reopen(false).await;
    assert_eq!((again.data().await.len(), again.stats().records), (20, 1));
    assert!(again.value("0").await == Some(noise(100_000, 0)));
}

/// Moves run beside readers and publishers.
#[tokio::test]
async fn readers_and_publishers_go_on_during_a_compaction() {
    let again = Arc::new(Reopened::new(small()));
    for n in 0..2000 {
        again.put(&["t"], &format!("{n}-{}", "x".repeat(2000))).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (again, done) = (again.clone(), done.clone());
        tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                // A read of cached events does not wait, so the others would get no turn.
                tokio::task::yield_now().await;
                let page = again.all().await;
                assert!(page.events.iter().zip(1..).all(|(event, offset)| event.position.offset == offset));
                assert!(page.events.len() >= 2000);
                reads += 1;
            }
            reads
        })
    };
    for n in 0..5 {
        assert!(matches!(again.maintain(Maintenance::Compact).await, Ok(MaintenanceReport::Compacted(_))));
        again.put(&["t"], &format!("more-{n}")).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
    assert_eq!(again.all().await.events.len(), 2005);
}

/// The commits after the last sync are copied to another segment; a topic that was synced is only in the old one.
#[tokio::test]
async fn everything_is_kept_after_a_failed_sync_and_the_cleaning_of_its_segment() {
    let mut again = Reopened::new(small());
    let sync = |again: &Reopened, result: fn() -> std::io::Result<()>| {
        let mut committer = again.committer.lock().unwrap();
        let committer = committer.as_mut().unwrap();
        let sync = committer.begin_sync().unwrap();
        sync.run().unwrap();
        committer.end_sync(&sync, result()).is_ok()
    };
    again.append(vec![Draft { ttl_ms: Some(1), ..draft(&["synced"], "brief") }]).await;
    assert!(sync(&again, || Ok(())));
    again.put(&["copied"], "a").await;
    again.write("copied", Some(noise(1000, 2))).await;
    assert!(!sync(&again, || Err(std::io::Error::from_raw_os_error(5))));
    let batch = || Batch::events(vec![draft(&["synced"], "b")]);
    let refused = Journal::append(&*again, batch()).await;
    assert!(matches!(refused, Err(AppendError::Unavailable(_))) && again.refusal().is_some(), "{refused:?}");
    assert!(again.data().await.contains(&"a".to_owned()), "reading continues");
    while Journal::append(&*again, batch()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(again.refusal().is_none());
    // Nothing in the first segment is live then, but the topic.
    again.sweep(now_ms()).await.unwrap();
    again.cleaned().await;
    for clean in [false, true] {
        again.reopen(clean).await;
        assert_eq!(again.data().await, ["a", "b"]);
        assert_eq!(again.stats().topics, 2);
        assert_eq!(again.value("copied").await, Some(noise(1000, 2)));
    }
}
