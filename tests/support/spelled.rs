//! Random JSON in any spelling; the library's tests and the end-to-end tests share it.

use proptest::prelude::*;

/// JSON as clients write it, in any spelling, and the same text without white space.
pub(crate) fn spelled() -> impl Strategy<Value = (String, String)> {
    let number = "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,6})?";
    let string = prop_oneof![
        "[ -!#-\\[\\]-~é€😀]{0,12}",
        "(\\\\[\"\\\\/bfnrt]|\\\\u00[0-9a-fA-F]{2}|\\\\ud83d\\\\uDE0[0-9]|[a-z ]){0,8}"
    ];
    let quoted = string.prop_map(|text| format!("\"{text}\"")).boxed();
    let scalar = prop_oneof![3 => number, 2 => quoted.clone(), 1 => "null|true|false"];
    let space = "[ \t\r\n]{0,2}";
    let leaf = (space, scalar, space).prop_map(|(before, text, after)| (format!("{before}{text}{after}"), text));
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let items = prop::collection::vec(inner.clone(), 0..4);
        // Few names, so that some occur twice.
        let name = prop_oneof![Just("\"a\"".to_owned()), Just("\"\\u0061\"".to_owned()), quoted.clone()];
        let fields = prop::collection::vec((name, space, inner), 0..4);
        prop_oneof![
            (items, space).prop_map(|(items, space)| {
                let (spaced, plain): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                (format!("{space}[{space}{}]{space}", spaced.join(",")), format!("[{}]", plain.join(",")))
            }),
            (fields, space).prop_map(|(fields, space)| {
                let spaced: Vec<_> = fields.iter().map(|(name, s, (text, _))| format!("{s}{name}{s}:{text}")).collect();
                let plain: Vec<_> = fields.iter().map(|(name, _, (_, text))| format!("{name}:{text}")).collect();
                (format!("{{{space}{}}}{space}", spaced.join(",")), format!("{{{}}}", plain.join(",")))
            }),
        ]
    })
}
