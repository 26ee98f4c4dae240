//! Damage of values in parts: only the affected record is lost, and it is reported once.

use super::{
    rows::{PART_BYTES, PartHead},
    *,
};

const NAMES: [&str; 3] = ["large", "larger", "small"];

fn value_of(name: &str) -> Bytes {
    match name {
        "large" => noise(3 * PART_BYTES - 1, 1),
        "larger" => noise(6 * PART_BYTES, 2),
        _ => noise(100, 3),
    }
}

async fn with_parts() -> Reopened {
    let mut again = Reopened::new(Config::default());
    for name in NAMES {
        again.write(name, Some(value_of(name))).await;
    }
    again.close().await;
    again
}

fn row(again: &Reopened, key: &[u8]) -> Vec<u8> {
    drop(offline(again));
    Store::open(&again.dir.join("journal/store")).unwrap().get(key).unwrap().unwrap().to_vec()
}

fn flip(again: &Reopened, key: &[u8]) {
    let mut bytes = row(again, key);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    tamper(again, |commit| commit.put(key, bytes));
}

/// Checks that there is exactly one finding.
fn assert_found(verified: &Verified, code: &str, what: &str) {
    let findings = format!("{verified:?}");
    assert_eq!(
        (verified.damaged, verified.findings.len(), verified.counts.get(code)),
        (true, 1, Some(&1)),
        "{findings}"
    );
    assert!(findings.contains(what), "{findings}");
}

/// Only `large` cannot be read, and a repair drops only that.
async fn assert_large_is_lost(again: &mut Reopened, code: &str) {
    assert_found(&offline(again).verify().unwrap(), code, "record `large`");
    again.open().unwrap();
    let read = again.get("large".into()).await;
    assert!(matches!(&read, Err(Unavailable::Damaged(what)) if what.contains("record `large`")), "{read:?}");
    assert_found(&again.shared.verify().unwrap(), code, "record `large`");
    for name in ["larger", "small"] {
        assert!(again.value(name).await == Some(value_of(name)), "{name}");
    }
    again.close().await;
    let done = repaired(again);
    assert_eq!((done.records, done.lost_records), (2, 1));
    assert_eq!(again.value("large").await, None);
    for name in ["larger", "small"] {
        assert!(again.value(name).await == Some(value_of(name)), "{name}");
    }
    assert_eq!((again.count_rows(b'k'), again.count_rows(b'r'), again.count_rows(b'p')), (2, 1, 6));
}

#[tokio::test]
async fn a_missing_part_is_detected_and_loses_only_its_record() {
    for missing in [&[0][..], &[1], &[2], &[0, 1], &[0, 1, 2]] {
        let mut again = with_parts().await;
        tamper(&again, |commit| missing.iter().for_each(|part| commit.delete(rows::part_key("large", *part))));
        assert_large_is_lost(&mut again, "missing-data").await;
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_part_is_detected_and_loses_only_its_record() {
    for damaged in [&[0][..], &[2], &[0, 1, 2]] {
        let mut again = with_parts().await;
        damaged.iter().for_each(|part| flip(&again, &rows::part_key("large", *part)));
        assert_large_is_lost(&mut again, "damaged-row").await;
    }
}

#[tokio::test]
async fn a_part_of_another_value_is_detected_and_loses_only_its_record() {
    for (revisions, bytes) in [(1, 0), (0, 1)] {
        let mut again = with_parts().await;
        let key = rows::part_key("large", 1);
        let row = row(&again, &key);
        let (PartHead { revision, size }, name, part) = rows::decode_part(1, &row).unwrap();
        let head = PartHead { revision: revision + revisions, size: size + bytes };
        tamper(&again, |commit| commit.put(key, rows::encode_part(head, name, part)));
        assert_found(&offline(&again).verify().unwrap(), "missing-data", "record `large`");
        again.open().unwrap();
        assert!(matches!(again.get("large".into()).await, Err(Unavailable::Damaged(_))));
        again.close().await;
        assert_eq!(repaired(&mut again).lost_records, 1);
        assert_eq!((again.value("large").await, again.count_rows(b'p')), (None, 6));
    }
}

/// Complete parts are a record, incomplete ones are dropped.
#[tokio::test]
async fn parts_without_a_record_are_kept_if_they_are_complete() {
    let mut again = with_parts().await;
    again.open().unwrap();
    let before = again.get("large".into()).await.unwrap();
    again.close().await;
    tamper(&again, |commit| commit.delete(rows::record_index_key("large")));
    assert_found(&offline(&again).verify().unwrap(), "not-indexed", "record `large`");
    let done = repaired(&mut again);
    assert_eq!((done.records, done.lost_records), (3, 0));
    assert!(again.get("large".into()).await.unwrap() == before, "value and revision are as before");
    // Revisions are not used again.
    again.write("new", Some(value_of("small"))).await;
    assert!(again.get("new".into()).await.unwrap().unwrap().revision > before.unwrap().revision);
    again.close().await;

    tamper(&again, |commit| {
        commit.delete(rows::record_index_key("large"));
        commit.delete(rows::part_key("large", 0));
    });
    assert_found(&offline(&again).verify().unwrap(), "not-indexed", "record `large`");
    assert_eq!(repaired(&mut again).records, 3);
    assert_eq!((again.value("large").await, again.count_rows(b'p')), (None, 6));
}

#[tokio::test]
async fn extra_rows_of_a_value_are_dropped() {
    let beside = [rows::part_key("small", 0).to_vec(), rows::part_key("large", 3).to_vec(), rows::record_key("large")];
    for beside in beside {
        let mut again = with_parts().await;
        let row = match beside[0] {
            b'r' => rows::seal(b"another value"),
            _ if beside == rows::part_key("small", 0) => {
                rows::encode_part(PartHead { revision: 1, size: 2 * PART_BYTES as u64 }, "small", &[0; PART_BYTES])
            }
            _ => rows::encode_part(PartHead { revision: 1, size: 4 * PART_BYTES as u64 }, "large", &[0; PART_BYTES]),
        };
        tamper(&again, |commit| commit.put(&beside, row));
        assert_found(&offline(&again).verify().unwrap(), "not-indexed", "has rows of another value");
        let done = repaired(&mut again);
        assert_eq!((done.records, done.lost_records), (3, 0));
        for name in NAMES {
            assert!(again.value(name).await == Some(value_of(name)), "{name}");
        }
        assert_eq!((again.count_rows(b'r'), again.count_rows(b'p')), (1, 9));
    }
}

#[tokio::test]
async fn a_large_value_in_one_row_is_verified_and_repaired() {
    let mut again = with_parts().await;
    let index = rows::decode::<rows::RecordRow>(&row(&again, &rows::record_index_key("large"))).unwrap();
    tamper(&again, |commit| {
        (0..3).for_each(|part| commit.delete(rows::part_key("large", part)));
        commit.put(rows::record_key("large"), rows::seal(&value_of("large")));
        commit.put(rows::record_index_key("large"), rows::encode(&index));
    });
    assert!(!offline(&again).verify().unwrap().damaged);
    flip(&again, &rows::record_key("small"));
    assert_found(&offline(&again).verify().unwrap(), "damaged-row", "record `small`");
    assert_eq!(repaired(&mut again).lost_records, 1);
    for name in ["large", "larger"] {
        assert!(again.value(name).await == Some(value_of(name)), "{name}");
    }
    again.close().await;
    flip(&again, &rows::record_key("large"));
    assert_found(&offline(&again).verify().unwrap(), "damaged-row", "record `large`");
    assert_eq!(repaired(&mut again).lost_records, 1);
    assert_eq!((again.value("large").await, again.count_rows(b'r')), (None, 0));
}

/// Parts fill their blocks, so the parts after an unreadable block are read one by one.
#[tokio::test]
async fn an_unreadable_block_loses_one_record() {
    let names: Vec<String> = (0..9).map(|number| format!("r{number}")).collect();
    let value = |number: usize| noise(5 * PART_BYTES, 100 + number as u64);
    let mut again = Reopened::new(Config::default());
    for (number, name) in names.iter().enumerate() {
        again.write(name, Some(value(number))).await;
    }
    again.shared.with_store(Store::compact).unwrap();
    again.close().await;
    // Two blocks, so that reads from both ends stop before the parts between them.
    let damaged = [2, 6];
    let mut flipped = 0;
    for table in std::fs::read_dir(again.dir.join("journal/store/keyspaces/1/tables")).unwrap() {
        let path = table.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        for number in damaged {
            let needle = &value(number)[2 * PART_BYTES + 1000..][..64];
            if let Some(at) = memchr::memmem::find(&bytes, needle) {
                bytes[at] ^= 1;
                flipped += 1;
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(flipped, damaged.len());
    let verified = offline(&again).verify().unwrap();
    assert_eq!((verified.damaged, verified.counts["missing-data"]), (true, damaged.len() as u64), "{verified:?}");
    assert_eq!(repaired(&mut again).lost_records, damaged.len() as u64);
    for (number, name) in names.iter().enumerate() {
        let kept = (!damaged.contains(&number)).then(|| value(number));
        assert!(again.value(name).await == kept, "{name}");
    }
}
