//! The power fails at a random moment of a random history.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;

/// Histories in a normal run; `MILLSTREAM_LONG=1` runs the long form.
const SEEDS: u64 = 2000;
const LONG_SEEDS: u64 = 200_000;
/// Maximum number of steps in a history.
const STEPS: u32 = 60;

/// What the log has acknowledged, in a form that outlives it.
struct History {
    log: Opened,
    /// The body of each event since the first that is kept.
    events: BTreeMap<u64, Vec<u8>>,
    records: BTreeMap<String, Vec<u8>>,
    keep: u64,
    /// The greatest offset and the records at the last sync.
    synced: (u64, BTreeMap<String, Vec<u8>>),
}

impl History {
    fn begin(disk: &Arc<TestDisk>, options: Options) -> Self {
        let log = open(disk, options).unwrap();
        Self { log, events: BTreeMap::new(), records: BTreeMap::new(), keep: 1, synced: (0, BTreeMap::new()) }
    }

    fn step(&mut self, rng: &mut SmallRng, always: bool) {
        let length = if rng.random_ratio(1, 8) { rng.random_range(0..9000) } else { rng.random_range(0..300) };
        let body = text(rng.random(), length);
        match rng.random_range(0..20) {
            0..14 => {
                let offset = self.log.append(&body).unwrap();
                self.events.insert(offset, body);
            }
            14..16 => {
                let key = format!("key/{}", rng.random_range(0..3));
                self.log.put(&key, &body).unwrap();
                self.records.insert(key, body);
            }
            16..18 => {
                self.log.log.sync().unwrap();
                self.acknowledge_sync();
            }
            _ => {
                let head = self.events.keys().last().copied().unwrap_or(0);
                self.keep = rng.random_range(self.keep..=head.max(self.keep));
                self.log.clean(self.keep).unwrap();
            }
        }
        if always {
            self.acknowledge_sync();
        }
    }

    fn acknowledge_sync(&mut self) {
        self.synced = (self.events.keys().last().copied().unwrap_or(0), self.records.clone());
    }

    /// Checks the content after a crash. Returns the number of acknowledged events that are lost.
    fn check(&self, found: &Opened, seed: u64) -> usize {
        let (events, _) = found.bytes();
        for (offset, body) in &events {
            if let Some(own) = self.events.get(offset) {
                assert_eq!(own, body, "seed {seed}: event {offset}");
            } else {
                assert!(*offset < self.keep, "seed {seed}: event {offset} was never appended");
            }
        }
        let wanted = self.events.range(self.keep..);
        let lost: Vec<u64> = wanted.map(|(offset, _)| *offset).filter(|offset| !events.contains_key(offset)).collect();
        if let Some(first) = lost.first() {
            assert!(*first > self.synced.0, "seed {seed}: event {first} was synced, {} is the last", self.synced.0);
            assert_eq!(
                lost.len() as u64,
                self.events.keys().last().unwrap() + 1 - first,
                "seed {seed}: there are holes"
            );
        }
        lost.len()
    }
}

fn run(seed: u64, always: bool) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = TestDisk::new();
    let mut history = History::begin(&disk, options(always, 1));
    for _ in 0..rng.random_range(0..STEPS) {
        history.step(&mut rng, always);
    }
    let disk = disk.lose_power(&mut rng);
    let mut found = match open(&disk, options(always, 2)) {
        Ok(found) => found,
        Err(error) => panic!("seed {seed}: {error}"),
    };
    let lost = history.check(&found, seed);
    let (events, records) = found.bytes();
    if always {
        assert_eq!((lost, found.log.epoch()), (0, EPOCH + 1), "seed {seed}");
        assert_eq!(records.len(), history.records.len(), "seed {seed}");
        assert!(records.iter().all(|(key, value)| history.records[key] == *value), "seed {seed}");
    } else {
        assert_eq!(found.log.epoch(), EPOCH + 2, "seed {seed}");
        assert!(history.synced.1.keys().all(|key| records.contains_key(key)), "seed {seed}");
    }
    // The log is used after the crash, and the power fails again.
    let next = found.append(b"after").unwrap();
    found.log.sync().unwrap();
    drop(found);
    let disk = disk.lose_power(&mut rng);
    let again = open(&disk, options(always, 3)).unwrap_or_else(|error| panic!("seed {seed}, again: {error}"));
    assert_eq!(&again.body(next)[..], b"after", "seed {seed}");
    for (offset, body) in events {
        assert_eq!(again.body(offset), body, "seed {seed}: event {offset}");
    }
    lost
}

fn seeds() -> u64 {
    if std::env::var_os("MILLSTREAM_LONG").is_some() { LONG_SEEDS } else { SEEDS }
}

#[test]
fn no_acknowledged_commit_is_lost_with_the_power_if_each_is_synced() {
    for seed in 0..seeds() {
        run(seed, true);
    }
}

#[test]
fn commits_after_the_last_sync_may_be_lost_with_the_power_and_then_a_new_epoch_begins() {
    let lost: usize = (0..seeds()).map(|seed| run(seed, false)).sum();
    assert!(lost > 0, "the disk loses nothing, so the test shows nothing");
}

#[test]
fn a_killed_process_loses_nothing() {
    for seed in 0..200 {
        for always in [true, false] {
            let mut rng = SmallRng::seed_from_u64(seed);
            let disk = TestDisk::new();
            let mut history = History::begin(&disk, options(always, 1));
            for _ in 0..rng.random_range(0..STEPS) {
                history.step(&mut rng, always);
            }
            let found = open(&disk.copy(), options(always, 1)).unwrap();
            assert_eq!((history.check(&found, seed), found.log.epoch()), (0, EPOCH + 1), "seed {seed}");
            assert_eq!(found.bytes().1.len(), history.records.len());
        }
    }
}
