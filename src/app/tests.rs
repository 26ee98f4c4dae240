//! A node over real sockets, with the faulty handler of `http.rs`, and one with a faulty handler of tasks.

use bytes::Bytes;
use futures::TryStreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{
    jobs::{
        Submission, TaskHandler,
        handler::{Output, Task, TaskError},
    },
    journal::{BoxFuture, Kind},
    telemetry::Captured,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A response: its status, its fields, its body.
struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Panics, after it has waited once.
struct Faulty;

impl TaskHandler for Faulty {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            panic!("task {} is faulty", task.task_id)
        })
    }
}

/// Sends a request on a connection that stays open.
async fn http1(socket: &mut TcpStream, method: &str, path: &str, fields: &str) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    socket.write_all(head.as_bytes()).await.expect("send");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(timeout(PATIENCE, socket.read_u8()).await.expect("soon").expect("a response"));
    }
    let head = String::from_utf8(bytes).expect("text").to_ascii_lowercase();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let fields: Vec<(String, String)> = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut reply = Reply { status: head[9..12].parse().expect("a status"), fields, body: Vec::new() };
    let length = if method == "HEAD" { Some("0") } else { reply.field("content-length") };
    reply.body = vec![0; length.expect("a length").parse().expect("a number")];
    timeout(PATIENCE, socket.read_exact(&mut reply.body)).await.expect("soon").expect("a body");
    reply
}

async fn http2(client: &h2::client::SendRequest<Bytes>, method: &str, path: &str, id: &str) -> Reply {
    let request = ::http::Request::builder().method(method).uri(format!("http://localhost{path}"));
    let request = request.header("x-request-id", id).body(()).expect("a request");
    let mut client = client.clone().ready().await.expect("an open connection");
    let (response, _) = client.send_request(request, true).expect("sent");
    let (head, mut stream) = timeout(PATIENCE, response).await.expect("soon").expect("a response").into_parts();
    let mut body = Vec::new();
    while let Some(data) = timeout(PATIENCE, stream.data()).await.expect("soon") {
        body.extend_from_slice(&data.expect("no reset"));
    }
    let text = |value: &::http::HeaderValue| value.to_str().expect("text").to_owned();
    let fields = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Reply { status: head.status.as_u16(), fields, body }
}

fn assert_internal(reply: &Reply, id: &str, has_body: bool) {
    assert_eq!((reply.status, reply.field("x-request-id")), (500, Some(id)));
    assert_eq!(reply.field("content-type"), Some("application/problem+json"));
    assert_eq!((reply.field("x-content-type-options"), reply.field("x-node")), (Some("nosniff"), Some("7")));
    assert_eq!(reply.body.is_empty(), !has_body);
    if has_body {
        let problem: Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!((&problem["status"], &problem["code"]), (&500.into(), &"internal".into()));
    }
}

/// A panic costs one request: it gets a response like any other, and its connection serves the next ones.
#[actix_rt::test]
async fn a_handler_that_panics_is_a_problem_over_http_1_and_http_2() {
    let log = Captured::panics();
    let mut config = Config::parse("[server]\nheaders = { X-Node = \"7\" }", "the test").expect("good settings");
    config.journal.kind = Kind::Memory;
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.workers = 1;
    config.server.drain_ms = 0;
    let server = App::build(config).expect("a node").bind().expect("a port");
    let addr = server.addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = actix_rt::spawn(server.run(async { drop(stopped.await) }));

    let mut socket = TcpStream::connect(addr).await.expect("a connection");
    for (method, id) in [("GET", "h1-a"), ("HEAD", "h1-b"), ("POST", "h1-c")] {
        let fields = format!("X-Request-Id: {id}\r\nContent-Length: 0\r\n");
        assert_internal(&http1(&mut socket, method, "/panic", &fields).await, id, method != "HEAD");
    }
    let socket_2 = TcpStream::connect(addr).await.expect("a connection");
    let (client, connection) = h2::client::handshake(socket_2).await.expect("HTTP/2");
    actix_rt::spawn(connection);
    for (method, id) in [("GET", "h2-a"), ("HEAD", "h2-b")] {
        assert_internal(&http2(&client, method, "/panic", id).await, id, method != "HEAD");
    }
    assert_eq!(http2(&client, "GET", "/healthz", "h2-c").await.status, 200);
    let metrics = String::from_utf8(http1(&mut socket, "GET", "/metrics", "").await.body).expect("text");
    assert!(metrics.contains("millstream_http_responses_total{class=\"5xx\"} 5\n"), "{metrics}");

    // A body that the handler has not read must not keep the connection.
    let fields = "X-Request-Id: h1-d\r\nTransfer-Encoding: chunked\r\n";
    assert_internal(&http1(&mut socket, "POST", "/panic", fields).await, "h1-d", true);
    let ended = timeout(PATIENCE, socket.read(&mut [0])).await.expect("the connection ends");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");

    let log = log.text();
    for (id, method) in [("h1-a", "GET"), ("h1-b", "HEAD"), ("h1-c", "POST"), ("h2-a", "GET"), ("h1-d", "POST")] {
        let span = format!("request{{id={id} method={method} path=/panic}}: ");
        let line = log.lines().find(|line| line.contains(&span)).unwrap_or_else(|| panic!("{id}: {log}"));
        assert!(line.contains("panicked at src/http.rs") && line.contains("this handler is faulty"), "{line}");
    }
    stop.send(()).expect("it runs");
    timeout(PATIENCE, running).await.expect("it stops").expect("no panic").expect("in order");
}

/// Handlers do not know spans; their lines and panics still name their job and attempt.
#[actix_rt::test]
async fn a_panic_in_a_task_names_the_job_and_the_attempt() {
    let log = Captured::panics();
    let mut config = Config::default();
    config.journal.kind = Kind::Memory;
    let app = App::with_handlers(config, [("faulty".to_owned(), Registered::new(Faulty))]).expect("a node");
    let spec = serde_json::from_value(json!({ "tasks": [{ "id": "a", "run": "faulty" }] })).expect("a spec");
    let jobs = &app.node().jobs;
    let id = jobs.submit(Submission { spec, ..Submission::default() }).await.expect("accepted").job_id;
    let events: Vec<_> = timeout(PATIENCE, jobs.watch(&id).try_collect()).await.expect("it ends").expect("events");
    assert!(!events.is_empty());
    let (log, span) = (log.text(), format!(" job{{id={id}}}:attempt{{task=a number=1}}: "));
    let line = log.lines().find(|line| line.contains(&span)).unwrap_or_else(|| panic!("{span}: {log}"));
    assert!(line.contains("panicked at src/app/tests.rs") && line.contains("task a is faulty"), "{line}");
    app.stop().await;
}
