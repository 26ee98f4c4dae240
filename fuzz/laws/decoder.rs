//! The parser of event streams.
//!
//! An input is a stream. The bytes after its last byte `0xFE`, which no text contains, are the lengths of the stream's chunks,
//! one byte each, repeated. Without that byte the whole input is the stream. Therefore a corpus file is mostly text that can
//! be read and written with an editor.

/// The stream of an input, and the lengths of its chunks.
pub use super::halves as parts;
use crate::sse::{DecodeError, Decoder, Frame, Item, Limits};

/// An item of a decoded stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An event, and whether its frame has the id.
    Event { event: String, data: String, id: String, own_id: bool },
    /// An id without an event.
    Id(String),
    /// A comment.
    Comment(String),
    /// A reconnection time.
    Retry(u64),
}

/// The result of one decoder for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// All items.
    pub seen: Vec<Seen>,
    /// The end of the decoding.
    pub end: Result<(), DecodeError>,
    /// The id that a reconnect would send.
    pub last_id: String,
}

/// Limits that small inputs exceed.
pub const TIGHT: Limits = Limits { line: 40, event: 24 };

/// Checks the law. Panics with the property that does not hold.
pub fn check(input: &[u8]) {
    let (stream, cuts) = parts(input);
    let whole = decode([stream], Limits::default());
    assert_eq!(whole.end, Ok(()), "the default limits are far above these inputs");
    cuts_change_nothing(stream, cuts, Limits::default(), &whole);
    assert_eq!(whole.seen, by_the_book(stream), "the standard says otherwise");
    another_decoder_agrees(stream, cuts);
    what_was_decoded_can_be_encoded(&whole.seen);
    limits_hold(stream, cuts, &whole);
}

/// Decodes a stream in these chunks.
pub fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> Outcome {
    let mut decoder = Decoder::new(limits);
    let (mut seen, mut end) = (Vec::new(), Ok(()));
    for chunk in chunks {
        end = decoder.push(chunk, |item| seen.push(own(&item)));
        if end.is_err() {
            break;
        }
    }
    Outcome { seen, end, last_id: decoder.last_event_id().to_owned() }
}

fn own(item: &Item<'_>) -> Seen {
    match *item {
        Item::Event { event, data, id, own_id } => {
            Seen::Event { event: event.into(), data: data.into(), id: id.into(), own_id }
        }
        Item::Id(id) => Seen::Id(id.into()),
        Item::Comment(text) => Seen::Comment(text.into()),
        Item::Retry(ms) => Seen::Retry(ms),
    }
}

/// The stream in pieces of these lengths, which are repeated.
fn pieces<'a>(stream: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let (mut rest, mut lengths) = (stream, lengths.iter().cycle());
    // Lengths of zero give empty chunks, but a stream needs other lengths too.
    let mut empty = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut length = lengths.next().map_or(rest.len(), |length| usize::from(*length).min(rest.len()));
        empty = if length == 0 { empty + 1 } else { 0 };
        if empty > 3 {
            length = 1;
        }
        let (piece, left) = rest.split_at(length);
        rest = left;
        Some(piece)
    })
}

fn cuts_change_nothing(stream: &[u8], cuts: &[u8], limits: Limits, whole: &Outcome) {
    for lengths in [&[1][..], &[2], &[3], &[7, 1], cuts] {
        let cut = decode(pieces(stream, lengths), limits);
        assert_eq!(&cut, whole, "in pieces of {lengths:?}");
    }
}

/// No item is larger than the limits permit. Items before an exceeded limit do not change.
fn limits_hold(stream: &[u8], cuts: &[u8], whole: &Outcome) {
    let tight = decode([stream], TIGHT);
    cuts_change_nothing(stream, cuts, TIGHT, &tight);
    assert_eq!(tight.seen[..], whole.seen[..tight.seen.len()], "a limit changes what comes before it");
    match tight.end {
        Ok(()) => assert_eq!(&tight, whole),
        Err(error) => {
            assert!(matches!(error, DecodeError::LineTooLong(40) | DecodeError::EventTooLarge(24)), "{error:?}");
        }
    }
    // A byte that is not text becomes a character of three bytes.
    let field = TIGHT.line * 3;
    for seen in &tight.seen {
        match seen {
            Seen::Event { event, data, id, .. } => {
                assert!(data.len() <= TIGHT.event && event.len() <= field && id.len() <= field, "{seen:?}");
            }
            Seen::Id(text) | Seen::Comment(text) => assert!(text.len() <= field, "{seen:?}"),
            Seen::Retry(_) => {}
        }
    }
}

/// Each item, encoded as a separate frame, decodes to the same item.
fn what_was_decoded_can_be_encoded(seen: &[Seen]) {
    let none = Frame::default();
    let frames = seen.iter().map(|seen| match seen {
        Seen::Event { event, data, id, own_id } => {
            Frame { event, data: Some(data), id: own_id.then_some(id), ..none }.encode()
        }
        Seen::Id(id) => Frame { id: Some(id), ..none }.encode(),
        Seen::Comment(text) => Frame { comment: Some(text), ..none }.encode(),
        Seen::Retry(ms) => Frame { retry: Some(*ms), ..none }.encode(),
    });
    let bytes: Vec<u8> = frames.flat_map(|frame| frame.frame().to_vec()).collect();
    assert_eq!(decode([&bytes[..]], Limits::default()).seen, seen, "{}", String::from_utf8_lossy(&bytes));
}

/// After every chunk another decoder has returned the same items, so each event also arrives with the same chunk.
fn another_decoder_agrees(stream: &[u8], cuts: &[u8]) {
    for lengths in [&[1][..], cuts] {
        let (mut decoder, mut other) = (Decoder::new(Limits::default()), sse_core::SseDecoder::new());
        for piece in pieces(stream, lengths) {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            decoder.push(piece, |item| ours.push(own(&item))).expect("within the limits");
            let mut rest = piece;
            while let Some(item) = other.next(&mut rest) {
                theirs.push(match item.expect("within its limits") {
                    sse_core::SseEvent::Message(message) => (
                        Some((message.event.clone().into(), message.data.clone())),
                        message.last_event_id.as_deref().unwrap_or_default().to_owned(),
                    ),
                    sse_core::SseEvent::Retry(ms) => (None, ms.to_string()),
                });
            }
            // The other decoder does not return comments and ids, and its reconnection times have 32 bits.
            let comparable = ours.into_iter().filter_map(|seen| match seen {
                Seen::Event { event, data, id, .. } => Some((Some((event, data)), id)),
                Seen::Retry(ms) => (ms <= u32::MAX.into()).then(|| (None, ms.to_string())),
                Seen::Id(_) | Seen::Comment(_) => None,
            });
            assert_eq!(comparable.collect::<Vec<_>>(), theirs, "in pieces of {lengths:?}");
        }
    }
}

/// The text of the standard as a program: decode as UTF-8, divide into lines, interpret them. Slow, and for whole streams only.
fn by_the_book(stream: &[u8]) -> Vec<Seen> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    // A CR ends a line. An LF after it belongs to the same line end.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    let (mut seen, mut last_id) = (Vec::new(), String::new());
    let (mut data, mut event, mut id) = (String::new(), String::new(), None);
    for line in lines {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            _ if line.is_empty() => {
                let own_id = id.is_some();
                if let Some(id) = id.take() {
                    last_id = id;
                }
                let event = std::mem::take(&mut event);
                let mut data = std::mem::take(&mut data);
                if data.pop().is_some() {
                    let event = if event.is_empty() { "message".to_owned() } else { event };
                    seen.push(Seen::Event { event, data, id: last_id.clone(), own_id });
                } else if own_id {
                    seen.push(Seen::Id(last_id.clone()));
                }
            }
            "" => seen.push(Seen::Comment(value.to_owned())),
            "event" => value.clone_into(&mut event),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                // Any number of digits is an integer.
                seen.push(Seen::Retry(value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }
    seen
}
