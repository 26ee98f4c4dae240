//! Promises for operators and tools: refusals, limits, logs, metrics, pages. The stop of a node is in `stopping.rs`,
//! its OpenAPI document in `openapi.rs`.

use std::process::Command;

use serde_json::{Value, json};

mod support;

use support::{Node, eventually};

/// The list of metrics.
const METRICS: &str = include_str!("../docs/operating.md");

#[test]
fn what_is_not_there_is_answered_with_a_problem() {
    let node = Node::start("");
    assert!(node.get("/api/nothing").problem(404).contains("/api/nothing"));
    assert!(node.get("/api/jobs/nothing").problem(404).contains("nothing"));
    for (method, path, allow) in [
        ("DELETE", "/events", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/api/sse/managed/connect", "GET, HEAD, OPTIONS"),
        ("PUT", "/api/jobs/1", "GET, HEAD, DELETE, OPTIONS"),
        ("GET", "/api/sse/parallel-tasks", "POST, OPTIONS"),
        ("GET", "/api/sse/managed/emitters/x", "PATCH, DELETE, OPTIONS"),
    ] {
        let reply = node.request(method, path, &[], "");
        assert!(reply.problem(405).contains(method), "{reply:?}");
        assert_eq!(reply.header("Allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(node.metric("millstream_http_responses_total{class=\"5xx\"}"), 0.0);
    assert!(node.metric("millstream_http_responses_total{class=\"4xx\"}") >= 7.0);
}

#[test]
fn health_and_readiness_are_reported() {
    let node = Node::start("");
    let health = node.get("/healthz");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    // Once jobs and relays are read back.
    let ready = eventually(|| Some(node.get("/readyz")).filter(|reply| reply.status == 200));
    assert_eq!(ready.json()["status"], "ready");
    assert_eq!(health.header("X-Content-Type-Options"), Some("nosniff"));
}

fn get_as(node: &Node, host: &str, headers: &str) -> support::Reply {
    node.raw(format!("GET /api/topics HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n"))
}

/// Probes call by address, or with HTTP/1.0 and without a name, many times a minute.
#[test]
fn health_checks_are_answered_whatever_the_host() {
    let node = Node::start("");
    for path in ["/healthz", "/readyz"] {
        for host in ["10.1.2.3:8090", "pod.internal", "evil.example"] {
            for method in ["GET", "HEAD"] {
                let reply = node.raw(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
                assert_eq!(reply.status, 200, "{method} {path} as {host}: {reply:?}");
            }
        }
        assert_eq!(node.raw(format!("GET {path} HTTP/1.0\r\n\r\n")).status, 200, "{path} without a Host");
        let posted = node.raw(format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(posted.status, 403, "a POST is no probe");
    }
    // A line for each POST, none for the probes, which came before the last POST.
    let refused = || node.log().matches("access refused").count();
    eventually(|| (refused() >= 2).then_some(()));
    assert_eq!(refused(), 2);
}

/// A web page must not be able to run handlers on a developer's machine.
#[test]
fn in_open_mode_only_this_machine_is_answered() {
    let node = Node::start("[server]\nhosts = [\"box.internal\"]\ncors_origins = [\"https://app.example\"]\n");
    let port = node.addr.port();
    for host in ["localhost", "127.0.0.1", "[::1]", "box.internal", "BOX.internal", "app.localhost"] {
        assert_eq!(get_as(&node, host, "").status, 200, "{host}");
        assert_eq!(get_as(&node, &format!("{host}:{port}"), "").status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "localhost.evil.example",
        "box.internal.evil.example",
    ] {
        assert!(get_as(&node, host, "").problem(403).contains("server.hosts"), "{host}");
    }
    let own = format!("localhost:{port}");
    assert_eq!(get_as(&node, &own, &format!("Origin: http://{own}\r\n")).status, 200);
    for origin in
        ["https://evil.example", "null", "http://localhost:1", "https://app.example.evil.example", "http://app.example"]
    {
        let refused = get_as(&node, &own, &format!("Origin: {origin}\r\n"));
        assert!(refused.problem(403).contains("cors_origins"), "{origin}");
        assert_eq!(refused.header("Access-Control-Allow-Origin"), None);
    }
}

#[test]
fn a_listed_origin_may_call_and_ask_first() {
    let node = Node::start("[server]\ncors_origins = [\"https://app.example\"]\n");
    let origin = ("Origin", "https://app.example");
    let reply = node.request("GET", "/healthz", &[origin], "");
    assert_eq!(
        (reply.status, reply.header("Access-Control-Allow-Origin"), reply.header("Vary")),
        (200, Some("https://app.example"), Some("Origin"))
    );
    // By name, so that its pages may send cookies; and they can read the time to retry.
    assert_eq!(reply.header("Access-Control-Allow-Credentials"), Some("true"));
    let exposed = reply.header("Access-Control-Expose-Headers").expect("the field is set");
    assert!(["Location", "Retry-After", "RateLimit-Remaining"].iter().all(|name| exposed.contains(name)), "{exposed}");
    let other = node.get("/healthz");
    assert_eq!((other.header("Access-Control-Allow-Credentials"), other.header("Vary")), (None, Some("Origin")));
    let stream = node.stream("/events", &[origin]);
    assert_eq!(stream.header("Access-Control-Allow-Origin"), Some("https://app.example"));
    let problem = node.request("GET", "/nothing", &[origin], "");
    assert_eq!(
        (problem.status, problem.header("Access-Control-Allow-Origin")),
        (404, Some("https://app.example")),
        "pages may read refusals"
    );
    let asked = node.request(
        "OPTIONS",
        "/events",
        &[origin, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type")],
        "",
    );
    assert_eq!((asked.status, asked.header("Access-Control-Allow-Credentials")), (204, Some("true")));
    assert!(
        asked
            .header("Access-Control-Allow-Methods")
            .is_some_and(|methods| methods.contains("POST") && methods.contains("PATCH"))
    );
    let allowed = asked.header("Access-Control-Allow-Headers").expect("the field is set").to_lowercase();
    for header in [
        "content-type",
        "last-event-id",
        "x-auth-token",
        "authorization",
        "idempotency-key",
        "cache-control",
        "pragma",
        "x-requested-with",
        "traceparent",
    ] {
        assert!(allowed.contains(header), "{allowed}");
    }
    // For a listed origin the fields of libraries are permitted, too; an invalid field name is not repeated.
    let asked = "authorization,cache-control, x-secret-key,x-library-version,no name,<b>";
    let asked = node.request(
        "OPTIONS",
        "/events",
        &[origin, ("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", asked)],
        "",
    );
    let allowed = asked.header("Access-Control-Allow-Headers").expect("the field is set").to_lowercase();
    let names: Vec<&str> = allowed.split(", ").collect();
    assert!(
        ["cache-control", "x-secret-key", "x-library-version"].iter().all(|name| names.contains(name)),
        "{allowed}"
    );
    assert!(!allowed.contains("no name") && !allowed.contains('<'), "{allowed}");
    assert_eq!(names.iter().filter(|name| **name == "authorization").count(), 1, "{allowed}");
    node.request(
        "OPTIONS",
        "/events",
        &[("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")],
        "",
    )
    .problem(403);
}

#[test]
fn an_unlisted_origin_does_not_get_the_permitted_fields() {
    let node = Node::start("");
    // The node's own pages need no preflight, and no other page is permitted.
    let own = format!("http://{}", node.addr);
    let asked = node.request("OPTIONS", "/events", &[("Origin", &own), ("Access-Control-Request-Method", "POST")], "");
    assert!(asked.problem(403).contains("cors_origins"));
    assert_eq!(asked.header("Access-Control-Allow-Methods"), None);
    assert_eq!(node.get("/healthz").header("Vary"), None);
}

#[test]
fn pages_may_do_only_what_they_need() {
    let node = Node::start("");
    for path in ["/", "/sse-client.html", "/docs/"] {
        let page = node.get(path);
        let policy = page.header("Content-Security-Policy").expect("a policy");
        let scripts = policy.split(';').find(|rule| rule.trim().starts_with("script-src"));
        assert!(policy.contains("default-src 'self'") && scripts.is_none(), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(page.header("Referrer-Policy"), Some("no-referrer"), "{path}");
        assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
        // Every script comes from a file of the node, or the policy would stop it.
        for tag in page.text().split("<script").skip(1) {
            assert!(tag.split('>').next().is_some_and(|tag| tag.contains("src=")), "{path}: <script{tag}");
        }
    }
}

#[test]
fn answers_in_json_are_packed_for_who_takes_it_and_streams_never() {
    use std::io::Read;
    let node = Node::start("[server]\ncompress = true\n");
    for _ in 0..20 {
        node.publish("a", "news", &json!("the same again and again ".repeat(200)));
    }
    let gzip = ("Accept-Encoding", "br, gzip;q=0.8");
    let path = "/api/topics/a/events";
    let plain = node.get(path);
    assert_eq!((plain.header("Content-Encoding"), plain.header("Vary")), (None, Some("Accept-Encoding")));
    let packed = node.request("GET", path, &[gzip], "");
    assert_eq!(packed.header("Content-Encoding"), Some("gzip"));
    assert!(packed.body.len() * 5 < plain.body.len(), "{} of {}", packed.body.len(), plain.body.len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut text).expect("gzip");
    assert_eq!(text, plain.body);
    let refused = node.request("GET", path, &[("Accept-Encoding", "gzip;q=0, identity")], "");
    assert_eq!(refused.header("Content-Encoding"), None);
    assert_eq!(node.request("GET", "/healthz", &[gzip], "").header("Content-Encoding"), None, "it is tiny");
    let mut stream = node.stream("/events?topic=a", &[gzip]);
    assert_eq!(stream.header("Content-Encoding"), None);
    stream.until("connection");
}

#[test]
fn headers_of_the_configuration_are_on_every_response() {
    let node = Node::start("[server]\nheaders = { \"X-Frame-Options\" = \"DENY\", \"X-Node\" = \"a\" }\n");
    for path in ["/healthz", "/nothing", "/", "/openapi.json", "/metrics", "/docs/"] {
        let reply = node.get(path);
        assert_eq!((reply.header("X-Frame-Options"), reply.header("X-Node")), (Some("DENY"), Some("a")), "{path}");
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
    }
    assert_eq!(node.stream("/events", &[]).header("X-Node"), Some("a"));
}

#[test]
fn one_connection_too_many_gets_a_response_and_a_closed_one_frees_its_permit() {
    let node = Node::start("[server]\nmax_connections = 3\n");
    let mut streams: Vec<_> = (0..3).map(|_| node.stream("/events", &[])).collect();
    for stream in &mut streams {
        stream.until("connection");
    }
    let mut refused = node.stream("/events", &[]);
    assert_eq!((refused.status, refused.header("Content-Type")), (200, Some("text/event-stream")));
    let frame = refused.next();
    assert_eq!(
        (frame.event.as_str(), frame.json(), frame.id.as_str()),
        ("disconnect", json!({ "reason": "full" }), "")
    );
    assert!(refused.retry.is_some_and(|ms| (1500..=4500).contains(&ms)), "{:?}", refused.retry);
    assert_eq!(refused.rest(), []);
    let other = node.get("/healthz");
    assert!(other.problem(503).contains("max_connections"));
    assert!(other.header("Retry-After").is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
    let event = json!({ "topic": "t", "data": 1 });
    node.json("POST", "/events", &event).problem(503);

    streams.pop();
    let published = eventually(|| Some(node.json("POST", "/events", &event)).filter(|reply| reply.status == 200));
    assert_eq!(published.json()["delivered"], 2, "the other streams were left alone");
    assert_eq!(streams[0].next_own().data, "1");
}

#[test]
fn the_log_has_the_ends_of_streams_events_and_jobs() {
    let node = Node::start("[telemetry]\nformat = \"json\"\n");
    let mut stream = node.stream("/events?topic=t", &[("X-User-ID", "7")]);
    let emitter = stream.until("connection").json()["emitterId"].clone();
    node.publish("t", "e", &json!(1));
    stream.next_own();
    drop(stream);
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "id": "a", "run": "Calculate Stats" }] }))["jobId"].clone();
    let line = |message: &str, field: &str, value: &Value| {
        eventually(|| {
            let log = node.log();
            let mut lines = log
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON")["fields"].take());
            lines.find(|fields| fields["message"] == message && fields[field] == *value)
        })
    };
    assert_eq!(line("stream opened", "emitter", &emitter)["user"], "7");
    let closed = line("stream closed", "emitter", &emitter);
    assert_eq!(
        (&closed["reason"], &closed["delivered"], &closed["dropped"], &closed["user"]),
        (&json!("client_gone"), &json!(1), &json!(0), &json!("7"))
    );
    assert_eq!(line("event published", "topic", &json!("t"))["delivered"], 1);
    line("job accepted", "job_id", &job);
    assert_eq!(line("task ended", "job_id", &job)["status"], "completed");
    let ended = line("job ended", "job_id", &job);
    assert_eq!((&ended["status"], &ended["succeeded"], &ended["failed"]), (&json!("completed"), &json!(1), &json!(0)));
    assert_eq!(line("listening", "addr", &json!(node.addr.to_string()))["message"], "listening");
}

/// The first line of JSON with this message.
fn json_line(node: &Node, message: &str) -> Value {
    eventually(|| {
        let log = node.log();
        let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        lines.find(|line| line["fields"]["message"] == message)
    })
}

/// The span of this name around a line.
fn span(line: &Value, name: &str) -> Value {
    let spans = line["spans"].as_array().unwrap_or_else(|| panic!("no spans: {line}"));
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no span `{name}`: {line}")).clone()
}

#[test]
fn each_line_names_its_span() {
    let node = Node::start("[telemetry]\nformat = \"json\"\n");
    let fields = [("X-Request-Id", "mine"), ("Content-Type", "application/json")];
    let event = json!({ "event": "e", "data": 1 }).to_string();
    let path = "/api/sse/managed/send/user/7";
    assert_eq!(node.request("POST", &format!("{path}?_=1"), &fields, &event).status, 400);
    assert_eq!(node.request("POST", path, &fields, &event).status, 200);
    let published = json_line(&node, "event published");
    assert_eq!(span(&published, "request"), json!({ "name": "request", "id": "mine", "method": "POST", "path": path }));

    let mut stream = node.stream("/events?topic=t", &[("X-User-ID", "7"), ("X-Request-Id", "opens-a-stream")]);
    let emitter = stream.until("connection").json()["emitterId"].clone();
    drop(stream);
    let own = json!({ "name": "stream", "emitter": emitter, "user": "7" });
    let opened = json_line(&node, "stream opened");
    assert_eq!((span(&opened, "stream"), &span(&opened, "request")["id"]), (own.clone(), &json!("opens-a-stream")));
    assert_eq!(json_line(&node, "stream closed")["spans"], json!([own]), "its request has ended");

    let job = node.post("/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats" }] }))["jobId"].clone();
    for message in ["job accepted", "task ended", "job ended"] {
        assert_eq!(json_line(&node, message)["spans"], json!([{ "name": "job", "id": job }]), "{message}");
    }
}

/// Warnings keep the request that they belong to, and a long path does not fill the log.
#[test]
fn a_refused_request_is_named_whatever_the_filter() {
    let node = Node::start("[telemetry]\nlog = \"warn\"\n");
    let path = format!("/events/{}", "x".repeat(300));
    let head = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n");
    node.raw(head).problem(403);
    let log = node.logged("access refused");
    let line = log.lines().find(|line| line.contains("access refused")).expect("a line");
    let span = format!(" WARN request{{id=mine method=GET path={}}}: millstream::audit: ", &path[..200]);
    assert!(line.contains(&span), "{line}");
}

#[test]
fn metrics_count_what_happens() {
    let node = Node::start("");
    let mut stream = node.stream("/events", &[]);
    stream.until("connection");
    node.publish("t", "e", &json!(1));
    stream.next_own();
    node.post_stream("/api/sse/parallel-tasks", &json!({ "tasks": [{ "run": "Calculate Stats" }] })).until("complete");
    let reply = node.get("/metrics");
    assert!(reply.header("Content-Type").is_some_and(|media| media.starts_with("application/openmetrics-text")));
    assert!(reply.text().ends_with("# EOF\n"));
    for (name, least) in [
        ("streams_opened_total", 2.0),
        ("streams_open", 1.0),
        ("events_delivered_total", 2.0),
        ("events_dropped_total", 0.0),
        ("emitters_lagged_total", 0.0),
        ("gaps_total", 0.0),
        ("filters_failed_total", 0.0),
        ("heartbeats_total", 0.0),
        ("journal_events", 2.0),
        ("journal_bytes", 1.0),
        ("journal_topics", 2.0),
        ("journal_events_appended_total", 5.0),
        ("journal_events_trimmed_total", 0.0),
        ("jobs_accepted_total", 1.0),
        ("jobs_running", 0.0),
        ("jobs_ended_total{status=\"completed\"}", 1.0),
        ("tasks_succeeded_total", 1.0),
        ("tasks_failed_total", 0.0),
        ("tasks_running", 0.0),
        ("connections", 1.0),
        ("connections_limit", 100.0),
        ("ready", 1.0),
        ("http_responses_total{class=\"2xx\"}", 3.0),
        ("streams_closed_total{reason=\"shutdown\"}", 0.0),
    ] {
        let value = node.metric(&format!("millstream_{name}"));
        assert!(value >= least, "{name} = {value}");
    }
    for name in
        reply.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
    {
        let own = name.strip_prefix("millstream_").unwrap_or_else(|| panic!("{name}"));
        let documented = [format!("`{own}`"), format!("`{own}{{")].iter().any(|form| METRICS.contains(form));
        assert!(documented, "docs/operating.md has no metric `{own}`");
    }
}

#[test]
fn refused_requests_are_counted_by_reason() {
    let node = Node::start("[limits]\nconnections_per_address = 1\n");
    let refused = |reason: &str| node.metric(&format!("millstream_http_refused_total{{reason=\"{reason}\"}}"));
    assert_eq!(get_as(&node, "evil.example", "").status, 403);
    assert_eq!(get_as(&node, "localhost", "Origin: https://evil.example\r\n").status, 403);
    assert_eq!((refused("host_not_allowed"), refused("origin_not_allowed"), refused("node_full")), (1.0, 1.0, 0.0));
    let mut stream = node.stream("/events", &[]);
    stream.until("connection");
    // As a problem, and as a stream for an EventSource.
    let problem = node.raw(format!("GET /events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.addr));
    assert!(problem.problem(429).contains("connections_per_address"));
    assert_eq!(node.stream("/events", &[]).until("disconnect").json()["reason"], "too_many_streams");
    assert_eq!(refused("too_many_streams"), 2.0);
}

#[test]
fn pages_come_from_the_binary_and_may_load_nothing_else() {
    let node = Node::start("");
    for (path, media) in [
        ("/", "text/html"),
        ("/sse-client.html", "text/html"),
        ("/sse-client.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let reply = node.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("Content-Type").is_some_and(|own| own.starts_with(media)), "{path}: {reply:?}");
        let policy = reply.header("Content-Security-Policy").expect("pages have a policy");
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let text = reply.text();
        for outside in ["src=\"http", "href=\"http", "@import", "//cdn"] {
            assert!(!text.contains(outside), "{path} loads {outside}");
        }
        assert!(
            media != "text/html" || !text.contains("<script>") && !text.contains(" style=\""),
            "{path} would be stopped by its policy"
        );
    }
    node.request("POST", "/sse-client.html", &[], "").problem(405);
}

#[test]
fn the_shipped_configurations_are_good() {
    for name in ["config/orchestrator.toml", "config/reactive.toml"] {
        let done = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(["check-config", "--config", name])
            .output()
            .expect("it runs");
        assert_eq!(done.status.code(), Some(0), "{done:?}");
    }
}
