//! The rules of the standard as a table, each row at every cut; `sse-core` as the oracle for the rest.

use proptest::prelude::*;

use super::*;
use crate::sse::Frame;

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

#[test]
fn the_rules_of_the_standard_hold_at_every_cut() {
    let rules: &[(&[u8], Vec<Seen>)] = &[
        (b"data: a\n\n", vec![event("message", "a", "")]),
        (b"data: a\r\n\r\n", vec![event("message", "a", "")]),
        (b"data: a\r\rdata: b\r\r", vec![event("message", "a", ""), event("message", "b", "")]),
        (b"data: a\r\n\ndata: b\n\r\n", vec![event("message", "a", ""), event("message", "b", "")]),
        (b"data:a\ndata: b\ndata:  c\n\n", vec![event("message", "a\nb\n c", "")]),
        (b"data\n\ndata\ndata\n\ndata:", vec![event("message", "", ""), event("message", "\n", "")]),
        (b"\xEF\xBB\xBFdata: a\n\n\xEF\xBB\xBFdata: b\n\n", vec![event("message", "a", "")]),
        (
            b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
            vec![event("message", "a", "1"), event("message", "b", "1"), event("message", "c", "")],
        ),
        (b"id: 1\n\ndata: a\n\n", vec![event("message", "a", "1")]),
        (b"id: a\0b\ndata: a\n\n", vec![event("message", "a", "")]),
        (b"event: x\n\ndata: a\n\n", vec![event("message", "a", "")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", vec![event("x", "a", ""), event("message", "b", "")]),
        (b"retry: 10\nretry: 1x\nretry:\nretry: -1\nretry: 99999999999999999999999\n\n", vec![Seen::Retry(10)]),
        (b": c\n:d\n:\n\n", vec![Seen::Comment("c".into()), Seen::Comment("d".into()), Seen::Comment(String::new())]),
        (b"foo: bar\nDATA: x\n data: y\ndata : z\n\n", vec![]),
        (b"data: a\n", vec![]),
        (b"data: \xff\xc3\xa9\xf0\x9f\n\n", vec![event("message", "\u{fffd}é\u{fffd}", "")]),
        ("data: é€😀\n\n".as_bytes(), vec![event("message", "é€😀", "")]),
        (b"data: a\0b\n\n", vec![event("message", "a\0b", "")]),
    ];
    for (input, want) in rules {
        for cut in 0..=input.len() {
            let (left, right) = input.split_at(cut);
            assert_eq!(&decode(&[left, right]), want, "{:?} cut at {cut}", String::from_utf8_lossy(input));
        }
        let bytewise: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(&decode(&bytewise), want, "{:?} byte by byte", String::from_utf8_lossy(input));
    }
}

/// A client must not wait for the byte after CR to learn that the event is complete.
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
}

/// Fields, breaks and rubbish, so that most inputs mean something.
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

/// What another decoder of the format makes of it.
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

/// What the oracle can see: it keeps comments to itself, and its retry hints end at 32 bits.
fn comparable(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.retain(|item| match item {
        Seen::Event(..) => true,
        Seen::Id(_) | Seen::Comment(_) => false,
        Seen::Retry(ms) => *ms <= u32::MAX.into(),
    });
    seen
}

/// Text with every kind of line break, and with what other fields begin with.
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

/// The line breaks as a client gets them.
fn with_lf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

proptest! {
    #[test]
    fn every_cut_of_any_bytes_gives_the_same(input in stream(), cuts in cuts()) {
        prop_assert_eq!(decode(&cut(&input, &cuts)), decode(&[&input]));
    }

    #[test]
    fn another_decoder_sees_the_same(input in stream(), cuts in cuts()) {
        let chunks = cut(&input, &cuts);
        prop_assert_eq!(comparable(decode(&chunks)), oracle(&chunks));
    }

    /// Both dispatch with the CR already, so they agree after each byte and not only at the end.
    #[test]
    fn an_event_comes_with_the_byte_that_ends_it(input in stream()) {
        for end in 0..=input.len() {
            let start = &[&input[..end]];
            prop_assert_eq!(comparable(decode(start)), oracle(start));
        }
    }

    #[test]
    fn what_was_encoded_is_decoded(
        id in proptest::option::of("[^\r\n\0]{0,8}"),
        name in "[^\r\n]{0,8}",
        data in proptest::option::of(text()),
        retry in proptest::option::of(any::<u64>()),
        comment in proptest::option::of(text()),
        cuts in cuts(),
    ) {
        let frame = Frame { id: id.as_deref(), event: &name, data: data.as_deref(), retry, comment: comment.as_deref() };
        // A second frame shows that the first one leaves nothing behind but its id.
        let bytes = [frame.encode(), Frame { data: Some("next"), ..Frame::default() }.encode()].concat();
        let id = id.unwrap_or_default();
        let mut want = Vec::new();
        want.extend(comment.iter().flat_map(|text| with_lf(text).split('\n').map(|line| Seen::Comment(line.into())).collect::<Vec<_>>()));
        want.extend(retry.map(Seen::Retry));
        want.extend(data.map(|data| event(if name.is_empty() { "message" } else { &name }, &with_lf(&data), &id)));
        want.push(event("message", "next", &id));
        prop_assert_eq!(decode(&cut(&bytes, &cuts)), want);
    }
}
