//! Plans of valid specs. `tests/relays/api.rs` tests the rejection of invalid ones.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    json::FieldError,
    relay::Config,
    upstream::{Client, RemoteConfig, Remotes},
};

fn check(spec: &Value) -> Result<(Spec, Vec<PlannedSource>), Vec<FieldError>> {
    let config = RemoteConfig { base_url: Some("http://h".into()), ..RemoteConfig::default() };
    let remotes = BTreeMap::from([("up".to_owned(), config)]);
    let remotes = Remotes::build(&remotes, &Client::new(crate::upstream::Config::default())).unwrap();
    let config = Config { default_remote: Some("up".into()), ..Config::default() };
    let mut spec = Spec::deserialize(spec).unwrap();
    let planned = spec.check(Limits { config: &config, remotes: &remotes })?;
    Ok((spec, planned))
}

fn source(source: &Value) -> PlannedSource {
    check(&json!({ "sources": [source] })).unwrap().1.remove(0)
}

#[test]
fn labels_are_given_and_stay_unique() {
    let spec = json!({ "sources": [
        { "path": "/api/sse/a" }, { "path": "/api/sse/a" }, { "path": "/api/sse/a", "label": "up" },
    ] });
    let (spec, _) = check(&spec).unwrap();
    let labels: Vec<_> = spec.sources.iter().map(|source| source.label.as_deref().unwrap()).collect();
    assert_eq!(labels, ["up-2", "up-3", "up"]);
}

#[test]
fn a_body_goes_as_text_or_as_json() {
    let text = source(&json!({ "path": "/api/sse/a", "method": "POST", "body": "plain" })).source;
    assert_eq!(text.body.as_ref(), b"plain");
    assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
    let json = source(&json!({ "path": "/api/sse/a", "method": "POST", "body": ["a"] })).source;
    assert_eq!(json.body.as_ref(), br#"["a"]"#);
    assert_eq!(json.headers["content-type"], "application/json");
}

#[test]
fn what_makes_requests_equal_is_all_but_the_label() {
    let key = |with: &Value| {
        let mut spec = json!({ "path": "/api/sse/a", "headers": { "X-A": "1", "x-b": "2" } });
        spec.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        source(&spec).key
    };
    let plain = key(&json!({}));
    assert_eq!(key(&json!({ "label": "other" })), plain);
    assert_eq!(key(&json!({ "headers": { "X-B": "2", "x-a": "1" } })), plain);
    assert_eq!(key(&json!({ "method": "get" })), plain);
    let others = [
        json!({ "path": "/api/sse/a?" }),
        json!({ "headers": { "X-A": "1", "x-b": "3" } }),
        json!({ "method": "POST" }),
        json!({ "lastEventId": "1" }),
        json!({ "readTimeoutMs": 1 }),
        json!({ "initialRetryMs": 100 }),
    ];
    for other in others {
        assert_ne!(key(&other), plain, "{other}");
    }
}

/// RFC 9110, section 9.1: a method is any token and is case-sensitive.
#[test]
fn a_source_has_any_method_but_those_that_open_a_tunnel_or_reflect() {
    let method = |name: &str| source(&json!({ "path": "/api/sse/a", "method": name })).source.method.to_string();
    for (written, sent) in
        [("REPORT", "REPORT"), ("QUERY", "QUERY"), ("DELETE", "DELETE"), ("options", "OPTIONS"), ("X-y!", "X-y!")]
    {
        assert_eq!(method(written), sent);
    }
    for name in ["CONNECT", "TRACE", "trace", "", "A B", "A\r\nB", "é"] {
        let errors = check(&json!({ "sources": [{ "path": "/api/sse/a", "method": name }] })).unwrap_err();
        assert_eq!(errors[0].field, "sources[0].method", "{name}");
    }
}

/// QUERY, REPORT, SEARCH and PROPFIND are safe (HTTP method registry), so the request of a lost stream may be repeated.
#[test]
fn a_safe_method_may_be_repeated() {
    for (name, repeated) in [
        ("QUERY", true),
        ("REPORT", true),
        ("SEARCH", true),
        ("PROPFIND", true),
        ("GET", true),
        ("POST", false),
        ("PURGE", false),
    ] {
        let source = source(&json!({ "path": "/api/sse/a", "method": name })).source;
        assert_eq!(source.may_repeat(), repeated, "{name}");
    }
}
