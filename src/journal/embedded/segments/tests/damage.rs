//! Damage of a log that was acknowledged: it is opened completely, or rejected.

use super::*;

/// A log with several segments, records and a removed segment.
fn small_log(clean: bool) -> (Arc<TestDisk>, Opened) {
    let disk = TestDisk::new();
    let small = Options { segment_bytes: 2048, ..options(false, 1) };
    let mut log = open(&disk, small).unwrap();
    for number in 1..=60 {
        log.append(&text(number, 80)).unwrap();
        if number % 20 == 0 {
            log.put("key", &text(number, 40)).unwrap();
        }
    }
    log.clean(8).unwrap();
    log.append(b"last").unwrap();
    let kept =
        Opened { log: open(&disk.copy(), small).unwrap().log, content: log.content.clone(), draft: Draft::default() };
    if clean {
        log.log.close().unwrap();
    }
    (disk, kept)
}

/// Opens a damaged copy. True if it was rejected, or the read of an item is. Otherwise everything must be there.
fn rejected(disk: &Arc<TestDisk>, kept: &Opened, what: &str) -> bool {
    match open(disk, Options { segment_bytes: 2048, ..options(false, 1) }) {
        Err(StoreError::Damaged(why)) => {
            assert!(why.contains("MARK") || why.contains(".seg"), "the file is named: {why}");
            true
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(found) => {
            let mut content = found.content.clone();
            content.events.retain(|offset, _| kept.content.events.contains_key(offset));
            assert_eq!(content, kept.content, "{what}: opened without an acknowledged item");
            assert_eq!(found.log.epoch(), kept.log.epoch(), "{what}");
            let records = found.content.records.values().map(|(_, stored)| stored);
            let reads = found.content.events.values().chain(records).map(|stored| found.log.files().read(*stored));
            let errors: Vec<_> = reads.filter_map(Result::err).collect();
            assert!(errors.iter().all(|error| matches!(error, StoreError::Damaged(_))), "{what}: {errors:?}");
            !errors.is_empty()
        }
    }
}

#[test]
fn a_flipped_bit_of_any_byte_is_rejected_or_has_no_effect() {
    for clean in [true, false] {
        let (disk, kept) = small_log(clean);
        let (mut rejections, mut cases) = (0, 0);
        for name in disk.names() {
            let length = disk.open(&name).unwrap().len().unwrap();
            for byte in 0..usize::try_from(length).unwrap() {
                let copy = disk.copy();
                copy.change(&name, |bytes| bytes[byte] ^= 1 << (byte % 8));
                cases += 1;
                rejections += usize::from(rejected(&copy, &kept, &format!("bit of byte {byte} of {name}")));
            }
        }
        assert!(rejections > cases / 2, "{rejections} of {cases}");
    }
}

#[test]
fn a_missing_file_is_rejected() {
    for clean in [true, false] {
        let (disk, kept) = small_log(clean);
        assert!(disk.names().len() > 3);
        for name in disk.names() {
            let copy = disk.copy();
            copy.remove(&name).unwrap();
            assert!(rejected(&copy, &kept, &name), "{name}");
        }
    }
}

#[test]
fn a_truncated_or_zeroed_file_is_rejected_or_has_no_effect() {
    const STEP: usize = 64;
    for clean in [true, false] {
        let (disk, kept) = small_log(clean);
        for name in disk.names() {
            let length = usize::try_from(disk.open(&name).unwrap().len().unwrap()).unwrap();
            for begins in (0..length).step_by(STEP) {
                let copy = disk.copy();
                copy.change(&name, |bytes| bytes.truncate(begins));
                let truncated = rejected(&copy, &kept, &format!("{name} cut at {begins}"));
                assert!(truncated || begins > 0, "{name} is empty");
                let copy = disk.copy();
                copy.change(&name, |bytes| bytes[begins..length.min(begins + STEP)].fill(0));
                rejected(&copy, &kept, &format!("{name} zeroed at {begins}"));
            }
        }
    }
}

#[test]
fn bytes_behind_the_end_were_never_acknowledged_and_are_ignored() {
    let (disk, kept) = small_log(false);
    let last = name_of(kept.log.numbers().1);
    let end = kept.log.end.position as usize;
    for garbage in [&b"x"[..], &[255; 300]] {
        let copy = disk.copy();
        copy.change(&last, |bytes| {
            bytes.resize(bytes.len().max(end + garbage.len()), 0);
            bytes[end..end + garbage.len()].copy_from_slice(garbage);
        });
        assert!(!rejected(&copy, &kept, "garbage"));
    }
}
