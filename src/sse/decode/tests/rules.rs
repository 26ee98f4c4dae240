//! The rules of the standard (WHATWG HTML, 9.2.5 and 9.2.6) as a table. Each row is tested with all cuts.

use super::{Seen, decode, event, message};

type Row = (&'static [u8], Vec<Seen>);

fn comment(text: &str) -> Seen {
    Seen::Comment(text.into())
}

fn id(id: &str) -> Seen {
    Seen::Id(id.into())
}

fn hold(rows: &[Row]) {
    for (input, want) in rows {
        let shown = String::from_utf8_lossy(input);
        for first in 0..=input.len() {
            let (left, right) = input.split_at(first);
            assert_eq!(&decode(&[left, right]), want, "{shown:?} cut at {first}");
            // An empty chunk changes nothing.
            assert_eq!(&decode(&[left, b"", right]), want, "{shown:?} cut at {first} with an empty chunk between");
        }
        let bytewise: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(&decode(&bytewise), want, "{shown:?} byte by byte");
        let pairs: Vec<&[u8]> = input.chunks(2).collect();
        assert_eq!(&decode(&pairs), want, "{shown:?} two by two");
    }
}

#[test]
fn lines_end_with_lf_crlf_or_cr() {
    let two = || vec![message("a", ""), message("b", "")];
    hold(&[
        (b"data: a\n\n", vec![message("a", "")]),
        (b"data: a\r\n\r\n", vec![message("a", "")]),
        (b"data: a\r\r", vec![message("a", "")]),
        (b"data: a\r\rdata: b\r\r", two()),
        (b"data: a\r\n\ndata: b\n\r\n", two()),
        (b"data: a\n\rdata: b\n\r", two()),
        (b"data: a\r\n\rdata: b\r\r\n", two()),
        (b"data: a\rdata: b\ndata: c\r\ndata: d\r\r\n", vec![message("a\nb\nc\nd", "")]),
        (b"\r\n\r\r\n\n\ndata: a\n\n\n\n\n", vec![message("a", "")]),
        // Other line separators of Unicode are not line breaks.
        (
            "data: a\u{b}b\u{c}c\u{85}d\u{2028}e\u{2029}f\n\n".as_bytes(),
            vec![message("a\u{b}b\u{c}c\u{85}d\u{2028}e\u{2029}f", "")],
        ),
    ]);
}

#[test]
fn a_line_is_a_field_a_comment_or_nothing() {
    hold(&[
        (b"data:a\ndata: b\ndata:  c\n\n", vec![message("a\nb\n c", "")]),
        (b"data:\ta\ndata: \tb\n\n", vec![message("\ta\n\tb", "")]),
        (b"data:a:b: c\ndata::\n\n", vec![message("a:b: c\n:", "")]),
        (b"data: a \n\n", vec![message("a ", "")]),
        (b"data\n\ndata\ndata\n\ndata:", vec![message("", ""), message("\n", "")]),
        (b"data:\n\ndata: \n\ndata:  \n\n", vec![message("", ""), message("", ""), message(" ", "")]),
        (b"data: a\ndata\ndata:\n\n", vec![message("a\n\n", "")]),
        (b"foo: bar\nDATA: x\nData: x\n data: y\ndata : z\n\tdata: x\ndat: a\ndataa: b\n\n", vec![]),
        (b"\0data: a\ndata\0: b\n\n", vec![]),
        (b"data: a\nevent\0: x\n\n", vec![message("a", "")]),
        (b": c\n:d\n:\n:  e\n\n", vec![comment("c"), comment("d"), comment(""), comment(" e")]),
        (b"data: a\n: c\ndata: b\n\n", vec![comment("c"), message("a\nb", "")]),
        (b":data: a\n\n", vec![comment("data: a")]),
        (b" \n\n", vec![]),
    ]);
}

#[test]
fn an_event_needs_data_and_a_blank_line() {
    hold(&[
        (b"", vec![]),
        (b"\n", vec![]),
        (b"data: a\n", vec![]),
        (b"data: a\r\n", vec![]),
        (b"data: a", vec![]),
        (b"data: a\n\ndata: b\n", vec![message("a", "")]),
        (b"event: x\n\ndata: a\n\n", vec![message("a", "")]),
        (b"event: x\nretry\n: c\n\n", vec![comment("c")]),
        (b"data: a\nid: 1", vec![]),
        (b"data: a\nid: 1\n", vec![]),
        (b": c", vec![]),
        (b"retry: 5", vec![]),
    ]);
}

#[test]
fn the_name_is_the_last_one_and_message_without_one() {
    hold(&[
        (b"event: x\ndata: a\n\ndata: b\n\n", vec![event("x", "a", ""), message("b", "")]),
        (b"event: x\nevent: y\ndata: a\n\n", vec![event("y", "a", "")]),
        (b"event: x\nevent\ndata: a\n\n", vec![message("a", "")]),
        (b"event: x\nevent:\ndata: a\n\n", vec![message("a", "")]),
        (b"event:  x \ndata: a\n\n", vec![event(" x ", "a", "")]),
        (b"data: a\nevent: x\n\n", vec![event("x", "a", "")]),
        (b"event: a\0b\ndata: a\n\n", vec![event("a\0b", "a", "")]),
    ]);
}

#[test]
fn ids_are_sticky_and_set_by_the_blank_line() {
    hold(&[
        (b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", vec![message("a", "1"), message("b", "1"), message("c", "")]),
        (b"id: 1\n\ndata: a\n\n", vec![id("1"), message("a", "1")]),
        (b"id: 1\nevent: x\n\n\n", vec![id("1")]),
        (b"id: 1\ndata: a\n\nid:\n\ndata: b\n\n", vec![message("a", "1"), id(""), message("b", "")]),
        (b"id: 1\nid: 2\ndata: a\n\n", vec![message("a", "2")]),
        (b"data: a\nid: 1\n\n", vec![message("a", "1")]),
        (b"id:  1 \ndata: a\n\n", vec![message("a", " 1 ")]),
        (b"id: a\0b\ndata: a\n\n", vec![message("a", "")]),
        (b"id: 1\nid: \0\ndata: a\n\n", vec![message("a", "1")]),
        (b"id: 1\ndata: a\n\nid: \0\n\ndata: b\n\n", vec![message("a", "1"), message("b", "1")]),
        // An id applies only after its blank line.
        (b"id: 1\ndata: a\n\nid: 2\ndata: b\n", vec![message("a", "1")]),
    ]);
}

#[test]
fn a_reconnection_time_is_digits_and_nothing_else() {
    let retry = |ms| vec![Seen::Retry(ms)];
    hold(&[
        (b"retry: 10\n", retry(10)),
        (b"retry:10\n\n", retry(10)),
        (b"retry: 0\n", retry(0)),
        (b"retry: 007\n", retry(7)),
        (b"retry: 18446744073709551615\n", retry(u64::MAX)),
        // A number that overflows `u64` is still valid and becomes the maximum.
        (b"retry: 18446744073709551616\n", retry(u64::MAX)),
        (b"retry: 99999999999999999999999\n", retry(u64::MAX)),
        (b"retry: 000000000000000000000000000005\n", retry(5)),
        (b"retry: 1x\nretry:\nretry\nretry: -1\nretry: +1\nretry: 1.5\nretry:  1\nretry: 1 \nretry: 0x1\n", vec![]),
        ("retry: \u{661}\nretry: \u{ff11}\n".as_bytes(), vec![]),
        (b"retry: 1\nretry: 2\ndata: a\n\n", vec![Seen::Retry(1), Seen::Retry(2), message("a", "")]),
        (b"RETRY: 1\n", vec![]),
    ]);
}

#[test]
fn one_byte_order_mark_is_skipped_at_the_beginning() {
    let bom = "\u{feff}";
    hold(&[
        (b"\xEF\xBB\xBFdata: a\n\n\xEF\xBB\xBFdata: b\n\n", vec![message("a", "")]),
        (b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\ndata: b\n\n", vec![message("b", "")]),
        (b"\xEF\xBB\xBF", vec![]),
        (b"\xEF\xBB\xBF\n\ndata: a\n\n", vec![message("a", "")]),
        (b"\xEF\xBB\xBF: c\n", vec![comment("c")]),
        (b"\n\xEF\xBB\xBFdata: a\n\n", vec![]),
        (b"\xEF\xBBdata: a\n\n", vec![]),
        (b"\xFE\xFFdata: a\n\n", vec![]),
        (b"data: \xEF\xBB\xBFa\n\n", vec![message(&format!("{bom}a"), "")]),
        (b"id: \xEF\xBB\xBF\ndata: a\n\n", vec![message("a", bom)]),
    ]);
}

#[test]
fn invalid_utf_8_is_replaced() {
    hold(&[
        ("data: é€😀\n\n".as_bytes(), vec![message("é€😀", "")]),
        (b"data: \xff\xc3\xa9\xf0\x9f\n\n", vec![message("\u{fffd}é\u{fffd}", "")]),
        (b"data: \xf0\x9f\x98\n\n", vec![message("\u{fffd}", "")]),
        // Overlong, a surrogate, beyond the last character, a single continuation byte.
        (
            b"data: \xc0\x80|\xed\xa0\x80|\xf4\x90\x80\x80|\x80\n\n",
            vec![message("\u{fffd}\u{fffd}|\u{fffd}\u{fffd}\u{fffd}|\u{fffd}\u{fffd}\u{fffd}\u{fffd}|\u{fffd}", "")],
        ),
        (b"event: \xff\nid: \xfe\ndata: a\n\n", vec![event("\u{fffd}", "a", "\u{fffd}")]),
        (b": \xff\n", vec![comment("\u{fffd}")]),
        (b"\xffdata: a\n\n", vec![]),
        (b"data\xff: a\n\n", vec![]),
        (b"data: a\0b\n\n", vec![message("a\0b", "")]),
        // An incomplete character at a line break does not remove the line break.
        (b"data: \xc3\ndata: \xa9\n\n", vec![message("\u{fffd}\n\u{fffd}", "")]),
    ]);
}
