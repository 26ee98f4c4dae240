//! Tests of the scanner against another parser, and of typed values.

use proptest::prelude::*;
use serde::Deserialize;

use super::{scan::What, *};

#[path = "../../tests/support/spelled.rs"]
mod spelling;

pub(crate) use self::spelling::spelled;

fn fault(text: &str) -> What {
    compact(text).expect_err(text).what
}

#[test]
fn only_white_space_between_tokens_is_removed() {
    for same in [
        "1.10",
        "1E5",
        "1e+5",
        "-0",
        "-0.0",
        "1e400",
        "0.10000000000000000555",
        "123456789012345678901234567890",
        r#""\u00e9\/\n \ud83d\ude00""#,
        r#"{"b":1,"a":2,"b":3}"#,
        "[]",
        "{}",
        "[[],{}]",
        "null",
        "true",
        "false",
        r#""a  b""#,
    ] {
        assert_eq!(compact(same).map(|text| matches!(text, Cow::Borrowed(text) if text == same)), Ok(true), "{same}");
    }
    let spaced = " {\r\n\t\"a b\" : [ 1.10 , \" \\\" \" , { } ] }\n";
    assert_eq!(compact(spaced).unwrap(), r#"{"a b":[1.10," \" ",{}]}"#);
}

#[test]
fn text_that_is_not_json_is_rejected() {
    for (text, what) in [
        ("", What::End),
        (" ", What::End),
        ("[1,", What::End),
        ("\"a", What::End),
        ("[1,]", What::Expected("a value")),
        ("[1 2]", What::Expected("`,` or `]`")),
        ("{1:2}", What::Expected("a name in quotes or `}`")),
        ("{\"a\" 1}", What::Expected("`:`")),
        ("{\"a\":1,}", What::Expected("a name in quotes")),
        ("[1}", What::Expected("`,` or `]`")),
        ("01", What::Trailing),
        ("1 2", What::Trailing),
        ("]", What::Expected("a value")),
        ("+1", What::Expected("a value")),
        (".5", What::Expected("a value")),
        ("1.", What::Expected("a digit")),
        ("1e", What::Expected("a digit")),
        ("-", What::Expected("a digit")),
        ("NaN", What::Expected("a value")),
        ("nul", What::Expected("a value")),
        ("trueish", What::Trailing),
        ("\"\t\"", What::Control),
        (r#""\x""#, What::Escape),
        (r#""\u12g4""#, What::Escape),
        (r#""\u12"#, What::Escape),
        ("\u{feff}1", What::Expected("a value")),
    ] {
        assert_eq!(fault(text), what, "{text}");
    }
    assert_eq!(compact("{\n  \"tasks\": [,]\n}").unwrap_err().to_string(), "expected a value at line 2 column 13");
}

#[test]
fn half_a_surrogate_pair_is_rejected() {
    for half in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\n""#, r#""\ud800\ud800""#, r#"{"\udfff":1}"#, r#""\uD83D x""#]
    {
        assert_eq!(fault(half), What::Surrogate, "{half}");
    }
}

#[test]
fn nesting_is_limited_and_levels_are_distinguished() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(compact(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(fault(&nested(MAX_DEPTH + 1)), What::Deep(MAX_DEPTH));
    let mixed: String = (0..600).map(|level| if level % 3 == 0 { "[" } else { "{\"a\":" }).collect();
    let close: String = (0..600).rev().map(|level| if level % 3 == 0 { "]" } else { "}" }).collect();
    assert!(scan::compact(&format!("{mixed}1{close}"), 600).is_ok());
    assert!(scan::compact(&format!("{mixed}1{}", close.replacen('}', "]", 1)), 600).is_err());
}

#[test]
fn lines_are_read_one_by_one() {
    let mut scanner = Scanner::new(MAX_DEPTH);
    for line in ["{", "  \"result\": {", "    \"a\": [1,", "2]", "  }"] {
        assert!(scanner.push(line.as_bytes()).is_ok() && !scanner.done(), "{line}");
    }
    assert!(scanner.push(b"}").is_ok() && scanner.done());
    assert!(scanner.push(b"{").is_err());
}

#[test]
fn pretty_json_has_a_line_for_each_item() {
    let text = r#"{"a":1.10,"b":[1E5,"x,{\"y"],"c":{},"d":[],"e":[[null]]}"#;
    let laid_out = pretty(text);
    assert_eq!(compact(&laid_out).unwrap(), text);
    assert_eq!(
        laid_out,
        "{\n  \"a\": 1.10,\n  \"b\": [\n    1E5,\n    \"x,{\\\"y\"\n  ],\n  \"c\": {},\n  \"d\": [],\n  \"e\": [\n    [\n      null\n    ]\n  ]\n}"
    );
}

#[derive(Debug, PartialEq, Deserialize)]
struct Outer {
    inner: Vec<Inner>,
    any: Option<Inner>,
    raw: Option<Json>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Inner {
    n: u8,
}

#[test]
fn an_array_is_not_accepted_as_an_object_at_any_depth() {
    let read = |text: &str| from_slice::<Outer>(text.as_bytes());
    let good = read(r#"{"inner":[{"n":1}],"any":{"n":2},"raw":[ [1.10] ]}"#).unwrap();
    assert_eq!((good.inner[0].n, good.any.unwrap().n, good.raw.unwrap().get()), (1, 2, "[[1.10]]"));
    for (text, found) in [
        (r#"[[{"n":1}],null,null]"#, "an array"),
        (r#"{"inner":[[1]]}"#, "an array"),
        (r#"{"inner":[],"any":[1]}"#, "an array"),
        (r#"{"inner":["x"]}"#, "string \"x\""),
        (r#"{"inner":[5]}"#, "integer `5`"),
        ("null", "null"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("invalid type: {found}, expected an object")), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn any_json_keeps_its_text((spaced, plain) in spelled()) {
        prop_assert_eq!(compact(&spaced).unwrap(), plain.as_str());
        let laid_out = pretty(&plain);
        prop_assert_eq!(compact(&laid_out).unwrap(), plain.as_str());
    }

    /// Both accept and reject the same texts, except numbers out of range.
    #[test]
    fn the_scanner_agrees_with_serde(text in r#"[\[\]{},:"\\u0d8e1.\-tr \n]{0,24}"#) {
        let theirs = serde_json::from_str::<Value>(&text);
        prop_assume!(!theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range")));
        prop_assert_eq!(compact(&text).is_ok(), theirs.is_ok(), "{} {:?}", text, compact(&text));
    }
}
