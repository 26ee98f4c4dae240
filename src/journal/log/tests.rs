//! Tests of the index: its size depends only on the stored events. The contract cannot see this.

use super::*;
use crate::{clock::Moment, event::Draft, journal::Batch, topic::Topic};

fn append(log: &mut Log, name: &str, draft: Draft) {
    let draft = Draft { topics: vec![Topic::new(name).unwrap()], data: "x".into(), ..draft };
    let mut group = log.begin(Moment { steady: 0, wall: 0 });
    group.add(log, Batch::events(vec![draft])).unwrap();
    log.apply(&group, &[]);
}

fn sweep(log: &mut Log, now: u64) {
    while log.sweep(now) {}
}

#[test]
fn events_deleted_by_retention_leave_nothing() {
    let mut log = Log::new(&Config { retention_events: 10, ..Config::default() }, 1);
    append(&mut log, "lasting", Draft { key: Some("first".into()), ..Draft::default() });
    for number in 0..20_000_u64 {
        append(&mut log, "busy", Draft { key: Some(number.to_string()), ttl_ms: Some(1 + number), ..Draft::default() });
    }
    assert_eq!((log.entries.len(), log.expiring.len(), log.dedupe.len()), (11, 10, 11));
    assert_eq!(log.topics.named(&Topic::new("busy").unwrap()).unwrap().offsets.len(), 10);
    assert_eq!(log.take_changes().dropped.len(), 19_990);
}

#[test]
fn expired_events_leave_nothing() {
    let brief = || Draft { ttl_ms: Some(10), ..Draft::default() };
    let mut log = Log::new(&Config { retention_events: 0, ..Config::default() }, 1);
    append(&mut log, "mixed", Draft::default());
    for _ in 0..5000 {
        append(&mut log, "mixed", brief());
        append(&mut log, "brief", brief());
    }
    sweep(&mut log, 10);
    let offsets = |log: &Log, name: &str| log.topics.named(&Topic::new(name).unwrap()).unwrap().offsets.len();
    assert_eq!((log.entries.len(), log.expiring.len(), offsets(&log, "brief")), (1, 0, 0));
    assert!(offsets(&log, "mixed") <= 2 + 64, "{} husks", offsets(&log, "mixed"));
}
