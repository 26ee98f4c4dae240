//! Tests of the fields of an event's data.

use serde_json::json;

use super::mapped;

#[test]
fn a_field_can_be_constant_optional_or_renamed_and_differ_for_one_event() {
    let rules = json!({
        "event": null, "event_from": "/status", "events": { "success": "done", "*": "failed" },
        "data": {
            "id": "/id",
            "kind": { "value": { "of": "video", "n": [1, true] } },
            "url": { "from": "/url", "optional": true },
            "tries": { "from": "/tries", "default": 0 },
            "status": { "from": "/status", "values": { "success": "completed", "*": "failed" } },
            "level": { "from": "/level", "optional": true, "values": { "1.10": "low", "true": "high", "null": "none" } },
        },
        "event_data": { "failed": { "id": "/id", "reason": { "from": "/error", "default": "unknown" } } },
    });
    let data = |body: &str| mapped(rules.clone(), body).map(|draft| (draft.event, draft.data));
    let fixed = r#""kind":{"of":"video","n":[1,true]}"#;
    let full = data(r#"{"id":1.10,"status":"success","url":"u","tries":1E2,"level":1.10}"#).unwrap();
    let expected = format!(r#"{{"id":1.10,{fixed},"level":"low","status":"completed","tries":1E2,"url":"u"}}"#);
    assert_eq!(full, ("done".into(), expected));
    let short = data(r#"{"id":2,"status":"success","level":[1]}"#).unwrap();
    assert_eq!(short.1, format!(r#"{{"id":2,{fixed},"level":[1],"status":"completed","tries":0}}"#));
    assert!(data(r#"{"id":2,"status":"success","level":null}"#).unwrap().1.contains(r#""level":"none""#));
    assert_eq!(
        data(r#"{"id":3,"status":"lost"}"#).unwrap(),
        ("failed".into(), r#"{"id":3,"reason":"unknown"}"#.into())
    );
    assert_eq!(data(r#"{"status":"lost"}"#).unwrap_err(), "there is nothing at `/id` in the body");
}

#[test]
fn data_are_the_body_or_selected_fields_with_all_digits() {
    let body = r#" { "id" : 12345678901234567890 , "n":{"x":[1.10, 2]}, "s":"é\n" } "#;
    let whole = mapped(json!({}), body).unwrap().data;
    assert_eq!(whole, r#"{"id":12345678901234567890,"n":{"x":[1.10,2]},"s":"é\n"}"#);
    let picked = json!({ "data": { "b": "/id", "a": "/n/x/0", "c": "/s", "k": "header:x-kind" } });
    assert_eq!(mapped(picked, body).unwrap().data, r#"{"a":1.10,"b":12345678901234567890,"c":"é\n","k":"push"}"#);
    assert_eq!(mapped(json!({ "data": {} }), body).unwrap().data, "{}");
    assert_eq!(mapped(json!({}), r#""a text""#).unwrap().data, "a text");
    for (pointer, body) in
        [("/a/01", r#"{"a":[1,2]}"#), ("/a/2", r#"{"a":[1,2]}"#), ("/a/-", r#"{"a":[1]}"#), ("/a/b", r#"{"a":1}"#)]
    {
        let error = mapped(json!({ "data": { "x": pointer } }), body).unwrap_err();
        assert_eq!(error, format!("there is nothing at `{pointer}` in the body"));
    }
    assert_eq!(mapped(json!({}), r#"{"a":1e999}"#).unwrap().data, r#"{"a":1e999}"#);
    for wrong in [r#"{"a":"\ud800"}"#, &format!("{}{}", "[".repeat(300), "]".repeat(300))] {
        assert!(mapped(json!({}), wrong).is_err(), "{wrong}");
        assert!(mapped(json!({ "data": { "x": "/a" } }), wrong).is_err(), "{wrong}");
    }
}
