//! The format on the disk.

use super::{
    super::{
        disk::Directory,
        frame::{HEADER_BYTES, Header},
    },
    *,
};

const FIELDS: [Field; 11] = [
    Field::Head,
    Field::LastTimestamp,
    Field::Swept,
    Field::LastTopic,
    Field::Revision,
    Field::TrimmedThrough,
    Field::DeletedThrough,
    Field::DeletedTimestamp,
    Field::ForgottenThrough,
    Field::PinnedForgottenThrough,
    Field::Applied,
];

/// All values, different from each other. Some of them are smaller than those of another `first`.
fn state(first: u64) -> JournalState {
    let mut state = JournalState::default();
    for (distance, field) in (0..).zip(FIELDS) {
        state.set(field, (first + distance) % 7 * 1_000_000_007);
    }
    state
}

/// A frame of all kinds of items.
fn frame(draft: &mut Draft) -> Vec<Item<'static>> {
    draft.begin(state(3), true);
    let large = draft.body(&text(1, 5000));
    let mut items = vec![Item::Event {
        offset: 400,
        size: 77,
        topics: TopicSet::of(&[1, 300]),
        extra: Some(Box::new(Extra { age: 90, expires: Some(1 << 40), key: Some((u128::MAX, 5)) })),
        body: large,
    }];
    items.push(Item::Record { key: "job/1", revision: 9, body: draft.body(b"") });
    items.push(Item::Topic { id: 300, name: "orders", trimmed_through: 12 });
    items.push(Item::RemovedTopic { id: 1 });
    items.push(Item::DeletedRecord { key: "job/2", revision: 10 });
    items.iter().for_each(|item| draft.add(item));
    items
}

#[test]
fn a_frame_is_read_as_it_was_written() {
    let (mut draft, mut bytes) = (Draft::default(), Vec::new());
    let items = frame(&mut draft);
    let (chain, bodies_at) = draft.encode(&state(1), 41, 7, &mut bytes);
    assert!(bytes.len() <= draft.max_length() && bytes.len() % 8 == 0);
    bytes.extend_from_slice(b"the next frame");
    let read = Frame::decode(&bytes, 40, 7, &state(1)).unwrap();
    assert_eq!((read.commit, read.chain, read.bodies_at), (41, chain, bodies_at));
    assert_eq!((read.state, &read.items), (state(3), &items));
    assert_eq!(&bytes[bodies_at..bodies_at + 5000], text(1, 5000));
}

#[test]
fn a_frame_is_valid_only_behind_the_frame_that_it_was_written_after() {
    let (mut draft, mut bytes) = (Draft::default(), Vec::new());
    frame(&mut draft);
    let (_, bodies_at) = draft.encode(&state(1), 41, 7, &mut bytes);
    for (commit, chain) in [(39, 7), (41, 7), (40, 8)] {
        assert!(Frame::decode(&bytes, commit, chain, &state(1)).is_none());
    }
    for cut in [0, 31, 32, bodies_at, bytes.len() - 1] {
        assert!(Frame::decode(&bytes[..cut], 40, 7, &state(1)).is_none(), "cut at {cut}");
    }
    let alone = |bytes: &[u8]| Frame::decode_alone(bytes, &state(1)).map(|frame| frame.commit);
    assert_eq!(alone(&bytes), Some(41));
    bytes[bodies_at + 9] ^= 1;
    let damaged = Frame::decode(&bytes, 40, 7, &state(1)).unwrap();
    assert_eq!(damaged.damaged_bodies().map(|(_, begins)| begins).collect::<Vec<_>>(), [bodies_at]);
    bytes[bodies_at - 9] ^= 1;
    assert_eq!(alone(&bytes), None);
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let header = Header { number: 1, generation: 2, epoch: 3, first_commit: 4, chain: 5, state: state(2) };
    let mut bytes = header.encode();
    assert_eq!((bytes.len(), Header::decode(&bytes)), (HEADER_BYTES, Some(header)));
    bytes[100] ^= 1;
    assert_eq!(Header::decode(&bytes), None);
}

#[test]
fn a_log_in_a_directory_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = |boot| {
        let disk = Arc::new(Directory::at(dir.path()));
        let mut content = Content::default();
        let log = Segments::open(disk, options(true, boot), EPOCH, &mut content).unwrap();
        Opened { log, content, draft: Draft::default() }
    };
    let mut log = open(1);
    for number in 1..=60 {
        log.append(&text(number, 500)).unwrap();
    }
    log.clean(1).unwrap();
    let bytes = log.bytes();
    let (oldest, active) = log.log.numbers();
    drop(log);
    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
    let mut sizes: Vec<_> =
        files.map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len())).collect();
    sizes.sort_unstable();
    let segments = (oldest..=active).map(|number| (name_of(number), 16 << 10));
    assert_eq!(sizes, segments.chain([("MARK".into(), 576)]).collect::<Vec<_>>());
    let mut log = open(2);
    assert_eq!((log.bytes(), log.log.epoch()), (bytes, EPOCH));
    log.append(b"next").unwrap();
    log.log.close().unwrap();
    assert_eq!(&open(2).body(61)[..], b"next");
}
