//! Values of records: of any size, replaced and deleted.

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[tokio::test]
async fn values_of_every_size_are_read_back_also_after_a_restart() {
    let sizes = [0, 1, KIB, 64 * KIB, 64 * KIB + 1, 11 * MIB];
    let value = |size: usize| noise(size, size as u64);
    let mut again = Reopened::new(Config::default());
    for size in sizes {
        again.write(&size.to_string(), Some(value(size))).await;
    }
    for clean in [true, false] {
        for size in sizes {
            assert!(again.value(&size.to_string()).await == Some(value(size)), "{size} bytes");
        }
        let record_bytes = again.stats().record_bytes;
        again.reopen(clean).await;
        assert_eq!(again.stats().record_bytes, record_bytes);
    }
}

#[tokio::test]
async fn of_the_writes_of_a_key_in_one_commit_the_last_one_is_stored() {
    let sizes = [None, Some(1), Some(128 * KIB)];
    let mut again = Reopened::new(Config::default());
    let value = |size: Option<usize>, seed| size.map(|size| noise(size, seed));
    let cases = sizes.into_iter().flat_map(|before| sizes.map(|first| (before, first)));
    let cases: Vec<_> = cases.flat_map(|(before, first)| sizes.map(|last| (before, first, last))).collect();
    for (number, (before, first, last)) in cases.iter().enumerate() {
        let key = format!("r/{number}");
        again.write(&key, value(*before, 1)).await;
        let records = [(first, 2), (last, 3)]
            .map(|(size, seed)| RecordWrite { key: key.clone(), value: value(*size, seed) })
            .to_vec();
        Journal::append(&*again, Batch { records, ..Batch::default() }).await.unwrap();
        assert!(again.value(&key).await == value(*last, 3), "{before:?}, {first:?}, {last:?}");
    }
    again.reopen(false).await;
    for (number, (before, first, last)) in cases.iter().enumerate() {
        assert!(again.value(&format!("r/{number}")).await == value(*last, 3), "{before:?}, {first:?}, {last:?}");
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
                let other = value.iter().position(|byte| *byte != fill(revision));
                assert!(other.is_none() || value.len() == 1, "revision {revision} of {} bytes", value.len());
                seen += 1;
            }
            seen
        })
    };
    let readers = [read(), read()];
    for revision in first + 1..first + u64::from(crate::cases(100)) {
        let size = match revision % 16 {
            0 => 256 << 10,
            1 => 9,
            _ => (1 << 20) - 7,
        };
        let value = (revision % 16 != 2).then(|| vec![fill(revision); size].into());
        again.write("r", value).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "readers and writer run at the same time");
    }
}
