//! Finds the places in a stream of bytes where a comment changes no event for any parser; pure.
//!
//! A comment may follow only the end of a line, and must not add a blank line, which would dispatch an incomplete event.
//! Three special cases: an LF after a CR belongs to it, even if a comment came between them; a byte order mark counts only
//! as the first bytes; a comment before the first byte takes that place from it.

use bytes::{Buf, Bytes};

/// Follows one stream, and inserts comments.
#[derive(Debug, Default)]
pub struct Weaver {
    start: Start,
    /// The last byte of the stream that was sent.
    last: Option<u8>,
    /// A comment follows a CR, with an LF before it. An LF that comes now was sent already.
    swallow: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Start {
    /// Nothing was sent.
    #[default]
    Untouched,
    /// A comment was sent first, so a byte order mark must be removed. This number of its bytes is held back.
    Led { held: usize },
    /// The first bytes were sent.
    Over,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

// === impl Weaver ===

impl Weaver {
    /// The bytes to send for the bytes that have come; may be empty.
    pub fn weave(&mut self, mut bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        if let Start::Led { held } = self.start {
            let same =
                bytes.iter().zip(&BYTE_ORDER_MARK[held..]).take_while(|(byte, expected)| byte == expected).count();
            if held + same < BYTE_ORDER_MARK.len() && same == bytes.len() {
                self.start = Start::Led { held: held + same };
                return Bytes::new();
            }
            if held + same == BYTE_ORDER_MARK.len() {
                bytes.advance(same);
            } else if held > 0 {
                bytes = BYTE_ORDER_MARK[..held].iter().copied().chain(bytes).collect();
            }
        }
        self.start = Start::Over;
        if !bytes.is_empty() && std::mem::take(&mut self.swallow) && bytes[0] == b'\n' {
            bytes.advance(1);
        }
        self.last = bytes.last().copied().or(self.last);
        bytes
    }

    /// A comment, if one is possible here.
    pub fn heartbeat(&mut self) -> Option<Bytes> {
        match (self.start, self.last) {
            (Start::Led { held: 1.. }, _) => None,
            (Start::Untouched, _) => {
                self.start = Start::Led { held: 0 };
                Some(Bytes::from_static(b":\n"))
            }
            (_, None | Some(b'\n')) => Some(Bytes::from_static(b":\n")),
            (_, Some(b'\r')) => {
                self.swallow = true;
                self.last = Some(b'\n');
                Some(Bytes::from_static(b"\n:\n"))
            }
            _ => None,
        }
    }

    /// The bytes that are held back, at the end of the stream.
    pub fn rest(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.start, Start::Over) {
            Start::Led { held: held @ 1.. } => Some(Bytes::from_static(&BYTE_ORDER_MARK[..held])),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sse::{Decoder, Item, Limits};

    /// The bytes without the comments that were added.
    fn read(chunks: &[Bytes]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut decoder = Decoder::new(Limits::default());
        for chunk in chunks {
            let each = |item: Item<'_>| {
                if item != Item::Comment("") {
                    seen.push(format!("{item:?}"));
                }
            };
            decoder.push(chunk, each).expect("it is small");
        }
        seen
    }

    /// Adds a heartbeat wherever one is due and allowed; returns the bytes that were sent, and the number of heartbeats.
    fn woven(chunks: &[(Bytes, bool)]) -> (Vec<Bytes>, usize) {
        let (mut weaver, mut sent, mut beats) = (Weaver::default(), Vec::new(), 0);
        for (chunk, beat) in chunks {
            if *beat && let Some(comment) = weaver.heartbeat() {
                sent.push(comment);
                beats += 1;
            }
            sent.push(weaver.weave(chunk.clone()));
        }
        sent.extend(weaver.rest());
        (sent, beats)
    }

    fn text(chunks: &[&str]) -> Vec<(Bytes, bool)> {
        chunks.iter().map(|chunk| (Bytes::copy_from_slice(chunk.as_bytes()), true)).collect()
    }

    #[test]
    fn without_heartbeats_the_bytes_are_the_same() {
        let mut weaver = Weaver::default();
        let stream = b"\xEF\xBB\xBFdata: a\r\rid\r\n\n:\n";
        let sent: Vec<u8> = stream.iter().flat_map(|byte| weaver.weave(Bytes::copy_from_slice(&[*byte]))).collect();
        assert_eq!((sent.as_slice(), weaver.rest()), (&stream[..], None));
    }

    #[test]
    fn a_comment_is_between_lines_and_never_inside_one() {
        let (sent, beats) = woven(&text(&["data", ": a\n", "data: b\n", "\n"]));
        assert_eq!(sent.concat(), b":\ndata: a\n:\ndata: b\n:\n\n");
        assert_eq!(beats, 3);
    }

    #[test]
    fn the_other_half_of_a_line_end_goes_with_the_comment() {
        assert_eq!(woven(&text(&["a\r", "\nb\r", "c"])).0.concat(), b":\na\r\n:\nb\r\n:\nc");
        let (sent, _) = woven(&text(&["data: a\r", "\n", "\r", "\n"]));
        assert_eq!(sent.concat(), b":\ndata: a\r\n:\n:\n\r\n:\n");
    }

    #[test]
    fn a_byte_order_mark_behind_a_comment_is_removed() {
        let chunks: Vec<(Bytes, bool)> =
            [&b"\xEF"[..], b"\xBB", b"\xBFdata: a\n\n"].map(|chunk| (Bytes::from_static(chunk), true)).into();
        assert_eq!(woven(&chunks).0.concat(), b":\ndata: a\n\n");
        let broken = [(Bytes::from_static(b"\xEF"), true), (Bytes::from_static(b"\xBBx\n"), true)];
        assert_eq!(woven(&broken).0.concat(), b":\n\xEF\xBBx\n");
        assert_eq!(woven(&broken[..1]).0.concat(), b":\n\xEF");
    }

    /// Pieces of which streams are made, so that the corners are met often.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let pieces: &[&[u8]] = &[
            b"\r",
            b"\n",
            b"\r\n",
            b"\xEF\xBB\xBF",
            b"\xEF",
            b"\xBB",
            b"data: ",
            b"data",
            b"id: 7",
            b"event: e",
            b"retry: 5",
            b": c",
            b":",
            b" ",
            b"x",
            b"\0",
            b"\xFF",
        ];
        prop::sample::select(pieces).prop_map(<[u8]>::to_vec)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// Any stream, cut anywhere, with comments asked for anywhere: the same events, ids, retries and comments.
        #[test]
        fn no_client_notices_a_heartbeat(
            pieces in prop::collection::vec(piece(), 0..24),
            cuts in prop::collection::vec((1_usize..6, any::<bool>()), 0..80),
        ) {
            let stream = Bytes::from(pieces.concat());
            let (mut chunks, mut rest) = (Vec::new(), stream.clone());
            for (length, beat) in cuts {
                chunks.push((rest.split_to(length.min(rest.len())), beat));
            }
            chunks.push((rest, true));
            let (sent, _) = woven(&chunks);
            prop_assert_eq!(read(&sent), read(&[stream]));
        }
    }
}
