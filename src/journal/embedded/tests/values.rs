//! Values of records in the store: a small value is one row, a large one is stored in parts.

use super::{
    rows::{PART_BYTES, RecordRow, SINGLE_ROW_BYTES},
    *,
};

const MIB: usize = 1 << 20;

/// Number of single rows and of parts.
fn rows_of_values(again: &Reopened) -> (usize, usize) {
    (again.count_rows(b'r'), again.count_rows(b'p'))
}

fn index_row(again: &Reopened, key: &str) -> Vec<u8> {
    again.shared.with_store(|store| store.get(rows::record_index_key(key))).unwrap().unwrap().to_vec()
}

/// Stores a value as earlier versions did, in one row of any size, and opens the journal again.
async fn write_as_one_row(again: &mut Reopened, key: &str, value: &[u8]) {
    again.write(key, Some(Bytes::from_static(b"small"))).await;
    let revision = again.get(key.into()).await.unwrap().unwrap().revision;
    again.close().await;
    let store = Store::open(&again.dir.join("journal/store")).unwrap();
    let mut commit = store.commit().unwrap();
    commit.put(rows::record_key(key), rows::seal(value));
    commit.put(rows::record_index_key(key), rows::encode(&RecordRow { revision, size: value.len() as u64 }));
    commit.write(true).unwrap();
    drop(store);
    again.open().unwrap();
}

#[tokio::test]
async fn values_of_every_size_are_read_back_also_after_a_restart() {
    let sizes = [
        0,
        SINGLE_ROW_BYTES - 1,
        SINGLE_ROW_BYTES,
        SINGLE_ROW_BYTES + 1,
        PART_BYTES - 1,
        PART_BYTES,
        PART_BYTES + 1,
        2 * PART_BYTES,
        2 * PART_BYTES + 1,
        11 * MIB,
    ];
    let value = |size: usize| noise(size, size as u64);
    let mut again = Reopened::new(Config::default());
    for size in sizes {
        again.write(&size.to_string(), Some(value(size))).await;
    }
    assert_eq!(rows_of_values(&again), (3, 3 + 2 + 2 + 3 + 176));
    for clean in [true, false] {
        for size in sizes {
            assert!(again.value(&size.to_string()).await == Some(value(size)), "{size} bytes");
        }
        let record_bytes = again.stats().record_bytes;
        again.reopen(clean).await;
        assert_eq!(again.stats().record_bytes, record_bytes);
    }
    assert!(!again.shared.verify().unwrap().damaged);
}

#[tokio::test]
async fn no_row_of_a_value_is_left_when_it_is_replaced_or_deleted() {
    let mut again = Reopened::new(Config::default());
    // Rows of other records are not deleted.
    again.write("r\0\0\0\0", Some(noise(PART_BYTES + 1, 1))).await;
    again.write("r\0", Some(noise(PART_BYTES + 1, 2))).await;
    let steps = [(3, 0, 3), (1, 1, 0), (2, 0, 2), (5, 0, 5), (3, 0, 3), (0, 0, 0), (4, 0, 4), (1, 1, 0), (0, 0, 0)];
    for (number, (parts, whole, in_parts)) in (0..).zip(steps) {
        let size = if whole == 1 { SINGLE_ROW_BYTES } else { (parts * PART_BYTES).saturating_sub(1) };
        let value = (parts > 0).then(|| noise(size, number));
        again.write("r", value.clone()).await;
        assert_eq!(rows_of_values(&again), (whole, in_parts + 4), "step {number}");
        assert!(again.value("r").await == value, "step {number}");
        if number % 3 == 0 {
            again.reopen(false).await;
        }
    }
    again.write("r\0\0\0\0", None).await;
    again.write("r\0", None).await;
    assert_eq!((rows_of_values(&again), again.count_rows(b'k')), ((0, 0), 0));
}

#[tokio::test]
async fn of_the_writes_of_a_key_in_one_commit_the_last_one_is_stored() {
    let sizes = [None, Some(1), Some(2 * PART_BYTES), Some(3 * PART_BYTES)];
    let again = Reopened::new(Config::default());
    for before in sizes {
        for first in sizes {
            for last in sizes {
                let value = |size: Option<usize>, seed| size.map(|size| noise(size, seed));
                again.write("r", value(before, 1)).await;
                let records = [(first, 2), (last, 3)]
                    .map(|(size, seed)| RecordWrite { key: "r".into(), value: value(size, seed) })
                    .to_vec();
                Journal::append(&*again, Batch { records, ..Batch::default() }).await.unwrap();
                let case = format!("{before:?}, {first:?}, {last:?}");
                assert!(again.value("r").await == value(last, 3), "{case}");
                let parts = last.map_or(0, |size| rows::parts_in(size as u64) as usize);
                assert_eq!(rows_of_values(&again), (usize::from(last == Some(1)), parts), "{case}");
                assert!(!again.shared.verify().unwrap().damaged, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_large_value_in_one_row_is_read_replaced_and_deleted() {
    let old = noise(3 * PART_BYTES, 1);
    for new in [
        None,
        Some(noise(9, 2)),
        Some(noise(2 * PART_BYTES, 3)),
        Some(noise(3 * PART_BYTES, 4)),
        Some(noise(4 * PART_BYTES, 5)),
    ] {
        let mut again = Reopened::new(Config::default());
        write_as_one_row(&mut again, "r", &old).await;
        assert_eq!(rows_of_values(&again), (1, 0));
        assert!(again.value("r").await.as_ref() == Some(&old));
        assert!(!again.shared.verify().unwrap().damaged);
        again.write("r", new.clone()).await;
        let parts = new.as_ref().map_or(0, |value| rows::parts_in(value.len() as u64) as usize);
        let whole = usize::from(new.is_some() && parts == 0);
        assert_eq!(rows_of_values(&again), (whole, parts));
        again.reopen(true).await;
        assert!(again.value("r").await == new);
    }
}

/// They would not find the value, and would leave parts behind.
#[tokio::test]
async fn earlier_versions_reject_only_journals_with_parts() {
    let again = Reopened::new(Config::default());
    for (size, version) in
        [(SINGLE_ROW_BYTES, rows::VERSION), (SINGLE_ROW_BYTES + 1, rows::PARTS_VERSION), (9, rows::VERSION)]
    {
        again.write("r", Some(noise(size, 1))).await;
        assert_eq!(index_row(&again, "r")[0], version);
    }
}

/// Reads run on threads beside the writer. The content of a value depends on its revision.
#[tokio::test]
async fn readers_see_whole_values_of_one_revision_while_they_are_replaced() {
    let again = Arc::new(Reopened::new(Config::default()));
    let fill = |revision: u64| u8::try_from(revision % 251).unwrap();
    again.write("r", Some(Bytes::from_static(&[0]))).await;
    let first = again.get("r".into()).await.unwrap().unwrap().revision;
    let done = Arc::new(AtomicBool::new(false));
    let read = || {
        let (again, done) = (again.clone(), done.clone());
        tokio::spawn(async move {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                // A read of a missing record does not wait, so the writer would get no turn.
                tokio::task::yield_now().await;
                let Some(Record { value, revision }) = again.get("r".into()).await.unwrap() else { continue };
                // Single rows are not checked, because they do not contain their revision.
                if value.len() > SINGLE_ROW_BYTES {
                    let other = value.iter().position(|byte| *byte != fill(revision));
                    assert_eq!(other, None, "revision {revision} of {} bytes", value.len());
                    seen += 1;
                }
            }
            seen
        })
    };
    let readers = [read(), read()];
    for revision in first + 1..first + u64::from(crate::cases(100)) {
        // Most values have one size, so that only the revision distinguishes their parts.
        let size = match revision % 16 {
            0 => 4 * PART_BYTES,
            1 => 9,
            _ => 16 * PART_BYTES - 7,
        };
        let value = (revision % 16 != 2).then(|| vec![fill(revision); size].into());
        again.write("r", value).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "readers and writer run at the same time");
    }
}
