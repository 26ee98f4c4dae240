//! The OpenAPI document describes everything that a client needs, and nothing wrong. `scripts/schema-check` calls the
//! routes by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use serde_json::{Value, json};

mod support;

use support::{Node, Reply, eventually, routes::route_table, upstream::Upstream};

/// Each operation: method, path, and its description.
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

/// A schema without content, if it does not stand for any JSON.
fn is_empty_schema(document: &Value, schema: &Value) -> bool {
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
        assert!(operation["summary"].is_string(), "{name} has a summary");
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
            assert!(parameter["description"].is_string(), "{name}: {parameter} has no description");
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
                        assert!(
                            !is_empty_schema(&document, schema) || !content["example"].is_null(),
                            "{name}: {status}"
                        );
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
            assert!(fields["Retry-After"].is_object(), "{name}: {status} has the time to retry");
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
fn every_operation_has_its_credentials() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    let schemes: BTreeSet<&str> =
        document["components"]["securitySchemes"].as_object().expect("schemes").keys().map(String::as_str).collect();
    assert_eq!(schemes, BTreeSet::from(["bearer", "cookie", "query", "ticket", "token", "user"]));
    let mut public = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let ways = operation["security"].as_array().unwrap_or_else(|| panic!("{name} has no credentials"));
        let names: BTreeSet<&str> =
            ways.iter().filter_map(|way| way.as_object()?.keys().next()).map(String::as_str).collect();
        if ways.is_empty() {
            public.insert(name);
            continue;
        }
        assert!(ways.contains(&serde_json::json!({})), "{name}: in open mode all callers may call it");
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

/// Pages and documents, which are not in the route table.
const PAGES: [&str; 7] =
    ["/openapi.json", "/docs", "/docs/", "/docs/swagger-ui-bundle.js", "/sse-client.html", "/style.css", "/icon.svg"];

/// A node whose remote answers any GET with a stream, and HEAD with its head.
fn node_with_remote() -> (Node, Upstream) {
    let remote = Upstream::start(|request, socket| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let body = if request.method == "HEAD" { "" } else { "9\r\ndata: 1\n\n\r\n0\r\n\r\n" };
        let _ = socket.write_all(format!("{head}{body}").as_bytes());
    });
    let node = Node::start(&format!("[remotes.reactive]\nbase_url = \"{}\"\n", remote.url("")));
    (node, remote)
}

/// The path with names of existing entities.
fn filled(node: &Node, pattern: &str) -> String {
    let mut names = BTreeMap::from([
        ("{user}", "u".to_owned()),
        ("{group}", "g".to_owned()),
        ("{topic}", "t".to_owned()),
        ("{remote}", "reactive".to_owned()),
        ("{path}", "events".to_owned()),
        ("{stream}", "ugc-updates".to_owned()),
        ("{emitter}", "e".to_owned()),
        ("{name}", "n".to_owned()),
        ("{id}", "1".to_owned()),
    ]);
    if pattern.contains("{job}") {
        let job = node.post("/api/jobs", &json!({ "tasks": [{ "id": "t", "run": "Calculate Stats" }] }));
        let job = job["jobId"].as_str().expect("a job").to_owned();
        eventually(|| (node.get(&format!("/api/jobs/{job}")).json()["status"] == "completed").then_some(()));
        names.insert("{job}", job);
        names.insert("{task}", "t".to_owned());
    }
    if pattern.contains("{relay}") {
        let relay = node.post("/api/relays", &json!({ "topic": "r", "sources": [{ "path": "/events" }] }));
        names.insert("{relay}", relay["id"].as_str().expect("a relay").to_owned());
    }
    names.iter().fold(pattern.to_owned(), |path, (part, name)| path.replace(part, name))
}

fn ask(node: &Node, method: &str, path: &str) -> Reply {
    node.raw(format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        node.addr
    ))
}

/// The fields of an answer but those that are never the same twice.
fn fields(reply: &Reply, with_length: bool) -> BTreeMap<String, String> {
    let lines = reply.head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let fields = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let same = |name: &str| match name {
        "date" | "x-request-id" | "ratelimit-remaining" | "ratelimit-reset" => false,
        "content-length" => with_length,
        _ => true,
    };
    fields.map(|(name, value)| if same(&name) { (name, value) } else { (name, String::new()) }).collect()
}

#[test]
fn head_is_answered_as_get_is_on_every_route_and_does_nothing() {
    let (node, remote) = node_with_remote();
    let routes = route_table();
    let patterns = routes.iter().filter(|(method, _)| method == "get").map(|(_, path)| path.as_str()).chain(PAGES);
    let paths: Vec<(&str, String)> = patterns.map(|pattern| (pattern, filled(&node, pattern))).collect();
    assert!(paths.len() > 30, "{paths:?}");
    node.post("/events", &json!({ "topic": "t", "data": 1 }));
    let jobs = node.get("/api/jobs").json()["jobs"].as_array().map(Vec::len);
    let opened = node.count("streams_opened_total");
    let heads: Vec<Reply> = paths.iter().map(|(_, path)| ask(&node, "HEAD", path)).collect();
    assert_eq!(node.count("streams_opened_total"), opened, "HEAD opens no stream");
    assert_eq!(node.get("/api/jobs").json()["jobs"].as_array().map(Vec::len), jobs, "HEAD starts no job");
    assert!(
        remote.seen("/api/sse/sample-parallel").iter().all(|request| request.method == "HEAD"),
        "nor one elsewhere"
    );
    for ((pattern, path), head) in paths.iter().zip(heads) {
        let get = ask(&node, "GET", path);
        assert_eq!(head.status, get.status, "{path}: {head:?}{get:?}");
        assert_eq!(head.body, b"", "{path}: {head:?}");
        // Lists and figures change from one request to the next, and their length with them.
        let steady = PAGES.contains(pattern) || pattern.starts_with("/api/sse/samples/") || pattern.contains("{task}");
        assert_eq!(fields(&head, steady), fields(&get, steady), "{path}");
    }
    node.must_be_healthy();
}

#[test]
fn every_path_lists_its_methods() {
    let (node, _remote) = node_with_remote();
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in route_table().into_iter().chain(PAGES.map(|path| ("get".to_owned(), path.to_owned()))) {
        let methods = table.entry(path).or_insert_with(|| BTreeSet::from(["OPTIONS".to_owned()]));
        methods.extend((method == "get").then(|| "HEAD".to_owned()));
        methods.insert(method.to_uppercase());
    }
    for (pattern, methods) in &table {
        let path = ["{job}", "{relay}", "{task}"].iter().fold(pattern.clone(), |path, part| path.replace(part, "x"));
        let path = filled(&node, &path);
        let reported = |reply: &Reply| -> BTreeSet<String> {
            reply.header("Allow").unwrap_or_default().split(", ").map(str::to_owned).collect()
        };
        let options = ask(&node, "OPTIONS", &path);
        assert_eq!((options.status, &reported(&options)), (204, methods), "OPTIONS {path}: {options:?}");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            // The proxy passes on what it does not answer itself.
            let passed = pattern == "/api/sse-proxy/{remote}/{path}" && method != "TRACE";
            if !methods.contains(method) && !passed {
                let refused = ask(&node, method, &path);
                refused.problem(405);
                assert_eq!(&reported(&refused), methods, "{method} {path}: {refused:?}");
            }
        }
    }
}

/// The codes of problems are in the document, and the page about them has a row for each.
#[test]
fn every_code_of_a_problem_is_documented() {
    let node = Node::start("");
    let document = node.get("/openapi.json").json();
    let code = resolved(&document, &document["components"]["schemas"]["Problem"]["properties"]["code"]);
    let words: BTreeSet<&str> = code["enum"].as_array().expect("words").iter().filter_map(Value::as_str).collect();
    assert!(words.len() > 30, "{words:?}");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(word, _)| word);
    assert_eq!(rows.collect::<BTreeSet<_>>(), words, "rows of docs/errors.md on the left");
}
