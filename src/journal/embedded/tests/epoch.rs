//! The epoch after a crash, and the detection of missing commits.

use super::{
    segments::{
        Directory,
        high_water_mark::{HighWaterMark, HighWaterMarkFile},
    },
    *,
};

/// Whether the journal was closed, and how its high-water mark is changed.
type Case = (bool, fn(HighWaterMark) -> HighWaterMark);

/// A journal with three events and a changed high-water mark.
async fn with_high_water_mark(clean: bool, change: impl FnOnce(HighWaterMark) -> HighWaterMark) -> (Reopened, u64) {
    let mut again = Reopened::new(Config::default());
    for data in ["a", "b", "c"] {
        again.put(&["t"], data).await;
    }
    let epoch = again.epoch();
    if clean {
        again.close().await;
    } else {
        again.drop();
    }
    // The writer may not have ended yet.
    again.open().unwrap();
    if clean {
        again.close().await;
    } else {
        again.drop();
    }
    let data_dir = again.stopped();
    let (mut file, high_water_mark) = HighWaterMarkFile::open(&Directory::at(&data_dir.journal())).unwrap();
    let high_water_mark = high_water_mark.unwrap();
    assert_eq!(high_water_mark.clean, clean);
    file.write(change(high_water_mark)).unwrap();
    (again, epoch)
}

#[tokio::test]
async fn the_epoch_continues_if_nothing_can_be_missing() {
    let another_boot =
        |high_water_mark: HighWaterMark| HighWaterMark { boot: high_water_mark.boot ^ 1, ..high_water_mark };
    let cases: [Case; 3] = [
        (true, |high_water_mark| high_water_mark),
        (false, |high_water_mark| high_water_mark),
        // Synced before each acknowledgement, so a crash of the machine loses nothing.
        (false, |high_water_mark| HighWaterMark { boot: high_water_mark.boot ^ 1, always: true, ..high_water_mark }),
    ];
    for (clean, change) in cases {
        let (mut again, epoch) = with_high_water_mark(clean, change).await;
        again.open().unwrap();
        assert_eq!((again.epoch(), again.put(&["t"], "d").await), (epoch, 4));
    }
    let (mut again, epoch) = with_high_water_mark(true, another_boot).await;
    again.open().unwrap();
    assert_eq!(again.epoch(), epoch);
}

#[tokio::test]
async fn a_new_epoch_begins_after_a_machine_crash_without_sync() {
    let (mut again, epoch) = with_high_water_mark(false, |high_water_mark| HighWaterMark {
        boot: high_water_mark.boot ^ 1,
        ..high_water_mark
    })
    .await;
    again.open().unwrap();
    let second = again.epoch();
    assert_ne!(second, epoch);
    assert_eq!((again.data().await.len(), again.put(&["t"], "d").await), (3, 4));
    // The new epoch is kept at the next start.
    again.reopen(false).await;
    assert_eq!((again.epoch(), again.data().await.len()), (second, 4));
}

#[tokio::test]
async fn missing_commits_are_no_damage_after_a_machine_crash_without_sync() {
    let change = |high_water_mark: HighWaterMark| HighWaterMark {
        boot: high_water_mark.boot ^ 1,
        acknowledged: high_water_mark.acknowledged + 5,
        ..high_water_mark
    };
    let (mut again, epoch) = with_high_water_mark(false, change).await;
    again.open().unwrap();
    assert_ne!(again.epoch(), epoch);
    again.put(&["t"], "d").await;
    again.reopen(true).await;
    assert_eq!(again.data().await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn missing_commits_are_damage_in_all_other_cases() {
    let one_more = |high_water_mark: HighWaterMark| HighWaterMark {
        acknowledged: high_water_mark.acknowledged + 1,
        ..high_water_mark
    };
    let synced = |high_water_mark: HighWaterMark| HighWaterMark {
        acknowledged: high_water_mark.acknowledged + 1,
        boot: high_water_mark.boot ^ 1,
        always: true,
        ..high_water_mark
    };
    let cases: [Case; 3] = [(true, one_more), (false, one_more), (false, synced)];
    for (clean, change) in cases {
        let (mut again, _) = with_high_water_mark(clean, change).await;
        assert!(matches!(again.open(), Err(OpenError::Damaged { what, .. }) if what.contains("was acknowledged")));
    }
}

/// Clients that saw events which were lost would miss new ones with the same offsets.
#[tokio::test]
async fn damage_of_a_new_epoch_does_not_bring_the_old_one_back() {
    let change = |high_water_mark: HighWaterMark| HighWaterMark { boot: high_water_mark.boot ^ 1, ..high_water_mark };
    let (mut again, epoch) = with_high_water_mark(false, change).await;
    again.open().unwrap();
    assert_ne!(again.epoch(), epoch);
    again.close().await;
    // Its segment has no event yet.
    let segment = again.dir.join("journal").join(segments::name_of(2));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert!(matches!(again.open(), Err(OpenError::Damaged { .. })));
}
