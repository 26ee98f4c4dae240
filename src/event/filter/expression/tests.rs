//! Tests of expressions: their meaning, their cost, and that no text does harm.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::Meta;

fn meta() -> Meta {
    let all =
        json!({ "level": 4, "score": 2.5, "premium": true, "lang": "pt-BR", "gone": null, "big": u64::MAX, "a.b": 1 });
    serde_json::from_value(all).unwrap()
}

fn asked(source: &str, user: Option<&str>, groups: &[&str]) -> Result<bool, Undecided> {
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let expression = Expression::new(source).unwrap_or_else(|refused| panic!("{source}: {refused}"));
    expression.evaluate(&Subscriber { meta: &meta(), user, groups: &groups, emitter_id: "user_42_x" })
}

fn refused(source: &str) -> String {
    Expression::new(source).expect_err(source).to_string()
}

#[test]
fn an_expression_has_metadata_user_groups_and_the_emitters_id() {
    for yes in [
        "metadata.level > 3 && \"ops\" in groups",
        "metadata.level == 4.0 && metadata.score < 3 && metadata.score > 2u",
        "metadata[\"a.b\"] == 1",
        "metadata.big > 0",
        "metadata.gone == null",
        "has(metadata.level) && !has(metadata.absent)",
        "\"level\" in metadata && size(metadata) == 7",
        "user == '42' && emitterId.startsWith('user_')",
        "groups.exists(g, g.endsWith('s')) && groups.size() == 2 && groups[0] == 'ops'",
        "groups.all(g, size(g) < 10) && groups.exists_one(g, g == \"dev\")",
        "user in ['1', '42'] && [1, 2, 4].exists(n, n == metadata.level)",
        "(metadata.premium ? metadata.lang : 'x') + '!' == 'pt-BR!'",
        "string(metadata.level) == '4' && int('4') == metadata.level && metadata.level % 3 == 1",
        "metadata.absent == 1 || true",
        "true",
    ] {
        assert_eq!(asked(yes, Some("42"), &["ops", "dev"]), Ok(true), "{yes}");
    }
    for no in [
        "metadata.level > 4",
        "\"sre\" in groups",
        "user == null",
        "metadata.absent == 1 && false",
        "metadata.level == '4'",
    ] {
        assert_eq!(asked(no, Some("42"), &["ops"]), Ok(false), "{no}");
    }
    assert_eq!(asked("user == null && size(groups) == 0", None, &[]), Ok(true));
}

#[test]
fn a_failed_evaluation_is_undecided() {
    for wrong in [
        "metadata.absent > 3",
        "metadata.lang > 3",
        "metadata.level",
        "metadata.level && true",
        "user.size() > 1",
        "groups[7] == 'x'",
        "metadata.level / 0 == 1",
        "9223372036854775807 + metadata.level > 0",
        "-metadata.big < 0",
        "int(metadata.lang) == 1",
        "metadata.level.deeper == 1",
        "groups.all(g, metadata.absent)",
    ] {
        assert_eq!(asked(wrong, None, &["ops"]), Err(Undecided), "{wrong}");
    }
}

#[test]
fn an_error_names_the_column_and_the_reason() {
    for (source, expected) in [
        ("metadata.level >", "line 1, column 17"),
        ("metadata.level = 3", "column 16"),
        ("", "line 1, column 1"),
        ("user == 'x' && foo == 1", "column 16: `foo` is not known; variables are"),
        ("user == 'x' && user.matches('(a+)+')", "column 21: `matches` is not a function here"),
        ("timestamp('x') == 1", "column 1: `timestamp` is not a function"),
        ("{'a': 1} == {'a': 1}", "maps and messages"),
        ("Message{a: 1} == 1", "maps and messages"),
        ("groups.map(g, g) == []", "`map` and `filter` make lists"),
        ("groups.exists(a, groups.exists(b, a == b))", "loop"),
        ("[1].exists(a, [2].exists(b, a == b))", "a loop cannot be inside"),
        ("metadata.exists(k, k == 'x')", "a loop needs `groups`"),
        ("metadata == metadata", "`metadata` can be used before a key"),
        ("[groups, groups] == []", "`groups` can be used after `in`"),
        ("b'x' == b'x'", "bytes"),
        ("user.?x == 1", "column 5"),
        (".user == 'x'", "`.user` is not known"),
    ] {
        let message = refused(source);
        assert!(message.contains(expected), "{source}: {message}");
    }
}

#[test]
fn costly_expressions_are_rejected() {
    let list = |length: usize| format!("user in [{}]", vec!["1"; length].join(","));
    assert!(Expression::new(&list(300)).is_ok());
    assert!(refused(&list(600)).contains("bytes"));
    let each = |length: usize| format!("groups.exists(g, {})", vec!["g == 'a'"; length].join("||"));
    assert!(Expression::new(&each(2)).is_ok());
    assert!(refused(&each(30)).contains("costs"), "{}", refused(&each(30)));
    let sums = vec!["metadata.a + user == user"; 20].join("||");
    assert!(refused(&sums).contains("costs"));
    assert!(refused(&format!("{}1{} == 1", "(1+".repeat(40), ")".repeat(40))).contains("nested brackets"));
    assert!(refused(&"true?".repeat(20)).contains("`?`"));
    assert!(refused(&format!("{}1 == 1", "1+".repeat(100))).contains("operators inside of one another"));
}

/// The longest and deepest texts, on a quarter of the stack of a thread.
#[test]
fn no_text_is_too_deep_for_the_stack() {
    let patterns = [
        "(", "[", "{", "!-", "-", "1+", "a.", "a?a:", "a?", "f(", "a.f(", "a[", "a in ", "[[", "{a:", "a.f().", "!(",
        "a&&!", "-(a?", "a{b:",
    ];
    let small = std::thread::Builder::new().stack_size(512 << 10);
    let all = small.spawn(move || {
        for pattern in patterns {
            for end in ["", "1", "a", ")]}"] {
                let text = pattern.repeat(MAX_BYTES / pattern.len());
                let _ = Expression::new(&format!("{}{end}", &text[..text.len() - end.len()]));
            }
        }
    });
    all.unwrap().join().unwrap();
}

/// The deepest accepted expression is evaluated on half of the stack of a thread.
#[test]
fn no_expression_is_too_deep_for_the_stack() {
    let shapes = [
        ("!-", "1"),
        ("-!", "true"),
        ("1+", "1"),
        ("true?true:", "true"),
        ("size(", "'a'"),
        ("[", "1"),
        ("!(user==", "user"),
    ];
    let half = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for (shape, end) in shapes {
            let close = shape.matches(['(', '[']).map(|open| if open == "(" { ")" } else { "]" }).collect::<String>();
            let text = |times: usize| format!("{}{end}{}", shape.repeat(times), close.repeat(times));
            let accepted: Vec<Expression> = (0..100).filter_map(|times| Expression::new(&text(times)).ok()).collect();
            assert!((6..=18).contains(&accepted.len()), "{shape}: {}", accepted.len());
            let (meta, user) = (meta(), Some("42"));
            for expression in accepted {
                let _ = expression.evaluate(&Subscriber { meta: &meta, user, groups: &[], emitter_id: "e" });
            }
        }
    });
    half.unwrap().join().unwrap();
}

/// Texts that are almost expressions.
fn texts() -> impl Strategy<Value = String> {
    let words = [
        "metadata",
        "user",
        "groups",
        "emitterId",
        "level",
        "lang",
        ".",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "\"",
        "'",
        "'a'",
        "1",
        "2.5",
        "7u",
        "-",
        "!",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        ">=",
        "+",
        "*",
        "/",
        "%",
        "?",
        ":",
        ",",
        " in ",
        "has",
        "size",
        "all",
        "exists",
        "exists_one",
        "map",
        "g,",
        "g",
        "\\",
        "r'",
        "b'",
        "//",
        "\n",
        "null",
        "true",
        "9223372036854775807",
        "0x",
        "1e309",
        "é",
        "\u{0}",
        "int",
        "string",
        ".contains(",
        ".startsWith(",
    ];
    prop_oneof![
        proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat()),
        ".{0,80}",
        "(metadata\\.(level|score|lang|gone|x)|user|groups\\[[0-9]\\]|[0-9]{1,20}|'a'|null)( (\\+|-|\\*|/|%|<|==|in|&&|\\|\\|) (metadata\\.(level|score|lang|big)|user|groups|[0-9]{1,20}|'a'|true)){0,6}",
    ]
}

proptest! {
    #[test]
    fn any_text_is_rejected_or_evaluated(source in texts(), groups in proptest::collection::vec("[a-z]{0,3}", 0..4), user in proptest::option::of("[a-z0-9]{0,3}")) {
        if let Ok(expression) = Expression::new(&source) {
            for meta in [meta(), Meta(BTreeMap::new())] {
                let subscriber = Subscriber { meta: &meta, user: user.as_deref(), groups: &groups, emitter_id: "e" };
                let first = expression.evaluate(&subscriber);
                prop_assert_eq!(expression.evaluate(&subscriber), first);
                prop_assert!(expression.weight(&subscriber) <= super::super::refused::MAX_STEPS / cost::STEPS_PER_OFFER + 8);
            }
        }
    }
}
