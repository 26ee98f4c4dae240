//! Tests of the log on a disk that fails and loses power.

mod crash;
mod damage;
mod disk;
mod faults;
mod format;

use self::disk::TestDisk;
use super::*;
use super::{
    frame::{Field, Item},
    open::Visit,
};
use std::collections::BTreeMap;

/// The content of a log: the events by offset, and the records by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    events: BTreeMap<u64, (Location, Body)>,
    records: BTreeMap<String, (u64, Location, Body)>,
}

/// A log in use, and what it has acknowledged.
struct Opened {
    log: Segments,
    content: Content,
    draft: Draft,
}

impl Visit for Content {
    fn item(&mut self, item: &Item<'_>, location: Location, before: &JournalState, after: &JournalState) {
        match item {
            Item::Event { offset, body, .. } => {
                let offset = before.get(Field::Head).checked_add_signed(*offset).unwrap();
                assert!(offset <= after.get(Field::Head), "the state include the event");
                self.events.insert(offset, (location, *body));
            }
            Item::Record { key, revision, body } => {
                self.records.insert((*key).to_owned(), (*revision, location, *body));
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
        self.draft.begin(state);
        let body = self.draft.body(body);
        self.draft.add(&event(1, body));
        let location = self.log.commit(&self.draft)?;
        self.content.events.insert(offset, (location, body));
        Ok(offset)
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let mut state = self.log.state();
        let revision = state.get(Field::Revision) + 1;
        state.set(Field::Revision, revision);
        self.draft.begin(state);
        let body = self.draft.body(value);
        self.draft.add(&Item::Record { key, revision, body });
        let location = self.log.commit(&self.draft)?;
        self.content.records.insert(key.to_owned(), (revision, location, body));
        Ok(())
    }

    /// Moves the live items of the oldest segment, and removes it. Events before `keep` are not live.
    fn clean(&mut self, keep: u64) -> Result<(), StoreError> {
        let (oldest, active) = self.log.numbers();
        if oldest == active {
            return Ok(());
        }
        self.content.events.retain(|offset, _| *offset >= keep);
        let in_oldest = |location: &Location| location.segment == oldest;
        let live: Vec<_> = self.content.events.iter().filter(|(_, (location, _))| in_oldest(location)).collect();
        let live: Vec<_> = live.into_iter().map(|(offset, (location, body))| (*offset, *location, *body)).collect();
        for (offset, location, body) in live {
            let bytes = self.log.files().read(location, body)?;
            let state = self.log.state();
            self.draft.begin(state);
            let body = self.draft.body(&bytes);
            self.draft.add(&event(offset.cast_signed() - state.get(Field::Head).cast_signed(), body));
            let location = self.log.commit(&self.draft)?;
            self.content.events.insert(offset, (location, body));
        }
        let records: Vec<_> = self.content.records.iter().filter(|(_, (_, location, _))| in_oldest(location)).collect();
        let records: Vec<_> = records.into_iter().map(|(key, record)| (key.clone(), *record)).collect();
        for (key, (revision, location, body)) in records {
            let bytes = self.log.files().read(location, body)?;
            self.draft.begin(self.log.state());
            let body = self.draft.body(&bytes);
            self.draft.add(&Item::Record { key: &key, revision, body });
            let location = self.log.commit(&self.draft)?;
            self.content.records.insert(key, (revision, location, body));
        }
        self.log.remove_oldest()
    }

    /// Continues after a failed sync.
    fn recover(&mut self) -> Result<(), StoreError> {
        let copied = self.log.recover()?;
        let events = self.content.events.values_mut().map(|(location, _)| location);
        for location in events.chain(self.content.records.values_mut().map(|(_, location, _)| location)) {
            if let Some(moved) = copied.iter().find_map(|copied| copied.moved(*location)) {
                *location = moved;
            }
        }
        Ok(())
    }

    fn body(&self, offset: u64) -> Bytes {
        let (location, body) = self.content.events[&offset];
        self.log.files().read(location, body).unwrap()
    }

    /// The content with the bytes of all bodies.
    fn bytes(&self) -> (BTreeMap<u64, Bytes>, BTreeMap<String, Bytes>) {
        let read = |location, body| self.log.files().read(location, body).unwrap();
        let events = self.content.events.iter().map(|(offset, (location, body))| (*offset, read(*location, *body)));
        let records =
            self.content.records.iter().map(|(key, (_, location, body))| (key.clone(), read(*location, *body)));
        (events.collect(), records.collect())
    }
}

fn event(offset: i64, body: Body) -> Item<'static> {
    Item::Event { offset, age: 0, size: body.length, topics: vec![1], expires: None, key: None, body }
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
