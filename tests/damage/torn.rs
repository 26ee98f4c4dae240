//! Logs after a crash of the machine or a change of files: unacknowledged data may be torn, everything else must be
//! complete.

use std::{fs, path::Path};

use millstream::journal::{self, OpenError};

use crate::{
    store::{Found, Sound, config},
    sweep::heads,
};

const LOG: &str = "journal/store/0.jnl";
const NEXT: &str = "journal/store/1.jnl";
const HIGH_WATER_MARK: &str = "journal/MARK";

fn damage(dir: &Path) -> String {
    match journal::open(&config(), dir) {
        Err(OpenError::Damaged { what, .. }) => what,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was opened"),
    }
}

/// A page of the last batch was not written before the power went; its end was.
#[test]
fn a_batch_that_was_torn_before_its_acknowledgement_is_dropped() {
    let sound = Sound::small();
    let earlier = fs::read(sound.dir().join(HIGH_WATER_MARK)).expect("a mark");
    let longer = sound.with_one_more(100_000);
    let whole = fs::read(longer.path().join(LOG)).expect("a log");
    // With the mark of before it, the last batch was never acknowledged.
    fs::write(longer.path().join(HIGH_WATER_MARK), &earlier).expect("a mark");
    let mut torn = whole.clone();
    let middle = whole.len() - 50_000;
    torn[middle..middle + 4096].fill(0);
    fs::write(longer.path().join(LOG), &torn).expect("a log");
    let journal = journal::open(&config(), longer.path()).expect("nothing is missing");
    assert_eq!(sound.check(&journal), Found::Intact);
}

#[test]
fn a_batch_that_was_acknowledged_must_not_be_torn() {
    let sound = Sound::small();
    let longer = sound.with_one_more(100_000);
    let mut torn = fs::read(longer.path().join(LOG)).expect("a log");
    let middle = torn.len() - 50_000;
    torn[middle..middle + 4096].fill(0);
    fs::write(longer.path().join(LOG), &torn).expect("a log");
    assert!(damage(longer.path()).contains("was acknowledged"));
    assert_eq!(fs::read(longer.path().join(LOG)).expect("a log"), torn, "it was changed");
}

/// A full log is stored beside the next one until its rows are in tables. The store itself would continue with the next
/// one if it cannot read the first one further.
#[test]
fn an_earlier_log_must_be_whole() {
    let sound = Sound::small();
    let log = fs::read(sound.dir().join(LOG)).expect("a log");
    let heads = heads(&log);
    let (half, quarter) = (heads[heads.len() / 2], heads[heads.len() / 4]);
    let split = |damage: &dyn Fn(&mut Vec<u8>)| {
        let dir = sound.copy();
        let mut first = log[..half].to_vec();
        damage(&mut first);
        fs::write(dir.path().join(LOG), first).expect("a log");
        fs::write(dir.path().join(NEXT), &log[half..]).expect("a log");
        dir
    };
    let dir = split(&|first| first.extend([0; 4096]));
    assert_eq!(sound.check(&journal::open(&config(), dir.path()).expect("two logs")), Found::Intact);
    for offset in [0, quarter, quarter + 20] {
        damage_names(split(&|first| first[offset] ^= 1).path());
    }
    damage_names(split(&|first| first.truncate(quarter + 20)).path());
}

fn damage_names(dir: &Path) {
    let what = damage(dir);
    assert!(what.contains("0.jnl") && what.contains("is not as it was written"), "{what}");
}
