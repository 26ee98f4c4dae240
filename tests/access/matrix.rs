//! Every route with every kind of caller. The routes are those of the program's own table: a route without a row here
//! fails.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    rig::{ADMIN, ALICE, BOB, Issuer, WRONG, ask, node, seconds_from_now, stream},
    support::{Node, eventually, routes::route_table},
};

/// The callers that may use a route. The row also has the response for the others.
#[derive(Clone, Copy, Debug)]
enum For {
    /// No token is asked for, and a wrong one does no harm.
    Public,
    /// Every known caller.
    Callers,
    /// Alice, who has the right or whose it is; Bob gets this.
    Alice(u16),
    /// Admins; Alice and Bob get 403.
    Admins,
}

use For::{Admins, Alice, Callers, Public};

struct Row {
    route: (&'static str, &'static str),
    who: For,
    /// The responses to permitted callers. Some requests are for entities that do not exist, which is after the check
    /// of rights.
    then: &'static [u16],
    body: Option<Value>,
}

fn row(method: &'static str, path: &'static str, who: For, then: &'static [u16]) -> Row {
    Row { route: (method, path), who, then, body: None }
}

fn with(method: &'static str, path: &'static str, who: For, then: &'static [u16], body: Value) -> Row {
    Row { route: (method, path), who, then, body: Some(body) }
}

fn rows() -> Vec<Row> {
    let event = json!({ "event": "news", "data": 1 });
    let job = json!({ "tasks": [{ "run": "task1" }] });
    let relay = json!({ "topic": "orders:r", "sources": [{ "remote": "reactive", "path": "/events" }] });
    let managed = |rest: &str| -> &'static str { format!("/api/sse/managed/{rest}").leak() };
    let proxy = |rest: &str| -> &'static str { format!("/api/sse-proxy/{rest}").leak() };
    vec![
        // Connections
        row("get", managed("connect"), Callers, &[200]),
        row("get", managed("connect/group/{group}"), Alice(403), &[200]),
        row("get", "/events", Callers, &[200]),
        row("get", managed("status"), Admins, &[200]),
        row("get", managed("status/user/{user}"), Alice(403), &[200]),
        row("get", managed("status/group/{group}"), Alice(403), &[200]),
        row("get", managed("emitters"), Callers, &[200]),
        with("patch", managed("emitters/{emitter}"), Alice(404), &[200], json!({ "topics": ["orders:1"] })),
        row("delete", managed("emitters/{emitter}"), Admins, &[200]),
        row("delete", managed("disconnect/user/{user}"), Admins, &[200]),
        row("delete", managed("disconnect/group/{group}"), Admins, &[200]),
        row("get", "/api/me", Callers, &[200]),
        row("post", "/api/tickets", Callers, &[201]),
        row("get", "/api/topics", Callers, &[200]),
        row("get", "/api/topics/{topic}/events", Alice(403), &[200]),
        row("delete", "/api/topics/{topic}", Admins, &[200]),
        // Publishing
        with("post", "/events", Alice(403), &[200], json!({ "topic": "orders:1", "data": 1 })),
        with("post", managed("send/user/{user}"), Alice(403), &[200], json!(1)),
        with("post", managed("send/emitter/{emitter}"), Alice(403), &[200], json!(1)),
        with("post", managed("send/filtered"), Alice(403), &[200], json!({ "filter": {}, "data": 1 })),
        with("post", managed("broadcast/group/{group}"), Alice(403), &[200], event.clone()),
        with("post", managed("broadcast"), Alice(403), &[200], event.clone()),
        with("post", managed("broadcast/all"), Alice(403), &[200], event),
        // Jobs
        with("post", "/api/sse/emitter/parallel-tasks", Alice(403), &[200], job.clone()),
        with("post", "/api/sse/parallel-tasks", Alice(403), &[200], job.clone()),
        row("get", "/api/sse/parallel-tasks-progress", Alice(403), &[200]),
        with("post", "/api/sse/parallel-tasks-progress", Alice(403), &[200], job.clone()),
        row("get", "/api/jobs", Callers, &[200]),
        with("post", "/api/jobs", Alice(403), &[202], job.clone()),
        row("get", "/api/jobs/{job}", Alice(404), &[200]),
        // The job has ended, and well: past the question whose it is.
        row("delete", "/api/jobs/{job}", Alice(404), &[409]),
        row("post", "/api/jobs/{job}/retry", Alice(404), &[409]),
        row("get", "/api/jobs/{job}/events", Alice(404), &[200]),
        row("get", "/api/jobs/{job}/tasks/{task}/result", Alice(404), &[200]),
        row("get", "/api/sse/sample-parallel", Alice(403), &[200]),
        row("get", "/api/sse/rate-limited-sse", Alice(403), &[200]),
        row("get", "/api/sse/flow-example", Alice(403), &[200]),
        with(
            "post",
            "/api/sse-integration/hybrid-execution/sse-emitter",
            Alice(403),
            &[200],
            json!({ "localTasks": ["task1"], "remoteTasks": ["task2"] }),
        ),
        with("post", proxy("{remote}/parallel-tasks/sse-emitter"), Alice(403), &[200], job),
        row("get", "/api/sse/{stream}", Alice(403), &[200]),
        // Its secret is its own credential; there is no such webhook.
        row("post", "/api/webhooks/{name}", Public, &[404]),
        row("get", "/api/sse/samples/orders.csv", Public, &[200]),
        row("get", "/api/sse/samples/quotes", Public, &[200]),
        // Remote streams; no server listens at the remote's address.
        row("get", proxy("connections"), Admins, &[200]),
        row("delete", proxy("connections/{id}"), Admins, &[404]),
        with("post", proxy("merge-streams/sse-emitter"), Alice(403), &[200], json!(["/events"])),
        row("get", proxy("{remote}/sample-parallel/sse-emitter"), Alice(403), &[502]),
        row("get", proxy("{remote}/{path}"), Alice(403), &[502]),
        row("post", proxy("{remote}/{path}"), Alice(403), &[502]),
        row("get", "/api/relays", Callers, &[200]),
        with("post", "/api/relays", Alice(403), &[201], relay),
        row("get", "/api/relays/{relay}", Alice(404), &[200]),
        row("delete", "/api/relays/{relay}", Alice(404), &[204]),
        row("get", "/api/relays/{relay}/events", Alice(404), &[200]),
        row("post", "/api/relays/{relay}/restart", Alice(404), &[202]),
        // Operating
        row("get", "/healthz", Public, &[200]),
        row("get", "/readyz", Public, &[200]),
        row("get", "/metrics", Admins, &[200]),
        row("get", "/", Public, &[200]),
        row("get", "/api/admin/journal", Admins, &[200]),
        row("get", "/api/admin/journal/export", Admins, &[200]),
        row("post", "/api/admin/journal/compact", Admins, &[200]),
        row("post", "/api/admin/journal/verify", Admins, &[200]),
    ]
}

/// Alice's entities, for the parts of paths. Some requests use their entity up, so each request gets its own.
fn names(node: &Node, path: &str) -> BTreeMap<&'static str, String> {
    let mut names = BTreeMap::from([
        ("user", "alice".to_owned()),
        ("group", "staff".to_owned()),
        ("topic", "orders:1".to_owned()),
        ("remote", "reactive".to_owned()),
        ("path", "events".to_owned()),
        ("stream", "shop".to_owned()),
        ("name", "nothing".to_owned()),
        ("id", "nothing".to_owned()),
    ]);
    if path.contains("{job}") {
        let spec = json!({ "tasks": [{ "id": "t", "run": "task1" }] });
        let job = ask(node, Some(ALICE), "POST", "/api/jobs", Some(&spec)).json()["jobId"]
            .as_str()
            .expect("a job")
            .to_owned();
        eventually(|| {
            let seen = ask(node, Some(ADMIN), "GET", &format!("/api/jobs/{job}"), None).json();
            (seen["status"] == "completed").then_some(())
        });
        names.insert("job", job);
        names.insert("task", "t".into());
    }
    if path.contains("{relay}") {
        let spec = json!({ "sources": [{ "remote": "reactive", "path": "/events" }] });
        let relay = ask(node, Some(ALICE), "POST", "/api/relays", Some(&spec)).json();
        names.insert("relay", relay["id"].as_str().expect("a relay").to_owned());
    }
    names
}

#[test]
fn every_route_is_open_only_to_its_callers() {
    let issuer = Issuer::ed25519();
    let node = node(&issuer);
    let expired = issuer.sign(&json!({ "sub": "alice", "exp": seconds_from_now(-3600) }));
    let callers = [
        ("no token", None),
        ("a wrong token", Some(WRONG)),
        ("an expired token", Some(&*expired)),
        ("alice", Some(ALICE)),
        ("bob", Some(BOB)),
        ("admin", Some(ADMIN)),
    ];
    let rows = rows();
    let known: BTreeSet<_> =
        rows.iter().map(|Row { route: (method, path), .. }| (method.to_string(), path.to_string())).collect();
    assert_eq!(known.len(), rows.len(), "a route has two rows");
    assert_eq!(known, route_table(), "each route of src/http.rs has one row here: who may ask, and what others get");
    let mut wrong = Vec::new();
    for Row { route: (method, pattern), who, then, body } in &rows {
        for (index, (name, token)) in callers.iter().enumerate() {
            let mut path = (*pattern).to_owned();
            for (part, value) in names(&node, pattern) {
                path = path.replace(&format!("{{{part}}}"), &value);
            }
            // Its emitter is there as long as the question.
            let emitter = path.contains("{emitter}").then(|| stream(&node, ALICE, "/api/sse/managed/connect"));
            if let Some((_, connection)) = &emitter {
                path = path.replace("{emitter}", connection["emitterId"].as_str().expect("an id"));
            }
            let expected: &[u16] = match (who, index) {
                (Public, _) | (_, 5) | (Callers | Alice(_), 3) | (Callers, 4) => then,
                (_, 0..=2) => &[401],
                (Alice(status), _) => std::slice::from_ref(status),
                (Admins, _) => &[403],
                (Callers, _) => unreachable!("there are six callers"),
            };
            let reply = ask(&node, *token, &method.to_uppercase(), &path, body.as_ref());
            if !expected.contains(&reply.status) {
                wrong.push(format!(
                    "{method} {path} by {name}: {expected:?} expected, {} came: {}",
                    reply.status,
                    reply.text()
                ));
            }
            if reply.status == 401 {
                assert!(reply.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer")), "{reply:?}");
            }
            if reply.status >= 400 {
                assert_eq!(reply.header("Content-Type"), Some("application/problem+json"), "{reply:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let figures = ask(&node, Some(ADMIN), "GET", "/metrics", None).text();
    for reason in ["no_credential", "unknown_token", "expired_token", "admin_only", "may_not_publish"] {
        let counted = format!("millstream_http_refused_total{{reason=\"{reason}\"}} ");
        let count = figures.lines().find_map(|line| line.strip_prefix(&counted)).expect("all reasons are listed");
        assert_ne!(count, "0", "{reason}");
    }
    let log = node.logged("an admin acts");
    for secret in [ADMIN, ALICE, BOB, WRONG, &*expired] {
        assert!(!log.contains(secret), "a token stands in the log");
    }
    assert!(log.contains("access refused") && log.contains("millstream::audit"), "refused access is noted");
    assert!(log.contains("admin_only") && log.contains("this is for admins"), "with the reason");
    assert!(log.contains("an admin acts"), "what admins do is noted");
}
