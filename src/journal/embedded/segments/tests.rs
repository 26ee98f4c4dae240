//! Tests of the log on a disk that fails and loses power.

mod crash;
mod damage;
mod disk;
mod faults;
mod format;

use self::disk::TestDisk;
use super::*;
use crate::journal::log::TopicSet;
use std::collections::BTreeMap;

use bytes::Bytes;

/// The content of a log: the events by offset, and the records by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    events: BTreeMap<u64, Stored>,
    records: BTreeMap<String, (u64, Stored)>,
}

/// A log in use, and what it has acknowledged.
struct Opened {
    log: Segments,
    content: Content,
    draft: Draft,
}

impl Visit for Content {
    fn item(&mut self, item: &Item<'_>, stored: Stored, _: &JournalState, _: &JournalState) {
        match item {
            Item::Event { offset, .. } => drop(self.events.insert(*offset, stored)),
            Item::Record { key, revision, .. } => {
                self.records.insert((*key).to_owned(), (*revision, stored));
            }
            Item::DeletedRecord { key, .. } => drop(self.records.remove(*key)),
            Item::Topic { .. } | Item::RemovedTopic { .. } => {}
        }
    }
}

const EPOCH: u64 = 7;

fn options(always: bool, boot: u128) -> Options {
    Options { segment_bytes: 16 << 10, always, boot }
}

fn open(disk: &Arc<TestDisk>, options: Options) -> Result<Opened, StoreError> {
    let mut content = Content::default();
    let new_epoch = EPOCH + u64::try_from(options.boot).unwrap();
    let log = Segments::open(disk.clone(), options, new_epoch, &mut content)?;
    Ok(Opened { log, content, draft: Draft::default() })
}

impl Opened {
    /// Appends an event with this body. Returns its offset.
    fn append(&mut self, body: &[u8]) -> Result<u64, StoreError> {
        let mut state = self.log.state();
        let offset = state.get(Field::Head) + 1;
        state.set(Field::Head, offset);
        self.draft.begin(state, true);
        let body = self.draft.body(body);
        self.draft.add(&event(offset, body));
        let location = self.log.commit(&self.draft)?;
        self.content.events.insert(offset, location.of(Some(body)));
        Ok(offset)
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let mut state = self.log.state();
        let revision = state.get(Field::Revision) + 1;
        state.set(Field::Revision, revision);
        self.draft.begin(state, true);
        let body = self.draft.body(value);
        self.draft.add(&Item::Record { key, revision, body });
        let location = self.log.commit(&self.draft)?;
        self.content.records.insert(key.to_owned(), (revision, location.of(Some(body))));
        Ok(())
    }

    /// Moves the live items of the oldest segment, and removes it. Events before `keep` are not live.
    fn clean(&mut self, keep: u64) -> Result<(), StoreError> {
        let (oldest, active) = self.log.numbers();
        if oldest == active {
            return Ok(());
        }
        self.content.events.retain(|offset, _| *offset >= keep);
        let live = self.content.events.iter().filter(|(_, stored)| stored.segment == oldest);
        let live: Vec<_> = live.map(|(offset, stored)| (*offset, *stored)).collect();
        for (offset, stored) in live {
            let bytes = self.log.files().read(stored)?;
            self.draft.begin(self.log.state(), true);
            let body = self.draft.body(&bytes);
            self.draft.add(&event(offset, body));
            let location = self.log.commit(&self.draft)?;
            self.content.events.insert(offset, location.of(Some(body)));
        }
        let records = self.content.records.iter().filter(|(_, (_, stored))| stored.segment == oldest);
        let records: Vec<_> = records.map(|(key, record)| (key.clone(), *record)).collect();
        for (key, (revision, stored)) in records {
            let bytes = self.log.files().read(stored)?;
            self.draft.begin(self.log.state(), true);
            let body = self.draft.body(&bytes);
            self.draft.add(&Item::Record { key: &key, revision, body });
            let location = self.log.commit(&self.draft)?;
            self.content.records.insert(key, (revision, location.of(Some(body))));
        }
        self.log.sync()?;
        self.log.remove_oldest()
    }

    /// Continues after a failed sync.
    fn recover(&mut self) -> Result<(), StoreError> {
        let copied = self.log.recover()?;
        let records = self.content.records.values_mut().map(|(_, stored)| stored);
        for stored in self.content.events.values_mut().chain(records) {
            if let Some(moved) = copied.iter().find_map(|copied| copied.moved(*stored)) {
                *stored = moved;
            }
        }
        Ok(())
    }

    fn body(&self, offset: u64) -> Bytes {
        self.log.files().read(self.content.events[&offset]).unwrap()
    }

    /// The content with the bytes of all bodies.
    fn bytes(&self) -> (BTreeMap<u64, Bytes>, BTreeMap<String, Bytes>) {
        let read = |stored| self.log.files().read(stored).unwrap();
        let events = self.content.events.iter().map(|(offset, stored)| (*offset, read(*stored)));
        let records = self.content.records.iter().map(|(key, (_, stored))| (key.clone(), read(*stored)));
        (events.collect(), records.collect())
    }
}

fn event(offset: u64, body: Body) -> Item<'static> {
    Item::Event { offset, size: body.length, topics: TopicSet::of(&[1]), extra: None, body }
}

/// A body that differs for each number.
fn text(number: u64, length: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(length).collect()
}

#[test]
fn a_log_returns_its_content_after_it_was_opened_again() {
    let disk = TestDisk::new();
    let mut log = open(&disk, options(false, 1)).unwrap();
    for number in 1..=100 {
        assert_eq!(log.append(&text(number, 500)).unwrap(), number);
    }
    log.put("job/1", b"spec").unwrap();
    assert!(log.log.numbers().1 > 3, "there are several segments");
    let (content, bytes) = (log.content.clone(), log.bytes());
    log.log.close().unwrap();
    let mut log = open(&disk, options(false, 1)).unwrap();
    assert_eq!((&log.content, log.log.epoch(), log.log.commit_number()), (&content, EPOCH + 1, 101));
    assert_eq!(log.bytes(), bytes);
    assert_eq!(log.append(b"next").unwrap(), 101);
    assert_eq!(&log.body(101)[..], b"next");
}

#[test]
fn a_frame_larger_than_a_segment_has_its_own() {
    let disk = TestDisk::new();
    let mut log = open(&disk, options(true, 1)).unwrap();
    log.append(b"small").unwrap();
    let large = text(9, 100_000);
    log.append(&large).unwrap();
    log.append(b"small").unwrap();
    drop(log);
    let log = open(&disk, options(true, 1)).unwrap();
    assert_eq!(&log.body(2)[..], &large);
    assert_eq!(log.content.events.len(), 3);
}

#[test]
fn a_removed_segment_leaves_its_moved_items() {
    let disk = TestDisk::new();
    let mut log = open(&disk, options(false, 1)).unwrap();
    log.put("kept", b"value").unwrap();
    for number in 1..=100 {
        log.append(&text(number, 500)).unwrap();
    }
    let before = log.log.numbers().0;
    log.clean(20).unwrap();
    assert_eq!(log.log.numbers().0, before + 1);
    log.append(b"next").unwrap();
    let bytes = log.bytes();
    drop(log);
    let log = open(&disk, options(false, 1)).unwrap();
    let (events, records) = log.bytes();
    let kept: BTreeMap<_, _> = events.into_iter().filter(|(offset, _)| *offset >= 20).collect();
    assert_eq!((kept, records), bytes);
}

#[test]
fn a_segment_without_reserved_space_grows() {
    let disk = TestDisk::new();
    disk.refuse_reservations();
    let mut log = open(&disk, options(false, 1)).unwrap();
    for number in 1..=100 {
        log.append(&text(number, 500)).unwrap();
    }
    drop(log);
    assert_eq!(open(&disk, options(false, 1)).unwrap().content.events.len(), 100);
}

/// A replica gets its offsets from another log, and records how far it has applied that log.
#[test]
fn offsets_with_gaps_are_restored_with_the_applied_sequence_number() {
    let disk = TestDisk::new();
    let mut log = open(&disk, options(true, 1)).unwrap();
    for (offset, applied) in [(10, 3), (11, 4), (1 << 40, 900)] {
        let mut state = log.log.state();
        state.set(Field::Head, offset);
        state.set(Field::Applied, applied);
        log.draft.begin(state, true);
        let body = log.draft.body(b"replicated");
        log.draft.add(&event(offset, body));
        log.log.commit(&log.draft).unwrap();
    }
    drop(log);
    let log = open(&disk, options(true, 1)).unwrap();
    assert_eq!(log.content.events.keys().copied().collect::<Vec<_>>(), [10, 11, 1 << 40]);
    assert_eq!((log.log.state().get(Field::Head), log.log.state().get(Field::Applied)), (1 << 40, 900));
}

#[test]
fn a_copy_of_the_data_counts_only_if_it_was_completed() {
    let disk = TestDisk::new();
    let mut log = open(&disk, options(true, 1)).unwrap();
    log.append(b"first").unwrap();
    log.put("key", b"value").unwrap();
    let (content, oldest) = (log.content.clone(), log.log.numbers().0);
    drop(log);
    // The copy has one record, in a segment behind the others.
    let header =
        Header { number: 9, generation: 1, epoch: 5, first_commit: 1, chain: 77, state: JournalState::default() };
    let mut draft = Draft::default();
    draft.begin(header.state, true);
    let body = draft.body(b"copied");
    draft.add(&Item::Record { key: "key", revision: 8, body });
    let mut frame = Vec::new();
    draft.encode(&header.state, 1, header.chain, &mut frame);
    open::create(&*disk, &header, &frame, 4096, true).unwrap();
    let incomplete = disk.copy();
    let log = open(&incomplete, options(true, 1)).unwrap();
    assert_eq!((&log.content, log.log.numbers()), (&content, (oldest, oldest)));
    drop(log);
    assert!(!incomplete.names().contains(&name_of(9)), "it is removed");

    let (mut file, high_water_mark) = HighWaterMarkFile::open(&*disk).unwrap();
    file.write(HighWaterMark { oldest: 9, acknowledged: 1, synced: 1, ..high_water_mark.unwrap() }).unwrap();
    let log = open(&disk, options(true, 1)).unwrap();
    assert_eq!((log.content.events.len(), log.content.records["key"].0, log.log.epoch()), (0, 8, 5));
    assert_eq!(disk.names(), [name_of(9), "MARK".into()]);
}
