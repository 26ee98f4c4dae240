//! The OpenAPI document says everything that a client has to know, and nothing that is not so. `scripts/schema-check` calls
//! the routes by it.

use std::collections::BTreeSet;

use serde_json::Value;

mod support;

use support::{Node, routes::route_table};

/// Each operation: method, path, and what is said of it.
fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths.iter().flat_map(|(path, item)| {
        let all = item.as_object().expect("operations").iter();
        all.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

/// The schema itself, where there is only a reference to it.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer}")),
        None => schema,
    }
}

/// A schema that says nothing, where it is not meant to stand for any JSON.
fn says_nothing(document: &Value, schema: &Value) -> bool {
    resolved(document, schema).as_object().is_none_or(|schema| schema.keys().all(|key| key == "description"))
}

#[test]
fn every_route_is_documented_and_every_documented_route_exists() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let documented: BTreeSet<(String, String)> = operations(&document)
        .map(|(name, _)| {
            name.split_once(' ').map(|(method, path)| (method.to_owned(), path.to_owned())).expect("two words")
        })
        .collect();
    assert_eq!(documented, route_table());
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].to_string()), "twice: {}", operation["operationId"]);
        assert!(operation["summary"].is_string(), "{name} says what it does");
    }
    assert_eq!(node.get("/docs").status / 100, 3);
    let docs = node.get("/docs/");
    assert_eq!(docs.status, 200);
    assert!(docs.text().contains("swagger"), "{docs:?}");
}

#[test]
fn every_parameter_is_described_and_bounded() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    for (name, operation) in operations(&document) {
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        for part in name.split(['{', '}']).skip(1).step_by(2) {
            let known = parameters.iter().any(|one| one["name"] == *part && one["in"] == "path");
            assert!(known, "{name}: `{part}` is not described");
        }
        for parameter in parameters {
            assert!(parameter["description"].is_string(), "{name}: what is {parameter}?");
            let schema = resolved(&document, &parameter["schema"]);
            assert!(schema["type"].is_string(), "{name}: {parameter}");
            assert!(schema["type"] != "integer" || schema["minimum"].is_number(), "{name}: {parameter}");
        }
    }
}

#[test]
fn every_answer_has_a_form() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    for (name, operation) in operations(&document) {
        let answers = operation["responses"].as_object().expect("answers");
        for always in ["400", "403", "429", "503"] {
            assert!(answers.contains_key(always), "{name}: {always} is missing");
        }
        if operation["requestBody"].is_object() {
            for reading in ["408", "413", "415"] {
                assert!(answers.contains_key(reading), "{name}: {reading} is missing");
            }
        }
        assert!(answers.keys().any(|status| status.starts_with('2')), "{name}: how does it succeed?");
        for (status, answer) in answers {
            assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {status}");
            if status == "204" {
                assert!(answer["content"].is_null(), "{name}: {status} has no body");
                continue;
            }
            let content = answer["content"].as_object().unwrap_or_else(|| panic!("{name}: {status} has no form"));
            for (media, content) in content {
                let schema = &content["schema"];
                if status.starts_with(['4', '5']) {
                    assert_eq!(
                        (media.as_str(), &schema["$ref"]),
                        ("application/problem+json", &Value::from("#/components/schemas/Problem"))
                    );
                    continue;
                }
                let shown = content["example"].is_null() && resolved(&document, schema)["examples"].is_null();
                match media.as_str() {
                    "application/json" => {
                        assert!(!says_nothing(&document, schema) || !content["example"].is_null(), "{name}: {status}");
                        assert!(!shown, "{name}: {status} has no example");
                    }
                    "text/event-stream" => {
                        let schema = resolved(&document, schema);
                        assert!(schema["description"].as_str().is_some_and(|text| text.len() > 100), "{name}: frames?");
                        assert!(!shown, "{name}: {status} has no example");
                    }
                    _ => assert!(schema.is_object(), "{name}: {media}"),
                }
            }
        }
        for status in ["429", "503"] {
            let fields = &answers[status]["headers"];
            assert!(fields["Retry-After"].is_object(), "{name}: {status} says when to come back");
            assert_eq!(fields["RateLimit-Remaining"].is_object(), status == "429", "{name}: {status}");
        }
    }
}

#[test]
fn every_body_has_a_form_and_an_example() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    let mut bodies = 0;
    for (name, operation) in operations(&document) {
        for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            bodies += 1;
            let schema = resolved(&document, &content["schema"]);
            assert!(!content["example"].is_null() || !schema["examples"].is_null(), "{name}: {media} has no example");
        }
    }
    assert!(bodies > 10, "{bodies}");
}

#[test]
fn who_may_call_is_said_of_every_operation() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    let schemes: BTreeSet<&str> =
        document["components"]["securitySchemes"].as_object().expect("schemes").keys().map(String::as_str).collect();
    assert_eq!(schemes, BTreeSet::from(["bearer", "cookie", "query", "ticket", "token", "user"]));
    let mut public = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let ways = operation["security"].as_array().unwrap_or_else(|| panic!("{name} says nothing"));
        let names: BTreeSet<&str> =
            ways.iter().filter_map(|way| way.as_object()?.keys().next()).map(String::as_str).collect();
        if ways.is_empty() {
            public.insert(name);
            continue;
        }
        assert!(ways.contains(&serde_json::json!({})), "{name}: in open mode everybody may call it");
        assert!(names.is_subset(&schemes) && names.contains("token"), "{name}: {names:?}");
        let streams = &operation["responses"]["200"]["content"]["text/event-stream"];
        assert_eq!(names.contains("ticket"), streams.is_object(), "{name}: tickets are for streams");
    }
    assert_eq!(
        public.iter().map(String::as_str).collect::<Vec<_>>(),
        [
            "get /",
            "get /api/sse/samples/orders.csv",
            "get /api/sse/samples/quotes",
            "get /healthz",
            "get /readyz",
            "post /api/webhooks/{name}"
        ]
    );
}

/// A parameter that a route reads is documented, and one that is documented is read: the routes refuse all others.
#[test]
fn the_parameters_of_the_document_are_those_that_the_routes_read() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    let parameters = |operation: &Value| -> BTreeSet<String> {
        let all = operation["parameters"].as_array().cloned().unwrap_or_default();
        let query = all.into_iter().filter(|one| one["in"] == "query");
        query.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    let names: BTreeSet<String> = operations(&document).flat_map(|(_, operation)| parameters(operation)).collect();
    assert!(names.len() > 15, "{names:?}");
    for (name, operation) in operations(&document) {
        let own = parameters(operation);
        // The proxy passes on what it is given; health, pages and samples are asked by tools that add what they like; what
        // reads no query before its body is tried by the schema check.
        if !name.starts_with("get ") || operation["security"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        if name.contains("/{remote}/") || name == "get /metrics" {
            continue;
        }
        // A stream of this name is among the built-in ones.
        let path = name.trim_start_matches("get ").replace("{stream}", "ugc-updates").replace(['{', '}'], "");
        for parameter in &names {
            // No parameter is right when it is empty of what it should have, but only a stranger is unknown.
            let reply = node.raw_get(&format!("{path}?{parameter}=%20"), "");
            let unknown = reply.text().contains("unknown query parameter");
            assert_eq!(unknown, !own.contains(parameter), "{name}: `{parameter}` {reply:?}");
        }
    }
}
