//! Records: keyed values beside the events.

use super::*;
use crate::journal::{AppendError, Expect, Record, RecordWrite};

async fn write(journal: &Shared, records: &[(&str, Option<&str>)]) {
    let write = |(key, value): &(&str, Option<&str>)| RecordWrite {
        key: (*key).into(),
        value: value.map(|value| value.to_owned().into()),
    };
    journal.append(Batch { records: records.iter().map(write).collect(), ..Batch::default() }).await.unwrap();
}

async fn get(journal: &Shared, key: &str) -> Option<Record> {
    journal.get(key.into()).await.unwrap()
}

async fn keys(journal: &Shared, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    journal.keys(prefix.into(), after.map(str::to_owned), limit).await.unwrap()
}

pub(super) async fn a_record_is_written_read_and_deleted(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    assert_eq!(get(&journal, "a").await, None);
    write(&journal, &[("a", Some("1")), ("b", Some("2")), ("a", Some("3"))]).await;
    assert_eq!(get(&journal, "a").await.unwrap().value, "3", "the last write of a batch counts");
    assert_eq!(get(&journal, "b").await.unwrap().value, "2");
    write(&journal, &[("a", None), ("never there", None)]).await;
    assert_eq!(get(&journal, "a").await, None);
    assert_eq!(kept(&journal, &["*"]).await, [""; 0], "records are never served as events");
}

pub(super) async fn every_write_has_its_own_revision(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let mut seen = Vec::new();
    for value in ["1", "1", "2"] {
        write(&journal, &[("a", Some(value))]).await;
        seen.push(get(&journal, "a").await.unwrap().revision);
        write(&journal, &[("b", Some("x"))]).await;
        assert_eq!(get(&journal, "a").await.unwrap().revision, seen[seen.len() - 1], "others do not change it");
    }
    write(&journal, &[("a", None)]).await;
    write(&journal, &[("a", Some("1"))]).await;
    seen.push(get(&journal, "a").await.unwrap().revision);
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "no revision is used twice, also after a deletion");
}

pub(super) async fn expectations_guard_a_record(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let swap = |revision: Option<u64>, value: &str| Batch {
        records: vec![RecordWrite { key: "a".into(), value: Some(value.to_owned().into()) }],
        expect: vec![Expect { key: "a".into(), revision }],
        ..Batch::default()
    };
    journal.append(swap(None, "1")).await.unwrap();
    let first = get(&journal, "a").await.unwrap();
    assert!(matches!(journal.append(swap(None, "2")).await, Err(AppendError::Conflict(_))));
    journal.append(swap(Some(first.revision), "2")).await.unwrap();
    assert!(matches!(journal.append(swap(Some(first.revision), "3")).await, Err(AppendError::Conflict(_))));
    assert_eq!(get(&journal, "a").await.unwrap().value, "2");
    write(&journal, &[("a", None)]).await;
    journal.append(swap(None, "4")).await.unwrap();

    // If several writers try at once, one succeeds per round.
    write(&journal, &[("count", Some("0"))]).await;
    on_threads(4, |_| {
        let journal = journal.clone();
        async move {
            let mut won = 0;
            while won < 25 {
                let record = get(&journal, "count").await.unwrap();
                let next = std::str::from_utf8(&record.value).unwrap().parse::<u32>().unwrap() + 1;
                let records = vec![RecordWrite { key: "count".into(), value: Some(next.to_string().into()) }];
                let expect = vec![Expect { key: "count".into(), revision: Some(record.revision) }];
                won += u32::from(journal.append(Batch { records, expect, ..Batch::default() }).await.is_ok());
            }
        }
    })
    .await;
    assert_eq!(get(&journal, "count").await.unwrap().value, "100");
}

pub(super) async fn large_records_are_like_small_ones(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let mut revision = None;
    for (letter, size) in [("a", 150), ("b", 150), ("c", 1), ("d", 300), ("e", 70)] {
        let value = letter.repeat(size << 10);
        let records = vec![RecordWrite { key: "large".into(), value: Some(value.clone().into()) }];
        let expect = vec![Expect { key: "large".into(), revision }];
        journal.append(Batch { records, expect, ..Batch::default() }).await.unwrap();
        let record = get(&journal, "large").await.unwrap();
        assert!(record.value == value, "{size} KiB of `{letter}`");
        revision = Some(record.revision);
        assert_eq!((journal.stats().records, journal.stats().record_bytes), (1, 5 + value.len() as u64));
    }
    // The last write of a batch counts.
    let [many, few] = ["m".repeat(200 << 10), "f".to_owned()];
    write(&journal, &[("x", Some(&many)), ("x", Some(&few)), ("y", Some(&few)), ("y", Some(&many)), ("large", None)])
        .await;
    assert!(get(&journal, "x").await.unwrap().value == few && get(&journal, "y").await.unwrap().value == many);
    assert_eq!(get(&journal, "large").await, None);
}

pub(super) async fn keys_are_scanned_in_order_and_pages(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    write(&journal, &["job/3", "job/1", "jobs", "job/2", "joa", "job"].map(|key| (key, Some("x")))).await;
    assert_eq!(keys(&journal, "job/", None, 10).await, ["job/1", "job/2", "job/3"]);
    assert_eq!(keys(&journal, "job/", None, 2).await, ["job/1", "job/2"]);
    assert_eq!(keys(&journal, "job/", Some("job/2"), 2).await, ["job/3"]);
    assert_eq!(keys(&journal, "job/", Some("job/3"), 2).await, [""; 0]);
    assert_eq!(keys(&journal, "job/", Some("job/15"), 2).await, ["job/2", "job/3"], "the key need not exist");
    assert_eq!(keys(&journal, "job/", Some("a"), 1).await, ["job/1"], "a key before the prefix");
    assert_eq!(keys(&journal, "job/", Some("z"), 1).await, [""; 0], "a key after the prefix");
    assert_eq!(keys(&journal, "", None, 10).await, ["joa", "job", "job/1", "job/2", "job/3", "jobs"]);
}

pub(super) async fn records_are_counted(open: impl Fn(Config) -> Shared) {
    let journal = open(Config::default());
    let figures = || (journal.stats().records, journal.stats().record_bytes);
    write(&journal, &[("a", Some("123")), ("bb", Some(""))]).await;
    let (records, bytes) = figures();
    assert!(records == 2 && bytes >= 6);
    write(&journal, &[("a", Some("12345")), ("a", Some("1"))]).await;
    assert_eq!(figures(), (2, bytes - 2), "overwritten values do not count");
    write(&journal, &[("a", None), ("bb", None)]).await;
    assert_eq!(figures(), (0, 0));
}
