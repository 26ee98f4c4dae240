//! Webhooks, against the program: an authenticated delivery becomes an event once, another one gets no information.
//! Named streams are in `named`.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};

mod delivery;
mod loops;
mod named;
#[path = "../support/mod.rs"]
mod support;

use delivery::{Delivery, now, order};
use support::{Node, Reply, assert_problem};

const SETTINGS: &str = r#"
[webhooks.plain]
secret_env = "PLAIN_SECRET"
header = "x-token"
event_from = "/status"
events = { ok = "done" }
topic = "news"
[webhooks.standard]
secret_env = ["NEW_SECRET", "OLD_SECRET"]
scheme = "standard-webhooks"
event_from = "/type"
data = { n = "/data/n" }
user = { from = "/data/user" }
[webhooks.git]
secret_env = "GIT_SECRET"
scheme = "github"
event_from = "header:x-github-event"
group = "ops"
[streams.news]
topics = ["news"]
groups = ["ops"]
headers = { "X-Robots-Tag" = "noindex" }
connected_event = "connected"
"#;

const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECRETS: [(&str, &str); 4] = [
    ("PLAIN_SECRET", "plain-hush-1"),
    ("NEW_SECRET", "whsec_aHVzaGh1c2hodXNoaHVzaGh1c2hodXNo"),
    ("OLD_SECRET", OLD_SECRET),
    ("GIT_SECRET", "git-hush-2"),
];

fn start() -> Node {
    Node::start_with_env(SETTINGS, &SECRETS)
}

#[test]
fn a_delivery_of_each_scheme_becomes_an_event_for_whom_the_settings_say() {
    let node = start();
    let mut news_stream = node.stream("/api/sse/news", &[]);
    news_stream.until("connected");
    let mut user = node.stream("/api/sse/managed/connect", &[("X-User-ID", "42")]);
    user.until("connection");

    let answer = Delivery::plain(&json!({ "status": "ok", "é": [1, "x"] })).taken(&node);
    assert_eq!(answer["delivered"], 1);
    let event = news_stream.next_own();
    assert_eq!((event.event.as_str(), event.data.as_str()), ("done", r#"{"status":"ok","é":[1,"x"]}"#));
    assert_eq!(event.id, answer["id"].as_str().expect("an id"));
    assert_eq!(answer.as_object().expect("an object").len(), 2, "{answer}");

    let answer = Delivery::git("d-1", &json!({ "ref": "main" })).taken(&node);
    assert_eq!(answer["delivered"], 1);
    let event = news_stream.next_own();
    assert_eq!((event.event.as_str(), event.data.as_str()), ("push", r#"{"ref":"main"}"#));

    let answer = Delivery::standard("msg_1", now(), &order(7)).taken(&node);
    assert_eq!(answer["delivered"], 1);
    let event = user.next_own();
    assert_eq!((event.event.as_str(), event.data.as_str()), ("order.paid", r#"{"n":7}"#));
    assert_eq!(node.metric("millstream_webhook_deliveries_total"), 3.0);
}

#[test]
fn whatever_is_wrong_with_a_secret_the_answer_is_the_same() {
    let node = start();
    let ok = json!({ "status": "ok" });
    let standard = |seconds| Delivery::standard("msg_1", seconds, &order(1));
    let git = || Delivery::git("d-1", &ok);
    let other = git().headers[2].1.clone();
    let wrong = [
        Delivery::plain(&ok).with("x-token", "plain-hush-2"),
        Delivery::plain(&ok).with("x-token", ""),
        Delivery::plain(&ok).without("x-token"),
        Delivery::plain(&ok).with("x-token", "wrong").body("no JSON"),
        standard(now()).without("webhook-id"),
        standard(now()).without("webhook-timestamp"),
        standard(now()).without("webhook-signature"),
        standard(now()).with("webhook-id", "msg_2"),
        standard(now()).with("webhook-timestamp", "soon"),
        standard(now()).with("webhook-signature", "v1,AAAA"),
        standard(now()).with("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        standard(now()).body("{}"),
        standard(now() - 400),
        standard(now() + 400),
        git().without("X-Hub-Signature-256"),
        git().with("X-Hub-Signature-256", &other.replace("sha256=", "sha1=")),
        git().body("{}"),
    ];
    let first = wrong[0].send(&node);
    assert_problem("a wrong secret", &first, &[401]);
    assert!(first.header("WWW-Authenticate").is_some(), "{first:?}");
    let undated = |reply: &Reply| {
        let same =
            |line: &&str| !["date:", "x-request-id:"].iter().any(|name| line.to_ascii_lowercase().starts_with(name));
        let lines = reply.head.lines().filter(same);
        // Their order changes from answer to answer.
        (lines.map(str::to_owned).collect::<BTreeSet<_>>(), reply.text())
    };
    for delivery in &wrong {
        let reply = delivery.send(&node);
        assert_eq!(undated(&reply), undated(&first), "{:?} {}", delivery.headers, delivery.body);
    }
    // A repeated field counts as absent.
    let mut twice = Delivery::plain(&ok);
    twice.headers.push(("x-token", "plain-hush-1".into()));
    assert_eq!(undated(&twice.send(&node)), undated(&first));

    assert_eq!(node.metric("millstream_webhook_deliveries_total"), 0.0);
    let refused = |reason: &str| node.metric(&format!("millstream_webhook_refusals_total{{reason=\"{reason}\"}}"));
    assert_eq!(refused("late"), 2.0);
    assert_eq!(refused("missing") + refused("malformed") + refused("wrong"), wrong.len() as f64);
}

#[test]
fn a_repeated_delivery_is_appended_once_also_after_a_restart() {
    let mut node = start();
    let first = Delivery::standard("msg_1", now() - 5, &order(1)).taken(&node);
    assert_eq!(first["duplicate"], Value::Null);
    // The same once more, and as the sender tries it again: with another timestamp.
    for seconds in [now() - 5, now()] {
        let again = Delivery::standard("msg_1", seconds, &order(1)).taken(&node);
        assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    }
    let push = Delivery::git("d-1", &json!({ "ref": "main" }));
    let pushed = push.taken(&node)["id"].clone();
    node.restart();
    assert_eq!(Delivery::standard("msg_1", now(), &order(1)).taken(&node)["id"], first["id"]);
    assert_eq!(push.taken(&node)["id"], pushed);
    assert_eq!(node.metric("millstream_webhook_duplicates_total"), 2.0);

    let other = Delivery::standard("msg_1", now(), &order(2)).send(&node);
    assert_problem("another body under an id that was used", &other, &[422]);
    // Ids are the webhook's own: no publisher and no other webhook has them.
    let event = json!({ "topic": "user:42", "event": "order.paid", "data": { "n": 9 }, "id": "msg_1" });
    let published = node.request("POST", "/events", &[("X-User-ID", "webhook:standard")], event.to_string());
    assert_eq!((published.status, published.json()["duplicate"].clone()), (200, Value::Null));
    assert_eq!(Delivery::git("msg_1", &json!({})).taken(&node)["duplicate"], Value::Null);
    let page = node.get("/api/topics/user:42/events").json();
    assert_eq!(page["events"].as_array().expect("events").len(), 2, "{page}");
}

#[test]
fn a_delivery_that_cannot_be_mapped_is_refused_with_the_missing_field() {
    let node = start();
    let plain = |body: &str| Delivery::plain(&Value::Null).body(body).send(&node).problem(422);
    assert!(plain("{}").contains("`/status`"));
    assert!(plain(r#"{"status":"late"}"#).contains("`late`"));
    assert!(plain("{").contains("not JSON, and `/status` is needed"));
    assert!(plain("").contains("not JSON"));
    let standard = |body: &Value| Delivery::standard("m", now(), body).send(&node).problem(422);
    assert!(standard(&json!({ "type": "a", "data": { "user": 1 } })).contains("`/data/n`"));
    assert!(standard(&json!({ "type": "a", "data": { "n": 1, "user": "a b" } })).contains("`/data/user`"));
    assert!(standard(&json!({ "type": "a\nid: 1", "data": { "n": 1, "user": 1 } })).contains("`event`"));
    assert!(
        Delivery::git("d", &json!({})).without("X-GitHub-Event").send(&node).problem(422).contains("x-github-event")
    );
    assert_eq!(node.metric("millstream_webhook_refusals_total{reason=\"unmapped\"}"), 7.0);
}

#[test]
fn requests_are_bounded_as_everywhere() {
    let settings = format!("{SETTINGS}[server]\nbody_limit_bytes = 2000\nbody_timeout_ms = 300\n");
    let node = Node::start_with_env(&settings, &SECRETS);
    let send =
        |method: &str, path: &str, headers: &[(&str, &str)], body: &str| node.request(method, path, headers, body);
    let token = ("x-token", "plain-hush-1");
    send("POST", "/api/webhooks/nobody", &[], "{}").problem(404);
    send("POST", "/api/webhooks/plain?event=x", &[token], "{}").problem(400);
    let get = send("GET", "/api/webhooks/plain", &[token], "");
    get.problem(405);
    assert_eq!(get.header("Allow"), Some("POST, OPTIONS"));
    send("POST", "/api/webhooks/plain", &[token], &format!("\"{}\"", "x".repeat(2000))).problem(413);
    send("POST", "/api/webhooks/plain", &[token, ("Content-Type", "text/plain")], "{}").problem(415);
    send("POST", "/api/webhooks/plain", &[token, ("Content-Encoding", "gzip")], "{}").problem(415);
    let head = format!("Host: {}\r\nx-token: {}\r\nConnection: close\r\nContent-Length: 10", node.addr, token.1);
    assert_problem("a slow body", &node.raw(format!("POST /api/webhooks/plain HTTP/1.1\r\n{head}\r\n\r\n{{")), &[408]);
    // Who has no secret is not waited for.
    let refused = node.raw(format!("POST /api/webhooks/plain HTTP/1.1\r\n{}\r\n\r\n{{", head.replace("hush", "hash")));
    assert_problem("a slow body without a secret", &refused, &[401]);
    node.must_be_healthy();
}

/// The body is hashed while it arrives: where it is divided must not matter, and half a body proves nothing.
#[test]
fn a_body_in_pieces_is_proven_when_it_is_whole() {
    use std::io::Write;
    let node = start();
    let delivery = Delivery::standard("msg_1", now(), &order(1));
    let fields: Vec<_> = delivery.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    let head = format!("POST /api/webhooks/standard HTTP/1.1\r\nHost: {}\r\n{fields}", node.addr);
    let chunks = |size: usize| -> String {
        let pieces = delivery.body.as_bytes().chunks(size);
        let chunk = |piece: &[u8]| format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece));
        pieces.map(chunk).collect::<Vec<_>>().concat()
    };

    // The client leaves in the midst of its body.
    let mut half = node.socket();
    let text = format!("{head}Content-Length: {}\r\n\r\n{}", delivery.body.len(), &delivery.body[..9]);
    half.write_all(text.as_bytes()).expect("send");
    drop(half);
    for (size, duplicate) in [(1, Value::Null), (10, json!(true)), (1000, json!(true))] {
        let text = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{}0\r\n\r\n", chunks(size));
        let reply = node.raw(text);
        assert_eq!((reply.status, &reply.json()["duplicate"]), (200, &duplicate), "{reply:?}");
    }
    assert_eq!(node.metric("millstream_webhook_deliveries_total"), 1.0);
    assert_eq!(node.metric("millstream_webhook_refusals_total{reason=\"wrong\"}"), 0.0);

    // A body that cannot help is not asked for.
    let expects = format!("{head}Content-Length: 10\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n");
    let refused = node.raw(expects.replace("msg_1", "msg.1"));
    assert_problem("a refused claim", &refused, &[401]);
}

/// The secret opens the webhook, not the node.
#[test]
fn a_webhook_is_behind_the_loopback_rule_of_open_mode() {
    let node = start();
    let request = |host: &str, more: &str| {
        let head =
            format!("Host: {host}\r\nx-token: plain-hush-1\r\nConnection: close\r\nContent-Length: 15\r\n{more}");
        node.raw(format!("POST /api/webhooks/plain HTTP/1.1\r\n{head}\r\n{{\"status\":\"ok\"}}"))
    };
    assert_problem("a foreign host", &request("evil.example", ""), &[403]);
    assert_problem("a foreign page", &request("localhost", "Origin: http://evil.example\r\n"), &[403]);
    assert_eq!(request("localhost", "").status, 200);
}

/// `check-config`, with or without the environment that the settings need.
fn check_config(settings: &str, command: &str, secrets: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a temp directory");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, settings).expect("write");
    let mut program = Command::new(env!("CARGO_BIN_EXE_millstream"));
    program.args([command, "--config"]).arg(&file).args(["--listen", "127.0.0.1:0", "--data-dir"]);
    let done = program.arg(dir.path().join("data")).envs(secrets.iter().copied()).output().expect("it runs");
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn a_node_does_not_start_without_a_secret_or_with_a_wrong_one() {
    for (name, value, message) in
        [("GIT_SECRET", " ", "is not set, or empty"), ("OLD_SECRET", "whsec_hush", "contains no valid secret")]
    {
        let secrets = SECRETS.map(|(own, secret)| if own == name { (own, value) } else { (own, secret) });
        let (code, output) = check_config(SETTINGS, "serve", &secrets);
        assert_eq!(code, Some(64), "{output}");
        assert!(output.contains(&format!("`{name}`")) && output.contains(message), "{output}");
        assert!(output.contains(".secret_env`") && !output.contains("hush"), "{output}");
    }
    let (code, output) = check_config("[webhooks.a]\nsecret_enf = 'X'", "check-config", &[]);
    assert_eq!(code, Some(64), "{output}");
    assert!(output.contains("did you mean `secret_env`"), "{output}");
    let (code, output) = check_config("[streams.managed]\ntopics = ['a']", "check-config", &[]);
    assert_eq!(code, Some(64), "{output}");
    assert!(output.contains("`streams.managed`"), "{output}");
}

#[test]
fn a_webhook_that_is_off_is_reported_at_the_start_and_to_its_senders() {
    let node = Node::start("");
    let log = node.logged("webhook off");
    assert!(log.contains("webhook off") && log.contains("UGC_WEBHOOK_SECRET"), "{log}");
    let reply = node.json("POST", "/api/webhooks/ugc-completed", &json!({}));
    assert!(reply.problem(503).contains("off"));
    assert!(reply.header("Retry-After").is_some());
}

#[test]
fn no_secret_gets_into_logs_or_settings() {
    let settings = format!("{SETTINGS}[telemetry]\nlog = \"trace\"\n");
    let node = Node::start_with_env(&settings, &SECRETS);
    Delivery::plain(&json!({ "status": "ok" })).taken(&node);
    Delivery::standard("msg_1", now(), &order(1)).taken(&node);
    Delivery::plain(&json!({})).with("x-token", "plain-hush-3").send(&node).problem(401);
    let (code, output) = check_config(&settings, "check-config", &SECRETS);
    assert_eq!(code, Some(0), "{output}");
    let log = node.logged("delivery refused");
    assert!(log.contains("delivery refused"), "the log is as loud as can be");
    for (_, secret) in SECRETS.into_iter().chain([("", "plain-hush-3")]) {
        assert!(!output.contains(secret), "{output}");
        let line = log.lines().find(|line| line.contains(secret) && line.contains("millstream::"));
        assert_eq!(line, None, "{secret}");
    }
}
