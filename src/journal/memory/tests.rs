//! What the contract cannot see: the indexes stay as small as what is kept.

use super::*;
use crate::{event::Draft, journal::Batch};

fn append(log: &mut Log, name: &str, draft: Draft) {
    let draft = Draft { topics: vec![Topic::new(name).unwrap()], data: "x".into(), ..draft };
    log.append(Batch::events(vec![draft]), 0).unwrap();
}

fn sweep(log: &mut Log, now: u64) {
    while log.sweep(now) {}
}

#[test]
fn what_retention_lets_go_leaves_no_trace() {
    let mut log = Log::new(&Config { retention_events: 10, ..Config::default() }, 1);
    append(&mut log, "lasting", Draft { key: Some("first".into()), ..Draft::default() });
    for number in 0..20_000_u64 {
        append(&mut log, "busy", Draft { key: Some(number.to_string()), ttl_ms: Some(1 + number), ..Draft::default() });
    }
    assert_eq!((log.entries.len(), log.expiring.len(), log.dedupe.len()), (11, 10, 11));
    assert!(log.evictable.len() <= 2 * 11 + 1024);
    assert_eq!(log.topics.get(&Topic::new("busy").unwrap()).unwrap().offsets.len(), 10);
}

#[test]
fn what_has_expired_leaves_no_trace() {
    let brief = || Draft { ttl_ms: Some(10), ..Draft::default() };
    let mut log = Log::new(&Config { retention_events: 0, ..Config::default() }, 1);
    append(&mut log, "mixed", Draft::default());
    for _ in 0..5000 {
        append(&mut log, "mixed", brief());
        append(&mut log, "brief", brief());
    }
    sweep(&mut log, 10);
    let offsets = |log: &Log, name: &str| log.topics.get(&Topic::new(name).unwrap()).unwrap().offsets.len();
    assert_eq!((log.entries.len(), log.expiring.len(), offsets(&log, "brief")), (1, 0, 0));
    assert!(offsets(&log, "mixed") <= 2 + 64, "{} husks", offsets(&log, "mixed"));
    append(&mut log, "mixed", Draft::default());
    assert!(log.evictable.len() <= 2 * 2 + 1024);
}
