//! Lines with spans around them, in both forms.

use serde_json::{Value, json};
use tracing::{dispatcher::with_default, error_span, field::Empty, info, warn};

use crate::telemetry::{Captured, Format};

/// The lines that `write` causes under this filter.
fn lines(filter: &str, form: Format, colours: bool, write: impl FnOnce()) -> String {
    let (captured, dispatch) = Captured::start(filter, form, colours);
    with_default(&dispatch, write);
    captured.text()
}

/// Without the time, which is at the beginning.
fn text(write: impl FnOnce()) -> String {
    let lines = lines("info", Format::Text, false, write);
    lines.lines().map(|line| line.split_once(' ').expect("a time").1).collect::<Vec<_>>().join("\n")
}

fn json_line(write: impl FnOnce()) -> Value {
    serde_json::from_str(&lines("info", Format::Json, true, write)).expect("one line of JSON")
}

#[test]
fn a_line_of_text_names_its_spans_and_their_fields() {
    let line = text(|| {
        let _outer = error_span!("outer", id = "4bf9", count = 7, gone = None::<&str>).entered();
        let _inner = error_span!("inner").entered();
        info!(target: "here", user = "ada", n = 1, "it happened");
    });
    assert_eq!(line, r#" INFO outer{id=4bf9 count=7}:inner: here: it happened user="ada" n=1"#);
    assert_eq!(text(|| warn!(target: "here", "no span")), " WARN here: no span");
}

#[test]
fn a_line_of_json_has_its_spans_as_objects() {
    let line = json_line(|| {
        let _outer = error_span!("outer", id = "a \"b\" ü\n", count = 7, shown = %1.5).entered();
        let _inner = error_span!("inner").entered();
        info!(user = "ada", "it happened");
    });
    assert_eq!(line["fields"], json!({ "message": "it happened", "user": "ada" }));
    let outer = json!({ "name": "outer", "id": "a \"b\" ü\n", "count": 7, "shown": "1.5" });
    assert_eq!(line["spans"], json!([outer, { "name": "inner" }]));
    assert_eq!(line["span"], json!({ "name": "inner" }));
}

#[test]
fn fields_that_are_recorded_later_are_added() {
    let write = || {
        let span = error_span!("late", first = 1, second = Empty, third = Empty);
        span.record("second", "2").record("third", 3);
        span.in_scope(|| info!(target: "here", "it happened"));
    };
    assert_eq!(text(write), " INFO late{first=1 second=2 third=3}: here: it happened");
    assert_eq!(json_line(write)["span"], json!({ "name": "late", "first": 1, "second": "2", "third": 3 }));
}

/// Clients choose paths and ids: no value may look like another field or line, or move the cursor of a terminal.
#[test]
fn unusual_values_are_escaped() {
    for (value, shown) in [
        ("", r#""""#),
        ("a b", r#""a b""#),
        ("a}: x", r#""a}: x""#),
        ("a\nb", r#""a\nb""#),
        ("\x1b[2J", r#""\u{1b}[2J""#),
        ("\u{9b}2J", r#""\u{9b}2J""#),
        ("a\"b", r#""a\"b""#),
    ] {
        let line = text(|| error_span!("span", value).in_scope(|| info!(target: "here", "x")));
        assert_eq!(line, format!(" INFO span{{value={shown}}}: here: x"));
        let line = json_line(|| error_span!("span", value).in_scope(|| info!("x")));
        assert_eq!(line["span"]["value"], value);
    }
}

#[test]
fn colours_are_for_terminals() {
    let write = || error_span!("span", id = 7).in_scope(|| warn!(target: "here", "x"));
    let line = lines("info", Format::Text, true, write);
    let plain =
        "WARN\x1b[0m \x1b[1mspan\x1b[0m\x1b[1m{\x1b[0mid=7\x1b[1m}\x1b[0m\x1b[2m:\x1b[0m \x1b[2mhere:\x1b[0m x\n";
    assert!(line.starts_with("\x1b[2m") && line.ends_with(plain), "{line:?}");
    assert!(!lines("info", Format::Json, true, write).contains('\x1b'));
}

/// Warnings keep the span that shows where they belong.
#[test]
fn a_filter_drops_lines_and_keeps_spans() {
    let log = lines("warn", Format::Text, false, || {
        let _span = error_span!("span", id = 7).entered();
        info!("not this");
        warn!(target: "here", "this");
    });
    assert!(log.ends_with(" WARN span{id=7}: here: this\n") && log.lines().count() == 1, "{log}");
}
