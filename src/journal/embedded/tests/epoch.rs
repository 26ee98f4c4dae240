//! Whether offsets may go on after a crash, and whether anything is missing.

use super::{
    place::{self, Mark, MarkFile},
    *,
};

/// Whether it was closed, and how its mark is changed.
type Case = (bool, fn(Mark) -> Mark);

/// Three events, and the mark changed as this says while nobody uses it.
async fn with_mark(clean: bool, change: impl FnOnce(Mark) -> Mark) -> (Again, u64) {
    let mut again = Again::new(Config::default());
    for data in ["a", "b", "c"] {
        again.put(&["t"], data).await;
    }
    let epoch = again.epoch();
    if clean {
        again.close().await;
    } else {
        again.drop();
    }
    // The writer may be about to go.
    again.open().unwrap();
    if clean {
        again.close().await;
    } else {
        again.drop();
    }
    let place = loop {
        match place::Place::take(&again.dir) {
            Err(OpenError::InUse { .. }) => std::thread::yield_now(),
            taken => break taken.unwrap(),
        }
    };
    let mark = Mark::read(&place.mark()).unwrap().unwrap().unwrap();
    assert_eq!(mark.clean, clean);
    MarkFile::open(&place.mark(), mark).unwrap().write(change(mark)).unwrap();
    (again, epoch)
}

#[tokio::test]
async fn the_epoch_goes_on_where_nothing_can_be_missing() {
    let another_boot = |mark: Mark| Mark { boot: mark.boot ^ 1, ..mark };
    let cases: [Case; 3] = [
        (true, |mark| mark),
        (false, |mark| mark),
        // On the disk before each acknowledgement, so no crash of the machine takes it away.
        (false, |mark| Mark { boot: mark.boot ^ 1, synced: true, ..mark }),
    ];
    for (clean, change) in cases {
        let (mut again, epoch) = with_mark(clean, change).await;
        again.open().unwrap();
        assert_eq!((again.epoch(), again.put(&["t"], "d").await), (epoch, 4));
    }
    let (mut again, epoch) = with_mark(true, another_boot).await;
    again.open().unwrap();
    assert_eq!(again.epoch(), epoch);
}

#[tokio::test]
async fn a_new_epoch_begins_when_the_machine_stopped_before_the_disk_had_it_all() {
    let (mut again, epoch) = with_mark(false, |mark| Mark { boot: mark.boot ^ 1, ..mark }).await;
    again.open().unwrap();
    let second = again.epoch();
    assert_ne!(second, epoch);
    assert_eq!((again.data().await.len(), again.put(&["t"], "d").await), (3, 4));
    // And it is this one from then on.
    again.reopen(false).await;
    assert_eq!((again.epoch(), again.data().await.len()), (second, 4));
}

#[tokio::test]
async fn commits_that_are_missing_after_such_a_crash_are_no_damage() {
    let change = |mark: Mark| Mark { boot: mark.boot ^ 1, commit: mark.commit + 5, ..mark };
    let (mut again, epoch) = with_mark(false, change).await;
    again.open().unwrap();
    assert_ne!(again.epoch(), epoch);
    again.put(&["t"], "d").await;
    again.reopen(true).await;
    assert_eq!(again.data().await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn commits_that_are_missing_otherwise_are_damage() {
    let one_more = |mark: Mark| Mark { commit: mark.commit + 1, ..mark };
    let synced = |mark: Mark| Mark { commit: mark.commit + 1, boot: mark.boot ^ 1, synced: true, ..mark };
    let cases: [Case; 3] = [(true, one_more), (false, one_more), (false, synced)];
    for (clean, change) in cases {
        let (mut again, _) = with_mark(clean, change).await;
        assert!(matches!(again.open(), Err(OpenError::Damaged { what, .. }) if what.contains("was acknowledged")));
    }
}
