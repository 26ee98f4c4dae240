//! The rules of the WHATWG standard for event streams (HTML, section 9.2), from an upstream's bytes to a topic: each case
//! whole, one byte at a time, and cut in two at every place.

use std::io::Write;

use serde_json::{Value, json};

use crate::{
    rig::{HEAD, Row, chunk, ended, finish, relay, relayed, rows, settings},
    support::{Node, upstream::Upstream},
};

/// A name, bytes, and the events that they stand for: name, data, id.
type Case = (&'static str, &'static [u8], &'static [(&'static str, &'static str, &'static str)]);

const CASES: &[Case] = &[
    ("lf", b"data: a\n\ndata: b\n\n", &[("message", "a", ""), ("message", "b", "")]),
    ("cr", b"data: a\r\rdata: b\r\r", &[("message", "a", ""), ("message", "b", "")]),
    ("crlf", b"data: a\r\n\r\ndata: b\r\n\r\n", &[("message", "a", ""), ("message", "b", "")]),
    (
        "mixed ends",
        b"data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\n\n",
        &[("message", "a\nb\nc", ""), ("message", "d", "")],
    ),
    ("bom", b"\xef\xbb\xbfdata: a\n\n", &[("message", "a", "")]),
    ("second bom", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", &[("message", "b", "")]),
    ("bom later", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", &[("message", "a", "")]),
    ("no space", b"data:a\nevent:e\nid:7\n\n", &[("e", "a", "7")]),
    ("one space goes", b"data:  a\n\n", &[("message", " a", "")]),
    ("tab stays", b"data:\ta\n\n", &[("message", "\ta", "")]),
    ("lines", b"data: a\ndata:\ndata: b\n\n", &[("message", "a\n\nb", "")]),
    (
        "empty data",
        b"data\n\ndata:\n\ndata\ndata\n\n",
        &[("message", "", ""), ("message", "", ""), ("message", "\n", "")],
    ),
    ("no data", b"event: e\n\ndata: a\n\n", &[("message", "a", "")]),
    ("name once", b"event: x\nevent: y\ndata: a\n\ndata: b\n\n", &[("y", "a", ""), ("message", "b", "")]),
    ("empty name", b"event: x\nevent:\ndata: a\n\n", &[("message", "a", "")]),
    (
        "sticky id",
        b"id: 1\ndata: a\n\ndata: b\n\nid: 2\ndata: c\n\n",
        &[("message", "a", "1"), ("message", "b", "1"), ("message", "c", "2")],
    ),
    (
        "id goes",
        b"id: 1\ndata: a\n\nid\ndata: b\n\nid: 2\ndata: c\n\nid:\ndata: d\n\n",
        &[("message", "a", "1"), ("message", "b", ""), ("message", "c", "2"), ("message", "d", "")],
    ),
    ("nul in id", b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n", &[("message", "a", "1"), ("message", "b", "1")]),
    ("id alone", b"id: 9\n\ndata: a\n\n", &[("message", "a", "9")]),
    ("comments", b": hello\n:\ndata: a\n: between\ndata: b\n\n", &[("message", "a\nb", "")]),
    ("unknown", b"foo: bar\nDATA: x\n data: y\ndata : z\ndata: a\n\n", &[("message", "a", "")]),
    ("retry", b"retry: 50\nretry: 1x\nretry:\nretry: -1\ndata: a\n\n", &[("message", "a", "")]),
    ("no blank line", b"data: a\n\ndata: b\n", &[("message", "a", "")]),
    ("no line end", b"data: a\n\ndata: b", &[("message", "a", "")]),
    ("blank lines", b"\n\r\n\rdata: a\n\n\n\n", &[("message", "a", "")]),
    ("colons", b"data: a: b\ndata:: c\n\n", &[("message", "a: b\n: c", "")]),
    ("signs", "data: grüße 世界 🦀\nevent: ü\nid: é\n\n".as_bytes(), &[("ü", "grüße 世界 🦀", "é")]),
    ("broken signs", b"data: a\xffb\xe2\x82c\xf0\x9f\n\n", &[("message", "a\u{fffd}b\u{fffd}c\u{fffd}", "")]),
    ("nul in data", b"data: a\0b\n\n", &[("message", "a\0b", "")]),
    (
        "names of frames",
        b"event: heartbeat\ndata: a\n\nevent: relay_end\ndata: b\n\nevent: gap\ndata: c\n\n",
        &[("remote.heartbeat", "a", ""), ("remote.relay_end", "b", ""), ("remote.gap", "c", "")],
    ),
];

/// Most sources of one relay.
const AT_ONCE: usize = 256;

/// The pieces in which a case is sent.
fn pieces(bytes: &[u8], manner: &str) -> Vec<Vec<u8>> {
    match manner {
        "whole" => vec![bytes.to_vec()],
        "bytes" => bytes.iter().map(|byte| vec![*byte]).collect(),
        at => {
            let (first, second) = bytes.split_at(at.parse().expect("a place"));
            vec![first.to_vec(), second.to_vec()]
        }
    }
}

/// Each chunk of a chunked body comes out of the client by itself, whatever the network makes of the packets.
#[test]
fn streams_are_parsed_by_the_standard_in_any_pieces() {
    let upstream = Upstream::start(|request, socket| {
        let mut parts = request.path.trim_start_matches('/').split('/');
        let case: usize = parts.next().and_then(|case| case.parse().ok()).expect("a case");
        let _ = socket.write_all(HEAD.as_bytes());
        for piece in pieces(CASES[case].1, parts.next().expect("a manner")) {
            chunk(socket, piece);
        }
        finish(socket);
    });
    let node = Node::start(&settings(upstream.addr));
    let mut sources: Vec<(usize, String)> = Vec::new();
    for (case, (_, bytes, _)) in CASES.iter().enumerate() {
        let cuts = (1..bytes.len()).map(|at| at.to_string());
        sources.extend(["whole".to_owned(), "bytes".to_owned()].into_iter().chain(cuts).map(|manner| (case, manner)));
    }
    let relays: Vec<_> = sources
        .chunks(AT_ONCE)
        .map(|part| {
            let source = |(case, manner): &(usize, String)| json!({ "path": format!("/{case}/{manner}"), "label": format!("{case}/{manner}") });
            let sources: Vec<Value> = part.iter().map(source).collect();
            (relay(&node, &json!({ "sources": sources })), part)
        })
        .collect();
    for (id, part) in relays {
        assert_eq!(ended(&node, &id), "completed");
        let rows = rows(&node, &format!("relay:{id}"));
        for (case, manner) in part {
            let label = format!("{case}/{manner}");
            let own: Vec<Value> = rows.iter().filter(|row| row["source"] == label).cloned().collect();
            let expected: Vec<Row> = CASES[*case]
                .2
                .iter()
                .map(|(event, data, id)| ((*event).into(), (*data).into(), (*id).into()))
                .collect();
            assert_eq!(relayed(&own), expected, "case `{}`, cut at {manner}", CASES[*case].0);
        }
    }
}
