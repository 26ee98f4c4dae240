//! Damage of each kind of row: it is detected, and everything else is kept.

use super::{store::Commit, *};
use crate::journal::{Maintenance, MaintenanceReport, Unavailable, Verified};

mod parts;

/// A closed journal with events, topics and records of all kinds.
async fn filled() -> Reopened {
    let mut again = Reopened::new(Config { retention: vec![keep("few", 2)], ..Config::default() });
    for n in 0..4 {
        again.put(&["few"], &format!("few-{n}")).await;
    }
    again.append(vec![Draft { key: Some("k".into()), ..draft(&["a", "b"], "both") }]).await;
    again.append(vec![Draft { ttl_ms: Some(1 << 40), ..draft(&["b"], "brief") }]).await;
    again.write("r", Some(Bytes::from_static(b"value"))).await;
    again.sweep(now_ms()).await.unwrap();
    again.close().await;
    again
}

/// The data of its events, in order.
const ALL: [&str; 4] = ["few-2", "few-3", "both", "brief"];

/// Opens the stopped journal as soon as the writer of the earlier one has ended.
fn offline(again: &Reopened) -> OfflineJournal {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match OfflineJournal::at(&again.dir) {
            Err(OpenError::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
            offline => return offline.unwrap(),
        }
    }
}

/// Writes into the store without the journal.
fn tamper(again: &Reopened, change: impl FnOnce(&mut Commit)) {
    drop(offline(again));
    let store = Store::open(&again.dir.join("journal/store")).unwrap();
    let mut commit = store.commit().unwrap();
    change(&mut commit);
    commit.write(true).unwrap();
}

fn spoil(again: &Reopened, key: &[u8]) -> Verified {
    tamper(again, |commit| commit.put(key, vec![1, 2, 3, 4, 5, 6]));
    offline(again).verify().unwrap()
}

/// Repairs the journal and opens it.
fn repaired(again: &mut Reopened) -> Repaired {
    let repaired = offline(again).repair(false).unwrap().expect("it is damaged");
    assert!(!offline(again).verify().unwrap().damaged, "{:?}", offline(again).verify().unwrap());
    again.open().unwrap();
    repaired
}

fn id_of(again: &Reopened, name: &str) -> u64 {
    drop(offline(again));
    let store = Store::open(&again.dir.join("journal/store")).unwrap();
    let mut topics = store.scan(b't', &[]).map(|row| {
        let (key, row) = row.unwrap();
        (rows::number_of(&key).unwrap(), rows::decode::<rows::TopicRow>(&row).unwrap())
    });
    topics.find(|(_, row)| row.name.as_str() == name).unwrap().0
}

#[tokio::test]
async fn an_intact_journal_has_no_findings_and_is_not_repaired() {
    let again = filled().await;
    let verified = offline(&again).verify().unwrap();
    assert_eq!(
        (verified.damaged, verified.events, verified.topics, verified.records),
        (false, 4, 3, 1),
        "{verified:?}"
    );
    assert!(offline(&again).repair(false).unwrap().is_none());
}

#[tokio::test]
async fn only_a_damaged_event_is_lost() {
    let mut again = filled().await;
    let key = rows::event_key(id_of(&again, "a"), 5);
    let verified = spoil(&again, &key);
    assert_eq!(
        (verified.damaged, verified.counts["damaged-row"], verified.findings.len()),
        (true, 1, 1),
        "{verified:?}"
    );
    let done = repaired(&mut again);
    assert_eq!((done.events, done.lost_events, done.records), (3, 1, 1));
    assert_eq!(again.data().await, ["few-2", "few-3", "brief"]);
    assert_eq!(again.put(&["a"], "next").await, 7);
}

#[tokio::test]
async fn an_event_without_data_is_detected() {
    let mut again = filled().await;
    let key = rows::event_key(id_of(&again, "b"), 6);
    tamper(&again, |commit| commit.delete(key));
    let verified = offline(&again).verify().unwrap();
    assert_eq!((verified.damaged, verified.counts["missing-data"]), (true, 1), "{verified:?}");
    assert!(again.open().is_err(), "the last events are checked when the journal is opened");
    assert_eq!(repaired(&mut again).lost_events, 1);
    assert_eq!(again.data().await, ALL[..3]);
}

/// Events contain all of their metadata.
#[tokio::test]
async fn a_damaged_index_is_restored() {
    let mut again = filled().await;
    let first = {
        drop(offline(&again));
        let store = Store::open(&again.dir.join("journal/store")).unwrap();
        let keys: Vec<_> = store.scan(b'i', &[]).map(|row| row.unwrap().0).collect();
        keys
    };
    for key in &first {
        spoil(&again, key);
    }
    assert!(again.open().is_err());
    let done = repaired(&mut again);
    assert_eq!((done.events, done.lost_events), (4, 0), "{done:?}");
    assert_eq!(again.data().await, ALL);
    // Trimmed offsets, topics, times to live and keys are unchanged.
    assert_eq!(again.after(1).await.trimmed[0].topic, "few");
    let topics = again.topics(Pattern::any(), None, 9).await.unwrap();
    let shown: Vec<_> = topics.iter().map(|info| (info.topic.as_str(), info.events)).collect();
    assert_eq!(shown, [("a", 1), ("b", 2), ("few", 2)]);
    let repeat = Draft { key: Some("k".into()), ..draft(&["a", "b"], "both") };
    assert_eq!(again.append(vec![repeat]).await[0].position.offset, 5);
    again.sweep(now_ms() + (1 << 41)).await.unwrap();
    assert!(!again.data().await.contains(&"brief".to_owned()));
}

#[tokio::test]
async fn a_damaged_topic_is_restored_from_its_events() {
    let mut again = filled().await;
    let key = rows::topic_key(id_of(&again, "b"));
    spoil(&again, &key);
    let done = repaired(&mut again);
    assert_eq!((done.events, done.topics), (4, 3), "{done:?}");
    assert_eq!(again.data().await, ALL);
}

#[tokio::test]
async fn a_record_is_restored_from_its_value() {
    let mut again = filled().await;
    spoil(&again, &rows::record_index_key("r"));
    assert_eq!(repaired(&mut again).lost_records, 0);
    assert_eq!(again.get("r".into()).await.unwrap().unwrap().value, "value");
    again.close().await;
    let verified = spoil(&again, &rows::record_key("r"));
    assert!(verified.damaged);
    let done = repaired(&mut again);
    assert_eq!((done.lost_records, again.get("r".into()).await.unwrap()), (1, None));
}

#[tokio::test]
async fn without_a_state_row_a_journal_continues_after_its_last_event() {
    let mut again = filled().await;
    let epoch = {
        again.open().unwrap();
        let epoch = again.epoch();
        again.close().await;
        epoch
    };
    spoil(&again, rows::STATE_KEY);
    let done = repaired(&mut again);
    assert_eq!(done.events, 4);
    assert_ne!(again.epoch(), epoch);
    assert_eq!((again.data().await, again.put(&["a"], "next").await), (ALL.map(str::to_owned).to_vec(), 7));
}

#[tokio::test]
async fn an_interrupted_repair_leaves_the_old_store() {
    let mut again = filled().await;
    let journal = again.dir.join("journal");
    let key = rows::event_key(id_of(&again, "a"), 5);
    spoil(&again, &key);
    // During the write of the new one, and between the two renames of a file system without exchange.
    std::fs::create_dir(journal.join("store.new")).unwrap();
    std::fs::write(journal.join("store.new/version"), "half").unwrap();
    assert!(offline(&again).verify().unwrap().damaged);
    std::fs::rename(journal.join("store"), journal.join("store.damaged-1")).unwrap();
    assert!(matches!(again.open(), Err(OpenError::Damaged { .. })));
    assert_eq!(offline(&again).verify().unwrap().counts["damaged-row"], 1);
    repaired(&mut again);
    assert_eq!(again.data().await, ["few-2", "few-3", "brief"]);
    assert!(!journal.join("store.new").exists() && !journal.join("look").exists());
}

/// Changes each byte of the log, one after the other: nothing panics, and all kept events are unchanged.
#[tokio::test]
async fn a_damaged_byte_of_the_log_loses_at_most_its_commit() {
    let mut again = Reopened::new(Config::default());
    for n in 0..4 {
        again.put(&["t"], &format!("event-{n}")).await;
    }
    again.drop();
    drop(offline(&again));
    let log = again.dir.join("journal/store/0.jnl");
    let sound = std::fs::read(&log).unwrap();
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let all: Vec<String> = (0..4).map(|n| format!("event-{n}")).collect();
    for at in (0..=end).step_by(37) {
        let mut bytes = sound[..=end].to_vec();
        bytes[at] ^= 0x55;
        std::fs::write(&log, bytes).unwrap();
        let snapshot = snapshot::JournalSnapshot::at(&again.dir).unwrap();
        let Ok(scan) = verify::scan(&snapshot) else { continue };
        assert!(scan.findings.damaged, "byte {at}");
        let kept: Vec<u64> = scan.events.keys().copied().collect();
        assert!(kept.len() >= all.len() - 1, "byte {at}: {kept:?}");
    }
    std::fs::write(&log, sound).unwrap();
}

#[tokio::test]
async fn a_journal_in_use_is_verified_and_compacted_one_at_a_time() {
    let mut again = filled().await;
    again.open().unwrap();
    let verified = |report: Result<MaintenanceReport, Unavailable>| match report.unwrap() {
        MaintenanceReport::Verified(verified) => verified,
        MaintenanceReport::Compacted(_) => panic!("a verification was requested"),
    };
    assert_eq!(again.put(&["a"], "more").await, 7);
    let sound = verified(again.maintain(Maintenance::Verify).await);
    assert_eq!((sound.damaged, sound.events, sound.records), (false, 5, 1), "{sound:?}");
    assert!(matches!(again.maintain(Maintenance::Compact).await, Ok(MaintenanceReport::Compacted(_))));
    let turn = again.maintenance.try_acquire().unwrap();
    for work in [Maintenance::Verify, Maintenance::Compact] {
        assert!(matches!(again.maintain(work).await, Err(Unavailable::Working)));
    }
    drop(turn);
    let keys = again.shared.with_store(|store| store.scan(b'e', &[]).map(|row| row.map(|(key, _)| key)).collect());
    let keys: Vec<_> = keys.unwrap();
    let spoil = |store: &Store| {
        let mut commit = store.commit().unwrap();
        commit.put(&keys[0], vec![0; 9]);
        commit.delete(&keys[1]);
        commit.write(false)
    };
    again.shared.with_store(spoil).unwrap();
    let damaged = verified(again.maintain(Maintenance::Verify).await);
    assert_eq!((damaged.damaged, damaged.counts["damaged-row"], damaged.counts["missing-data"]), (true, 1, 1));
}
