//! Damage of each part of the log: it is detected, and everything else is kept.

use std::{fs, os::unix::fs::FileExt, path::PathBuf};

use super::{
    segments::{Directory, Scan, name_of},
    *,
};
use crate::journal::{Maintenance, MaintenanceReport, Unavailable, Verified, log::Stored};

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
    drop(again.stopped());
    OfflineJournal::at(&again.dir).unwrap()
}

fn segment(again: &Reopened, number: u32) -> PathBuf {
    again.dir.join("journal").join(name_of(number))
}

/// Changes a byte of a file.
fn flip(path: &Path, position: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position).unwrap();
}

/// The location of an event.
fn stored(again: &mut Reopened, offset: u64) -> Stored {
    drop(again.stopped());
    again.open().unwrap();
    let stored = again.shared.log().stored(offset).unwrap();
    again.drop();
    drop(again.stopped());
    stored
}

/// Changes a byte of the body of an event.
fn spoil_event(again: &mut Reopened, offset: u64) {
    let stored = stored(again, offset);
    flip(&segment(again, stored.segment), stored.position.into());
}

/// Changes a byte of the heads of the commit of an event, which lie before the bodies.
fn spoil_commit(again: &mut Reopened, offset: u64) {
    let stored = stored(again, offset);
    flip(&segment(again, stored.segment), u64::from(stored.position) - 1);
}

fn assert_found(verified: &Verified, kind: &str, what: &str) {
    assert_eq!((verified.damaged, verified.counts.get(kind)), (true, Some(&1)), "{verified:?}");
    let finding = verified.findings.iter().find(|finding| finding.kind == kind).unwrap();
    assert!(finding.detail.contains(what), "{verified:?}");
}

/// Repairs the journal and opens it.
fn repaired(again: &mut Reopened) -> Repaired {
    let repaired = offline(again).repair(false).unwrap().expect("it is damaged");
    let verified = offline(again).verify().unwrap();
    assert!(!verified.damaged, "{verified:?}");
    again.open().unwrap();
    repaired
}

#[tokio::test]
async fn an_intact_journal_has_no_findings_and_is_not_repaired() {
    let again = filled().await;
    let verified = offline(&again).verify().unwrap();
    assert_eq!(
        (verified.damaged, verified.events, verified.topics, verified.records, verified.findings.len()),
        (false, 4, 3, 1, 0),
        "{verified:?}"
    );
    assert!(offline(&again).repair(false).unwrap().is_none());
}

#[tokio::test]
async fn only_a_damaged_event_is_lost() {
    let mut again = filled().await;
    spoil_event(&mut again, 5);
    assert_found(&offline(&again).verify().unwrap(), "damaged-event", "event 5");
    again.open().unwrap();
    let query = |after| Query { patterns: vec![Pattern::any()].into(), after, floor: 0, limit: 9, max_bytes: 999 };
    let page = again.read(query(0)).await.unwrap();
    assert_eq!((page.events.len(), page.through), (2, 4), "the page ends before it");
    assert!(matches!(again.read(query(4)).await, Err(Unavailable::Unreadable { through: 5, .. })));
    assert_eq!(again.read(query(5)).await.unwrap().events.len(), 1);
    again.drop();
    let done = repaired(&mut again);
    assert_eq!((done.events, done.lost_events, done.records), (3, 1, 1));
    assert_eq!(again.data().await, ["few-2", "few-3", "brief"]);
    assert_eq!(again.put(&["a"], "next").await, 7);
}

#[tokio::test]
async fn only_a_damaged_record_is_lost() {
    let mut again = filled().await;
    again.open().unwrap();
    again.write("s", Some(Bytes::from_static(b"other"))).await;
    let stored = again.shared.log().record("r").unwrap().stored;
    again.close().await;
    flip(&segment(&again, stored.segment), stored.position.into());
    assert_found(&offline(&again).verify().unwrap(), "damaged-record", "record `r`");
    again.open().unwrap();
    assert!(matches!(again.get("r".into()).await, Err(Unavailable::Damaged(what)) if what.contains("record `r`")));
    assert_eq!(again.value("s").await.unwrap(), "other");
    again.close().await;
    let done = repaired(&mut again);
    assert_eq!((done.records, done.lost_records), (1, 1));
    assert_eq!((again.value("r").await, again.value("s").await.unwrap()), (None, "other".into()));
    assert_eq!(again.data().await, ALL);
}

#[tokio::test]
async fn only_the_events_of_a_damaged_commit_are_lost() {
    let mut again = filled().await;
    let epoch = {
        again.open().unwrap();
        let epoch = again.epoch();
        again.close().await;
        epoch
    };
    spoil_commit(&mut again, 5);
    let refused = again.open();
    assert!(
        matches!(&refused, Err(OpenError::Damaged { what, .. }) if what.contains("commit 5 cannot be read")),
        "{refused:?}"
    );
    assert_found(&offline(&again).verify().unwrap(), "damaged-commits", "commit 5 cannot be read");
    let done = repaired(&mut again);
    assert_eq!((done.events, done.topics, done.records), (3, 2, 1));
    assert_eq!(again.data().await, ["few-2", "few-3", "brief"]);
    assert_ne!(again.epoch(), epoch);
    // Trimmed offsets, topics, times to live and keys are unchanged.
    assert!(again.after(1).await.trimmed.iter().any(|trimmed| trimmed.topic == "few"));
    assert_eq!(again.put(&["a"], "next").await, 7);
    assert_eq!(again.value("r").await.unwrap(), "value");
    again.sweep(now_ms() + (1 << 41)).await.unwrap();
    assert!(!again.data().await.contains(&"brief".to_owned()));
}

/// The first commit of a topic has its name; the later ones do not.
#[tokio::test]
async fn a_damaged_topic_is_restored_from_its_events() {
    let mut again = Reopened::new(Config::default());
    for n in 0..3 {
        again.put(&["t"], &n.to_string()).await;
    }
    again.close().await;
    spoil_commit(&mut again, 1);
    let done = repaired(&mut again);
    assert_eq!((done.events, done.topics), (2, 1), "{done:?}");
    assert_eq!(again.data().await, ["1", "2"]);
    assert_ne!(again.all().await.trimmed, [], "earlier events may be missing");
}

#[tokio::test]
async fn a_journal_without_its_high_water_mark_is_repaired() {
    let mut again = filled().await;
    fs::remove_file(again.dir.join("journal/MARK")).unwrap();
    assert!(matches!(again.open(), Err(OpenError::Damaged { what, .. }) if what.contains("MARK")));
    assert_found(&offline(&again).verify().unwrap(), "damaged-mark", "is missing");
    let done = repaired(&mut again);
    assert_eq!((done.events, done.lost_events), (4, 0));
    assert_eq!((again.data().await, again.put(&["a"], "next").await), (ALL.map(str::to_owned).to_vec(), 7));
}

#[tokio::test]
async fn a_damaged_header_loses_no_event() {
    let mut again = filled().await;
    flip(&segment(&again, 1), 20);
    assert!(matches!(again.open(), Err(OpenError::Damaged { what, .. }) if what.contains("0000000001.seg")));
    assert_found(&offline(&again).verify().unwrap(), "damaged-commits", "header");
    assert_eq!(repaired(&mut again).events, 4);
    assert_eq!(again.data().await, ALL);
}

#[tokio::test]
async fn files_that_do_not_belong_to_the_log_are_no_damage() {
    let mut again = filled().await;
    // The process ended while it created a segment, or another program wrote the file.
    for name in [&*name_of(2), "7.seg", "+0000000003.seg", "next.tmp"] {
        fs::write(again.dir.join("journal").join(name), [0; 4096]).unwrap();
    }
    let verified = offline(&again).verify().unwrap();
    assert!(!verified.damaged, "{verified:?}");
    again.open().unwrap();
    assert_eq!((again.data().await, again.put(&["a"], "next").await), (ALL.map(str::to_owned).to_vec(), 7));
    again.reopen(false).await;
    assert_eq!(again.data().await.len(), ALL.len() + 1);
}

#[tokio::test]
async fn an_interrupted_repair_leaves_the_old_journal() {
    let mut again = filled().await;
    spoil_event(&mut again, 5);
    // During the write of the new one, and between the two renames of a file system without exchange.
    fs::create_dir(again.dir.join("journal.new")).unwrap();
    fs::write(again.dir.join("journal.new/MARK"), "half").unwrap();
    assert!(offline(&again).verify().unwrap().damaged);
    fs::rename(again.dir.join("journal"), again.dir.join("journal.damaged-1")).unwrap();
    assert_found(&offline(&again).verify().unwrap(), "damaged-event", "event 5");
    repaired(&mut again);
    assert_eq!(again.data().await, ["few-2", "few-3", "brief"]);
    assert!(!again.dir.join("journal.new").exists());
}

/// Changes each byte of the log, one after the other: nothing panics, and all kept events are unchanged.
#[tokio::test]
async fn a_damaged_byte_of_the_log_loses_at_most_its_commit() {
    let mut again = Reopened::new(Config::default());
    let all: Vec<String> = (0..4).map(|n| format!("event-{n}")).collect();
    for data in &all {
        again.put(&["t"], data).await;
    }
    again.drop();
    let data_dir = again.stopped();
    let log = segment(&again, 1);
    let sound = fs::read(&log).unwrap();
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for at in 0..=end {
        flip(&log, at as u64);
        let scan = Scan::of(&Directory::at(&data_dir.journal()), data_dir::boot_id()).unwrap();
        let found = verify::verify(&scan).unwrap();
        let kept = found.log.stored_after(0).filter(|(_, stored)| !found.is_damaged(*stored));
        let kept: Vec<String> = kept
            .map(|(offset, stored)| {
                let bytes = scan.files().read(stored).unwrap();
                let event = items::decode_event(&bytes, crate::event::Position { epoch: 0, offset }).unwrap();
                event.data.to_string()
            })
            .collect();
        // Zeros behind the bodies have no meaning.
        assert!(found.verified.damaged || kept == all, "byte {at}: {kept:?}");
        assert!(kept.len() >= all.len() - 1, "byte {at}: {kept:?}, {:?}", found.verified);
        assert!(kept.iter().all(|data| all.contains(data)), "byte {at}: {kept:?}");
        flip(&log, at as u64);
    }
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
    let stored = again.shared.log().stored(7).unwrap();
    flip(&segment(&again, stored.segment), stored.position.into());
    let damaged = verified(again.maintain(Maintenance::Verify).await);
    assert_found(&damaged, "damaged-event", "event 7");
    flip(&segment(&again, stored.segment), 20);
    assert_found(&verified(again.maintain(Maintenance::Verify).await), "damaged-commits", "header");
}
