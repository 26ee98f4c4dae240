//! Tests of the decoder: its limits, and properties. All cuts of a stream give equal items, another decoder agrees, and
//! encoded frames are decoded again. The rules of the standard are a table in `rules`.

use proptest::prelude::*;

use super::*;
use crate::sse::Frame;

mod rules;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Event(String, String, String),
    Comment(String),
    Id(String),
    Retry(u64),
}

fn event(name: &str, data: &str, id: &str) -> Seen {
    Seen::Event(name.into(), data.into(), id.into())
}

/// An event without a name.
fn message(data: &str, id: &str) -> Seen {
    event("message", data, id)
}

fn decode(chunks: &[&[u8]]) -> Vec<Seen> {
    let mut decoder = Decoder::new(Limits::default());
    let mut seen = Vec::new();
    for chunk in chunks {
        decoder
            .push(chunk, |item| {
                seen.push(match item {
                    Item::Event { event, data, id, .. } => self::event(event, data, id),
                    Item::Id(id) => Seen::Id(id.into()),
                    Item::Comment(text) => Seen::Comment(text.into()),
                    Item::Retry(ms) => Seen::Retry(ms),
                });
            })
            .unwrap();
    }
    seen
}

/// A client must not wait for the byte after CR to know that the event is complete.
#[test]
fn an_event_is_dispatched_as_soon_as_its_blank_line_is_certain() {
    assert_eq!(decode(&[b"data: a\r\r"]), [event("message", "a", "")]);
    assert_eq!(decode(&[b"data: a\r\n\r"]), [event("message", "a", "")]);
}

#[test]
fn lines_and_events_are_bounded() {
    let limits = Limits { line: 10, event: 6 };
    let push = |input: &[u8]| Decoder::new(limits).push(input, |_| {});
    assert_eq!(push(b"data: 1234\n"), Ok(()));
    assert_eq!(push(b"data: 12345\n"), Err(Error::LineTooLong(10)));
    assert_eq!(push(b"data: 12345"), Err(Error::LineTooLong(10)));
    assert_eq!(push(b"data: 123\ndata: 123\n"), Err(Error::EventTooLarge(6)));
    assert_eq!(push(b":123456789\nid: 123456\nevent: 123\n"), Ok(()));
    assert_eq!(push(b":1234567890\n"), Err(Error::LineTooLong(10)));
    // The line break between data lines counts, the last one does not.
    assert_eq!(push(b"data: 123\ndata: 12\n\n"), Ok(()));
    assert_eq!(push(&b"data\n".repeat(7)), Ok(()));
    assert_eq!(push(&b"data\n".repeat(8)), Err(Error::EventTooLarge(6)));
    // An invalid byte becomes a character of three bytes.
    assert_eq!(push(b"data:\xff\xff\n"), Ok(()));
    assert_eq!(push(b"data:\xff\xff\xff\n"), Err(Error::EventTooLarge(6)));
    // The limit applies to each event separately.
    assert_eq!(push(&b"data:12345\n\n".repeat(100)), Ok(()));
}

#[test]
fn items_before_an_exceeded_limit_are_returned() {
    let mut seen = 0;
    let mut decoder = Decoder::new(Limits { line: 10, event: 6 });
    let pushed = decoder.push(b"data: 1\n\ndata: 2\n\ndata: 345678\n\n", |_| seen += 1);
    assert_eq!((pushed, seen), (Err(Error::LineTooLong(10)), 2));
}

/// A large event must not hold its memory for the rest of the stream.
#[test]
fn buffers_that_grew_for_one_event_are_freed() {
    let mut decoder = Decoder::new(Limits { line: 1 << 20, event: 1 << 20 });
    for field in ["data", "event", "nonsense"] {
        let line = format!("{field}: {}\n", "x".repeat(1 << 19));
        for half in line.as_bytes().chunks(1 << 18) {
            decoder.push(half, |_| {}).unwrap();
        }
        decoder.push(b"\n", |_| {}).unwrap();
    }
    let kept = decoder.line.capacity() + decoder.data.capacity() + decoder.event.capacity();
    assert!(kept <= 3 * KEEP_CAPACITY, "{kept} bytes");
}

#[test]
fn the_last_event_id_is_known_with_the_blank_line() {
    let mut decoder = Decoder::new(Limits::default());
    let mut after = |bytes: &[u8]| {
        decoder.push(bytes, |_| {}).unwrap();
        decoder.last_event_id().to_owned()
    };
    assert_eq!(after(b"id: 1\ndata: a\n"), "");
    assert_eq!(after(b"\n"), "1");
    assert_eq!(after(b"data: b\n\nid: 2"), "1");
    assert_eq!(after(b"\n\r"), "2");
    assert_eq!(after(b"\nid\n\n"), "");
}

#[test]
fn own_id_is_true_for_a_block_with_an_id() {
    let mut own = Vec::new();
    let mut decoder = Decoder::new(Limits::default());
    let text = b"id: 1\ndata: a\n\ndata: b\n\nid: \0\ndata: c\n\nid\ndata: d\n\nid: 2\n\ndata: e\n\n";
    let each = |item: Item<'_>| {
        if let Item::Event { own_id, .. } = item {
            own.push(own_id);
        }
    };
    decoder.push(text, each).unwrap();
    assert_eq!(own, [true, false, false, true, false]);
}

/// Fields, line breaks and random bytes, so that most inputs have a meaning.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"data: ".to_vec()),
        Just(b"data:".to_vec()),
        Just(b"data".to_vec()),
        Just(b"id: ".to_vec()),
        Just(b"event: ".to_vec()),
        Just(b"event".to_vec()),
        Just(b"id".to_vec()),
        "retry: ?[0-9]{0,9}".prop_map(String::into_bytes),
        Just(b"\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b":".to_vec()),
        Just(b" ".to_vec()),
        Just("é😀".as_bytes().to_vec()),
        Just(b"\xEF\xBB\xBF".to_vec()),
        "[a-z0-9]{0,4}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..3),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0_usize..200, 0..6)
}

fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.min(&input.len())).collect();
    cuts.sort_unstable();
    cuts.push(input.len());
    let mut from = 0;
    cuts.into_iter().map(|cut| &input[std::mem::replace(&mut from, cut)..cut]).collect()
}

/// The items of another decoder.
fn oracle(chunks: &[&[u8]]) -> Vec<Seen> {
    let mut decoder = sse_core::SseDecoder::new();
    let mut seen = Vec::new();
    for chunk in chunks {
        let mut rest = *chunk;
        while let Some(item) = decoder.next(&mut rest) {
            seen.push(match item.unwrap() {
                sse_core::SseEvent::Message(m) => {
                    event(&m.event, &m.data, m.last_event_id.as_deref().unwrap_or_default())
                }
                sse_core::SseEvent::Retry(ms) => Seen::Retry(ms.into()),
            });
        }
    }
    seen
}

/// The items that the other decoder reports: it skips comments, and its retry hints end at 32 bits.
fn comparable(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.retain(|item| match item {
        Seen::Event(..) => true,
        Seen::Id(_) | Seen::Comment(_) => false,
        Seen::Retry(ms) => *ms <= u32::MAX.into(),
    });
    seen
}

/// Text with all kinds of line breaks, and with the beginnings of fields.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\n".to_owned()),
        Just("\r".to_owned()),
        Just("\r\n".to_owned()),
        Just("data: ".to_owned()),
        Just(" ".to_owned()),
        Just(":".to_owned()),
        Just("\u{FEFF}".to_owned()),
        Just("\0".to_owned()),
        "[a-zé😀]{0,5}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The text with the line breaks that a client gets.
fn with_lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

proptest! {
    #[test]
    fn all_cuts_give_equal_items(input in stream(), cuts in cuts()) {
        prop_assert_eq!(decode(&cut(&input, &cuts)), decode(&[&input]));
    }

    #[test]
    fn another_decoder_gives_equal_items(input in stream(), cuts in cuts()) {
        let chunks = cut(&input, &cuts);
        prop_assert_eq!(comparable(decode(&chunks)), oracle(&chunks));
    }

    /// Both dispatch at CR, so they agree after each byte and not only at the end.
    #[test]
    fn an_event_is_dispatched_with_its_last_byte(input in stream()) {
        for end in 0..=input.len() {
            let start = &[&input[..end]];
            prop_assert_eq!(comparable(decode(start)), oracle(start));
        }
    }

    #[test]
    fn encoded_frames_are_decoded(
        id in proptest::option::of("[^\r\n\0]{0,8}"),
        name in "[^\r\n]{0,8}",
        data in proptest::option::of(text()),
        retry in proptest::option::of(any::<u64>()),
        comment in proptest::option::of(text()),
        cuts in cuts(),
    ) {
        let frame = Frame { id: id.as_deref(), event: &name, data: data.as_deref(), retry, comment: comment.as_deref() };
        // The second frame shows that the first one leaves only its id behind.
        let bytes = [frame.encode().frame(), Frame { data: Some("next"), ..Frame::default() }.encode().frame()].concat();
        let has_id = id.is_some();
        let id = id.unwrap_or_default();
        let mut want = Vec::new();
        want.extend(comment.iter().flat_map(|text| with_lf(text).split('\n').map(|line| Seen::Comment(line.into())).collect::<Vec<_>>()));
        want.extend(retry.map(Seen::Retry));
        let named = if name.is_empty() { "message" } else { &name };
        match data {
            Some(data) => want.push(event(named, &with_lf(&data), &id)),
            None if has_id => want.push(Seen::Id(id.clone())),
            None => {}
        }
        want.push(event("message", "next", &id));
        prop_assert_eq!(decode(&cut(&bytes, &cuts)), want);
    }
}
