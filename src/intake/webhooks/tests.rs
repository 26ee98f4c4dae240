//! Tests of deliveries and their events, with the published test vectors of the schemes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    event::Draft,
    journal::{self, Retention},
};

mod fields;

/// The test vector of the libraries of Standard Webhooks.
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD: [(&str, &str); 3] = [
    ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
    ("webhook-timestamp", "1614265330"),
    ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
];
const STANDARD_BODY: &str = r#"{"test": 2432232314}"#;
const STANDARD_NOW: u64 = 1_614_265_330_000;

/// The test vector in GitHub's documentation. Its body is not JSON.
const GITHUB_SECRET: &str = "It's a Secret to Everybody";
const GITHUB: [(&str, &str); 1] =
    [("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")];
const GITHUB_BODY: &str = "Hello, World!";

/// A webhook with these settings and environment variables.
fn webhook(settings: Value, secrets: &[(&str, &str)]) -> Result<Webhook, String> {
    let config: WebhookConfig = serde_json::from_value(settings).map_err(|error| error.to_string())?;
    config.check("hook", &journal::Config::default())?;
    let secrets: BTreeMap<&str, &str> = secrets.iter().copied().collect();
    Webhook::new("hook", &config, |name| secrets.get(name).map(|&secret| secret.to_owned()))
}

/// Settings with this scheme, and otherwise minimal values.
#[expect(clippy::needless_pass_by_value, reason = "the cases write the settings in place")]
fn settings(scheme: &str, more: Value) -> Value {
    let mut settings = json!({ "secret_env": "S", "scheme": scheme, "event": "e", "topic": "t" });
    let fields = settings.as_object_mut().unwrap();
    for (key, value) in more.as_object().unwrap() {
        match value {
            Value::Null => fields.remove(key),
            value => fields.insert(key.clone(), value.clone()),
        };
    }
    settings
}

fn deliver(webhook: &Webhook, fields: &[(&str, &str)], body: &str, now_ms: u64) -> Result<Draft, Refused> {
    let headers = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_bytes());
    proven(webhook, &headers, body.as_bytes(), now_ms)
}

fn proven(webhook: &Webhook, headers: Headers<'_>, body: &[u8], now_ms: u64) -> Result<Draft, Refused> {
    let mut claim = webhook.claim(headers, now_ms)?;
    // In pieces, as bodies arrive.
    body.chunks(7).for_each(|piece| claim.update(piece));
    webhook.draft(&claim.prove()?, headers, body)
}

fn standard() -> Webhook {
    webhook(settings("standard-webhooks", json!({})), &[("S", STANDARD_SECRET)]).unwrap()
}

/// The fields with one replaced.
fn with<'a>(fields: &[(&'a str, &'a str)], field: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    fields.iter().map(|&(name, old)| (name, if name == field { value } else { old })).collect()
}

#[track_caller]
fn unproven(refusal: Refusal, answer: Result<Draft, Refused>) {
    assert_eq!(answer.unwrap_err(), Refused::Unproven(refusal));
}

// === Signatures ===

#[test]
fn only_the_vector_of_standard_webhooks_is_accepted() {
    let hook = standard();
    let draft = deliver(&hook, &STANDARD, STANDARD_BODY, STANDARD_NOW).unwrap();
    assert_eq!((draft.data.as_str(), draft.event.as_str()), (r#"{"test":2432232314}"#, "e"));
    assert_eq!((draft.key.as_deref(), draft.publisher.as_str()), (Some(STANDARD[0].1), "webhook hook"));

    unproven(Refusal::Wrong, deliver(&hook, &STANDARD, r#"{"test":2432232314}"#, STANDARD_NOW));
    let other = with(&STANDARD, "webhook-id", "msg_other");
    unproven(Refusal::Wrong, deliver(&hook, &other, STANDARD_BODY, STANDARD_NOW));
    let other = with(&STANDARD, "webhook-timestamp", "1614265331");
    unproven(Refusal::Wrong, deliver(&hook, &other, STANDARD_BODY, STANDARD_NOW));
    let secret = webhook(settings("standard-webhooks", json!({})), &[("S", "whsec_AAAAr8GKYqrTwjUPD8ILPZIo2LaLaSwA")]);
    unproven(Refusal::Wrong, deliver(&secret.unwrap(), &STANDARD, STANDARD_BODY, STANDARD_NOW));
    for missing in STANDARD {
        let rest: Vec<_> = STANDARD.into_iter().filter(|field| *field != missing).collect();
        unproven(Refusal::Missing, deliver(&hook, &rest, STANDARD_BODY, STANDARD_NOW));
    }
}

#[test]
fn a_delivery_outside_of_the_window_is_rejected_in_both_directions() {
    let hook = standard();
    for now in [STANDARD_NOW - 299_999, STANDARD_NOW + 299_999] {
        assert!(deliver(&hook, &STANDARD, STANDARD_BODY, now).is_ok(), "{now}");
    }
    for now in [0, STANDARD_NOW - 300_000, STANDARD_NOW + 300_000, u64::MAX] {
        unproven(Refusal::Late, deliver(&hook, &STANDARD, STANDARD_BODY, now));
    }
}

#[test]
fn one_valid_signature_among_others_is_enough() {
    let right = STANDARD[2].1;
    let others = format!("v1a,abc v1,AAAA v2,{} {right} v1,", &right[3..]);
    assert!(deliver(&standard(), &with(&STANDARD, "webhook-signature", &others), STANDARD_BODY, STANDARD_NOW).is_ok());
    for (malformed, refusal) in [
        ("", Refusal::Malformed),
        ("v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", Refusal::Malformed),
        ("v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", Refusal::Malformed),
        ("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", Refusal::Malformed),
        ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE", Refusal::Malformed),
        ("v1,g0hM9SsE", Refusal::Malformed),
        ("v1,AAAA9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", Refusal::Wrong),
    ] {
        let fields = with(&STANDARD, "webhook-signature", malformed);
        unproven(refusal, deliver(&standard(), &fields, STANDARD_BODY, STANDARD_NOW));
    }
}

/// `a.1` `2` and `a` `1.2` would have equal signatures.
#[test]
fn signed_parts_cannot_be_divided_in_another_way() {
    for (field, value) in [
        ("webhook-id", "msg.1"),
        ("webhook-id", ""),
        ("webhook-timestamp", ""),
        ("webhook-timestamp", "+1614265330"),
        ("webhook-timestamp", "1614265330.0"),
        ("webhook-timestamp", "99999999999999999999"),
    ] {
        let fields = with(&STANDARD, field, value);
        unproven(Refusal::Malformed, deliver(&standard(), &fields, STANDARD_BODY, STANDARD_NOW));
    }
}

#[test]
fn both_secrets_are_accepted_while_a_secret_is_replaced() {
    let both = settings("standard-webhooks", json!({ "secret_env": ["NEW", "OLD"] }));
    let new = "whsec_AAAAr8GKYqrTwjUPD8ILPZIo2LaLaSwA";
    let hook = webhook(both.clone(), &[("OLD", STANDARD_SECRET), ("NEW", new)]).unwrap();
    assert!(deliver(&hook, &STANDARD, STANDARD_BODY, STANDARD_NOW).is_ok());
    let error = webhook(both, &[("NEW", new)]).unwrap_err();
    assert!(error.contains("`OLD`") && error.contains("`webhooks.hook.secret_env`"), "{error}");
}

#[test]
fn only_the_vector_of_github_is_accepted() {
    let hook = webhook(settings("github", json!({})), &[("S", GITHUB_SECRET)]).unwrap();
    // Accepted by the signature. That the body is not JSON is another error.
    let answer = deliver(&hook, &GITHUB, GITHUB_BODY, 0);
    assert!(matches!(&answer, Err(Refused::Unmapped(reason)) if reason.contains("not JSON")), "{answer:?}");
    unproven(Refusal::Wrong, deliver(&hook, &GITHUB, "Hello, World", 0));
    unproven(Refusal::Missing, deliver(&hook, &[], GITHUB_BODY, 0));
    let digits = &GITHUB[0].1[7..];
    for malformed in [
        digits.to_owned(),
        format!("sha1={digits}"),
        format!("sha256={}", &digits[1..]),
        format!("sha256={digits}0"),
        format!("sha256=+{}", &digits[1..]),
        format!("sha256={}é", &digits[2..]),
    ] {
        unproven(Refusal::Malformed, deliver(&hook, &[(GITHUB[0].0, &malformed)], GITHUB_BODY, 0));
    }
}

#[test]
fn a_sent_secret_must_be_complete() {
    let hook = webhook(settings("secret-header", json!({})), &[("S", " minha-senha-secreta\n")]).unwrap();
    assert!(deliver(&hook, &[("x-secret-key", "minha-senha-secreta")], "{}", 0).is_ok());
    for wrong in ["", "minha", "minha-senha-secreta-", "Minha-senha-secreta"] {
        unproven(Refusal::Wrong, deliver(&hook, &[("x-secret-key", wrong)], "{}", 0));
    }
    unproven(Refusal::Missing, deliver(&hook, &[("x-other", "minha-senha-secreta")], "{}", 0));
    let named = webhook(settings("secret-header", json!({ "header": "X-Token" })), &[("S", "s")]).unwrap();
    assert!(deliver(&named, &[("x-token", "s")], "{}", 0).is_ok());
}

#[test]
fn no_output_contains_a_secret() {
    for (scheme, secret) in [("secret-header", "hush"), ("github", "hush"), ("standard-webhooks", STANDARD_SECRET)] {
        let hook = webhook(settings(scheme, json!({})), &[("S", secret)]).unwrap();
        let shown = format!("{hook:?}");
        assert!(!shown.contains(secret) && !shown.contains("MfKQ"), "{shown}");
    }
    for wrong in ["whsec_hush", "hush-hush", "whsec_aHVzaA=="] {
        let error = webhook(settings("standard-webhooks", json!({})), &[("S", wrong)]).unwrap_err();
        assert!(error.contains("`S`") && !error.contains("hush") && !error.contains("aHVz"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_fields_and_body_have_a_result(
        scheme in prop::sample::select(vec![("secret-header", "s"), ("github", "s"), ("standard-webhooks", STANDARD_SECRET)]),
        values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..80)), 6),
        prefix in prop::sample::select(vec!["", "v1,", "sha256=", "1614265330", "v1, v1,"]),
        body in prop::collection::vec(any::<u8>(), 0..80),
        now in any::<u64>(),
    ) {
        let hook = webhook(settings(scheme.0, json!({})), &[("S", scheme.1)]).unwrap();
        let values: Vec<Option<Vec<u8>>> =
            values.into_iter().map(|value| value.map(|value| [prefix.as_bytes(), &value[..]].concat())).collect();
        let names = ["x-secret-key", "webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256", "x-github-delivery"];
        let headers = |name: &str| values[names.iter().position(|known| *known == name)?].as_deref();
        let answer = proven(&hook, &headers, &body, now);
        prop_assert!(answer.is_err(), "a signature cannot be guessed");
    }
}

// === Mappings ===

/// The event of a delivery with a valid secret.
fn mapped(more: Value, body: &str) -> Result<Draft, String> {
    let hook = webhook(settings("secret-header", more), &[("S", "s")]).expect("valid settings");
    let fields = [("x-secret-key", "s"), ("x-kind", "push"), ("x-user", "7")];
    deliver(&hook, &fields, body, 0).map_err(|refused| match refused {
        Refused::Unmapped(reason) => reason,
        other => panic!("{other:?}"),
    })
}

#[test]
fn an_event_name_can_come_from_the_delivery() {
    let by_status = || {
        let events = json!({ "success": "generation-completed", "*": "generation-failed" });
        json!({ "event": null, "event_from": "/status", "events": events })
    };
    let name = |body: &str| mapped(by_status(), body).map(|draft| draft.event);
    assert_eq!(name(r#"{"status":"success"}"#).unwrap(), "generation-completed");
    assert_eq!(name(r#"{"status":"anything"}"#).unwrap(), "generation-failed");
    assert_eq!(name(r#"{"status":404}"#).unwrap(), "generation-failed");
    for (body, expected) in [
        ("{}", "there is nothing at `/status` in the body"),
        (r#"["status"]"#, "there is nothing at `/status` in the body"),
        (r#"{"status":null}"#, "the value at `/status` must be a text"),
        (r#"{"status":{}}"#, "the value at `/status` must be a text"),
        ("{", "the body is not JSON, and `/status` is needed"),
        ("", "the body is not JSON, and `/status` is needed"),
    ] {
        let error = name(body).unwrap_err();
        assert!(error.contains(expected), "{body}: {error}");
    }
    let listed = json!({ "event": null, "event_from": "/a~1b/1/~0", "events": { "x": "y" } });
    assert_eq!(mapped(listed.clone(), r#"{"a/b":[0,{"~":"x"}]}"#).unwrap().event, "y");
    let error = mapped(listed, r#"{"a/b":[0,{"~":"z"}]}"#).unwrap_err();
    assert_eq!(error, "`/a~1b/1/~0` is `z`, for which this webhook has no event");
    let from_header = json!({ "event": null, "event_from": "header:X-Kind" });
    assert_eq!(mapped(from_header, "{}").unwrap().event, "push");
    let any = json!({ "event": null, "event_from": "/name" });
    assert!(
        mapped(any, r#"{"name":"relay_open"}"#).unwrap_err().contains("`relay_open` is the name of a control frame")
    );
}

#[test]
fn the_target_can_come_from_the_delivery() {
    let topic = |target: Value, body: &str| {
        let mut more = json!({ "topic": null });
        more.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        mapped(more, body).map(|draft| draft.topics[0].as_str().to_owned())
    };
    let at_u = json!({ "from": "/u" });
    assert_eq!(topic(json!({ "user": at_u }), r#"{"u":42}"#).unwrap(), "user:42");
    assert_eq!(topic(json!({ "group": "ops" }), "{}").unwrap(), "group:ops");
    assert_eq!(topic(json!({ "topic": at_u }), r#"{"u":"order:1"}"#).unwrap(), "order:1");
    assert_eq!(topic(json!({ "user": { "from": "header:x-user" } }), "{}").unwrap(), "user:7");
    for (target, body) in [
        (json!({ "topic": at_u }), r#"{"u":"a b"}"#),
        (json!({ "topic": at_u }), r#"{"u":"job:1"}"#),
        (json!({ "user": at_u }), r#"{"u":""}"#),
        (json!({ "group": at_u }), r#"{"u":["a"]}"#),
        (json!({ "group": at_u }), "{}"),
    ] {
        let error = topic(target, body).unwrap_err();
        assert!(error.contains("`/u`"), "{body}: {error}");
    }
}

// === Settings ===

#[test]
fn errors_of_settings_name_the_key() {
    let set = |more: Value| settings("secret-header", more);
    for (settings, named) in [
        (set(json!({ "secret_env": null })), "`webhooks.hook.secret_env`"),
        (set(json!({ "secret_env": [] })), "`webhooks.hook.secret_env`"),
        (set(json!({ "secret_env": "A=B" })), "`webhooks.hook.secret_env`"),
        (set(json!({ "secret_env": 1 })), "the name of an environment variable"),
        (set(json!({ "scheme": "none" })), "secret-header"),
        (set(json!({ "header": "a b" })), "`webhooks.hook.header`"),
        (settings("github", json!({ "header": "x-key" })), "`webhooks.hook.header`"),
        (set(json!({ "tolerance_ms": 1 })), "`webhooks.hook.tolerance_ms`"),
        (settings("standard-webhooks", json!({ "tolerance_ms": 0 })), "`webhooks.hook.tolerance_ms`"),
        (settings("standard-webhooks", json!({ "tolerance_ms": 300_001 })), "remembered for 600000 ms"),
        (set(json!({ "event": null })), "`webhooks.hook.event`"),
        (set(json!({ "event": "a\nb" })), "`webhooks.hook.event`"),
        (set(json!({ "event_from": "/a" })), "not both"),
        (set(json!({ "events": { "a": "b" } })), "`webhooks.hook.events`"),
        (set(json!({ "event": null, "event_from": "status" })), "`webhooks.hook.event_from`"),
        (set(json!({ "event": null, "event_from": "/a~2" })), "`webhooks.hook.event_from`"),
        (set(json!({ "event": null, "event_from": "/a", "events": { "a": "" } })), "`webhooks.hook.events.a`"),
        (
            set(json!({ "event": null, "event_from": "/a", "events": { "a": "merge_start" } })),
            "`webhooks.hook.events.a`",
        ),
        (set(json!({ "event": "gap" })), "control frame"),
        (set(json!({ "data": { "a": "b" } })), "`webhooks.hook.data.a`"),
        (set(json!({ "data": { "a": { "from": "b" } } })), "`webhooks.hook.data.a`"),
        (set(json!({ "data": { "a": {} } })), "`webhooks.hook.data.a`"),
        (set(json!({ "data": { "a": { "from": "/b", "value": 1 } } })), "`webhooks.hook.data.a`"),
        (set(json!({ "data": { "a": { "value": 1, "optional": true } } })), "`webhooks.hook.data.a`"),
        (set(json!({ "data": { "a": { "from": "/b", "optional": true, "default": 1 } } })), "not both"),
        (set(json!({ "data": { "a": { "form": "/b" } } })), "unknown field `form`"),
        (set(json!({ "data": { "a": ["/b"] } })), "a location such as"),
        (set(json!({ "topic": ["/b"] })), "a name, or a location"),
        (set(json!({ "event_data": { "other": { "a": "/b" } } })), "`webhooks.hook.event_data.other`"),
        (set(json!({ "event_data": { "e": { "a": "b" } } })), "`webhooks.hook.event_data.e.a`"),
        (set(json!({ "event_data": { "e": { "a": "header:X-Secret-Key" } } })), "must not get into events"),
        (set(json!({ "data": { "a": "header:X-Secret-Key" } })), "must not get into events"),
        (set(json!({ "topic": null })), "exactly one"),
        (set(json!({ "user": "a" })), "exactly one"),
        (set(json!({ "topic": "job:1" })), "`webhooks.hook.topic`"),
        (set(json!({ "topic": { "from": "a" } })), "`webhooks.hook.topic`"),
        (set(json!({ "topic": { "form": "/a" } })), "unknown field `form`"),
        (set(json!({ "topic": null, "user": "a b" })), "`webhooks.hook.user`"),
        (set(json!({ "topik": "a" })), "topik"),
    ] {
        let error = webhook(settings.clone(), &[("S", "s")]).unwrap_err();
        assert!(error.contains(named), "{settings}: {error}");
    }
    let error = webhook(set(json!({})), &[("S", " ")]).unwrap_err();
    assert!(error.contains("`S` is not set, or empty"), "{error}");
    assert!(webhook(set(json!({})), &[("S", "ü")]).is_err());
}

/// Otherwise it could be repeated until its timestamp is too old.
#[test]
fn a_delivery_must_be_remembered_for_as_long_as_it_can_be_repeated() {
    let config: WebhookConfig = serde_json::from_value(settings("standard-webhooks", json!({}))).unwrap();
    let rule = |topic: &str| Retention {
        topic: topic.into(),
        retention_ms: Some(599_999),
        retention_events: None,
        retention_bytes: None,
    };
    let journal = |retention_ms, dedupe_ms, rules: &[&str]| journal::Config {
        retention_ms,
        dedupe_ms,
        retention: rules.iter().map(|topic| rule(topic)).collect(),
        ..journal::Config::default()
    };
    for good in [journal(0, 600_000, &["other"]), journal(600_000, 600_000, &[])] {
        assert_eq!(config.check("hook", &good), Ok(()));
    }
    for bad in [journal(0, 599_999, &[]), journal(599_999, 600_000, &[]), journal(0, 600_000, &["t*"])] {
        let error = config.check("hook", &bad).unwrap_err();
        assert!(error.contains("`webhooks.hook.tolerance_ms`") && error.contains("599999"), "{error}");
    }
}

#[test]
fn without_its_secret_an_optional_webhook_is_off() {
    let hook = webhook(settings("secret-header", json!({ "optional": true })), &[]).unwrap();
    assert_eq!(deliver(&hook, &[("x-secret-key", "")], "{}", 0).unwrap_err(), Refused::Off);
}

#[test]
fn an_invalid_id_is_rejected() {
    let hook = webhook(settings("secret-header", json!({})), &[("S", "s")]).unwrap();
    let key = |id: &str| deliver(&hook, &[("x-secret-key", "s"), ("webhook-id", id)], "{}", 0).map(|draft| draft.key);
    assert_eq!(key("1").unwrap().as_deref(), Some("1"));
    for id in ["", &"x".repeat(256)] {
        assert!(matches!(key(id), Err(Refused::Unmapped(reason)) if reason.contains("`webhook-id`")));
    }
    assert_eq!(deliver(&hook, &[("x-secret-key", "s")], "{}", 0).unwrap().key, None);
}
