//! Each operation of the disk fails once, in each way. The log continues, and has everything that it acknowledged.

use super::{disk::Fault, *};

/// Events and records that were acknowledged.
#[derive(Default)]
struct Acknowledged {
    events: BTreeMap<u64, Vec<u8>>,
    records: BTreeMap<String, Vec<u8>>,
    failures: usize,
}

/// A history with commits of several sizes, rotation, cleaning and syncs. After a failure each step is repeated.
fn run(log: &mut Opened, acknowledged: &mut Acknowledged) {
    let Acknowledged { events, records, failures } = acknowledged;
    for number in 1..=60 {
        let body = text(number, if number % 10 == 0 { 5000 } else { 300 });
        let offset = until_done(log, failures, |log| log.append(&body));
        events.insert(offset, body);
        if number % 20 == 0 {
            let key = format!("key/{number}");
            until_done(log, failures, |log| log.put(&key, b"value"));
            records.insert(key, b"value".to_vec());
        }
        if number % 15 == 0 {
            until_done(log, failures, |log| log.log.sync());
        }
        if number % 25 == 0 {
            clean(log, failures);
        }
    }
}

fn until_done<T>(
    log: &mut Opened,
    failures: &mut usize,
    mut step: impl FnMut(&mut Opened) -> Result<T, StoreError>,
) -> T {
    for _ in 0..3 {
        match step(log) {
            Ok(done) => return done,
            Err(_) => {
                *failures += 1;
                continue_after_sync(log);
            }
        }
    }
    panic!("the log does not continue after one failure");
}

/// Removes the oldest segment. If `MARK` cannot be synced, this is not possible before the next start.
fn clean(log: &mut Opened, failures: &mut usize) {
    for _ in 0..3 {
        match log.clean(1) {
            Ok(()) => return,
            Err(_) if log.log.removal_stopped => {
                *failures += 1;
                return;
            }
            Err(_) => {
                *failures += 1;
                continue_after_sync(log);
            }
        }
    }
    panic!("no segment is removed after one failure");
}

fn continue_after_sync(log: &mut Opened) {
    if log.log.sync_failed {
        // If this fails, the next step fails too.
        let _ = log.recover();
    }
}

fn each_operation_fails(always: bool) {
    let healthy = TestDisk::new();
    let mut log = open(&healthy, options(always, 1)).unwrap();
    let begins = healthy.operations();
    run(&mut log, &mut Acknowledged::default());
    let ends = healthy.operations();
    assert!(log.log.numbers().0 > 1, "a segment was removed");
    let mut failures = 0;
    for operation in begins + 1..=ends {
        for fault in [Fault::Device, Fault::Full, Fault::Short] {
            let what = format!("{fault:?} at operation {operation}");
            let disk = TestDisk::new();
            let mut log = open(&disk, options(always, 1)).unwrap();
            disk.fail(operation, fault);
            let mut acknowledged = Acknowledged::default();
            run(&mut log, &mut acknowledged);
            failures += acknowledged.failures;
            let check = |log: &Opened| {
                let (events, records) = log.bytes();
                assert!(acknowledged.events.iter().all(|(offset, body)| events[offset] == body), "{what}");
                assert!(acknowledged.records.iter().all(|(key, value)| records[key] == value), "{what}");
            };
            check(&log);
            let epoch = log.log.epoch();
            drop(log);
            // The process is killed.
            let log = open(&disk.copy(), options(always, 1)).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&log);
            assert_eq!(log.log.epoch(), epoch);
            drop(log);
            if always {
                let mut rng = rand::SeedableRng::seed_from_u64(operation);
                let log = open(&disk.lose_power(&mut rng), options(always, 2))
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                check(&log);
            }
        }
    }
    assert!(failures as u64 > 2 * (ends - begins), "{failures} failures in {} operations", ends - begins);
}

#[test]
fn a_failed_operation_loses_nothing_with_a_sync_after_each_commit() {
    each_operation_fails(true);
}

#[test]
fn a_failed_operation_loses_nothing_without_syncs() {
    each_operation_fails(false);
}

#[test]
fn an_opening_that_fails_changes_nothing() {
    let disk = TestDisk::new();
    let mut log = open(&disk, options(true, 1)).unwrap();
    for number in 1..=60 {
        log.append(&text(number, 300)).unwrap();
    }
    let bytes = log.bytes();
    drop(log);
    let copy = disk.copy();
    let begins = copy.operations();
    drop(open(&copy, options(true, 2)).unwrap());
    for operation in begins + 1..=copy.operations() {
        let copy = disk.copy();
        copy.fail(operation, Fault::Device);
        assert!(open(&copy, options(true, 2)).is_err(), "operation {operation}");
        assert_eq!(open(&copy, options(true, 2)).unwrap().bytes(), bytes);
    }
}
