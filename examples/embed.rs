//! Millstream inside an actix-web program of your own.
//!
//! The program has its own server, routes and sessions. Millstream adds the streams, the jobs and the journal:
//!
//! - [`sign_in`] is the program's middleware. It checks the session, and passes the user to Millstream as an [`Identity`].
//! - [`CountWords`] is a task handler in Rust. A client names it by `"run": "count words"`.
//! - `GET /hello`, and `GET /greetings` with a stream, are the program's own routes in addition to Millstream's.
//!
//! ```sh
//! cargo run --example embed              # then: curl -N -H 'X-Session: s-alice' http://127.0.0.1:8091/api/sse/managed/connect
//! cargo run --example embed -- --once    # submits a job to itself, prints the events, ends
//! ```

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{
    App as WebApp, Error as WebError, HttpMessage, HttpRequest, HttpResponse, HttpServer,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::{Next, from_fn},
    web,
};
use millstream::{
    access::Identity,
    app::App,
    config::Config,
    http::Problem,
    jobs::handler::{Output, Registered, Task, TaskError, TaskHandler},
    journal::{BoxFuture, Kind},
    node::Node,
    sse::{Decoder, Item, Limits},
    upstream::{Body, Client, HeaderValue, Method, Request, Trust},
};
use serde_json::{Value, json};

/// The program's sessions: the header that a browser sends, and its user.
const SESSIONS: [(&str, &str); 2] = [("s-alice", "alice"), ("s-bob", "bob")];

/// Maximum duration of the check of `--once`.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts the words of its input, a text, and reports its progress.
struct CountWords;

// === impl CountWords ===

impl TaskHandler for CountWords {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            let text = task.input.string().ok_or_else(|| TaskError::fatal("bad_input", "`input` must be a text"))?;
            let lines: Vec<&str> = text.lines().collect();
            let mut words = 0;
            for (index, line) in lines.iter().enumerate() {
                if task.cancel.is_cancelled() {
                    return Err(TaskError::fatal("cancelled", "the task was cancelled"));
                }
                words += line.split_whitespace().count();
                let done = 100 * (index + 1) / lines.len();
                task.progress.report(f64::from(u8::try_from(done).unwrap_or(100)), format!("{words} words")).await;
            }
            Ok(json!({ "lines": lines.len(), "words": words }).into())
        })
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let once = std::env::args().any(|argument| argument == "--once");

    // The node: settings as in a file, and the program's own handlers.
    let handlers = [("count words".to_owned(), Registered::new(CountWords))];
    let mut config = Config::default();
    // The example writes no files. Without this line events and jobs are stored in `server.data_dir`.
    config.journal.kind = Kind::Memory;
    let millstream = Arc::new(App::with_handlers(config, handlers)?);
    let node = millstream.node().clone();

    // The server belongs to the program. Three of its settings affect streams.
    let (connections, routed) = (millstream.connections().clone(), millstream.clone());
    let server = HttpServer::new(move || {
        WebApp::new()
            .wrap(from_fn(sign_in))
            .app_data(web::Data::new(routed.node().clone()))
            .route("/hello", web::get().to(hello))
            .route("/greetings", web::get().to(greetings))
            // Last, because Millstream answers all requests that no other route matches.
            .configure(routed.routes())
    })
    .h1_allow_half_closed(false) // a disconnected client is detected at once
    .tcp_nodelay(true) // small events are sent at once
    .on_connect(move |io, data| connections.enter(io, data)) // connections are counted, and stuck readers can be cut
    .disable_signals() // the program stops the node first, then the server
    .shutdown_timeout(1)
    .bind(("127.0.0.1", if once { 0 } else { 8091 }))?;
    let addr = server.addrs()[0];
    let server = server.run();
    let stop_server = server.handle();
    let serving = actix_web::rt::spawn(server);
    println!("listening on http://{addr}");

    let checked = if once {
        tokio::time::timeout(PATIENCE, check(addr, &node)).await.unwrap_or_else(|_| Err("it took too long".into()))
    } else {
        tokio::signal::ctrl_c().await.map_err(Into::into)
    };

    millstream.stop().await;
    stop_server.stop(true).await;
    serving.await??;
    checked
}

/// Rejects requests without a session. Passes the user of the others to Millstream.
async fn sign_in(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, WebError> {
    let session = request.headers().get("X-Session").and_then(|value| value.to_str().ok());
    let Some((_, user)) = SESSIONS.iter().find(|(known, _)| Some(*known) == session) else {
        let refusal = HttpResponse::Unauthorized().body("sign in first\n");
        return Ok(request.into_response(refusal).map_into_right_body());
    };
    request.extensions_mut().insert(Identity::user(*user));
    Ok(next.call(request).await?.map_into_left_body())
}

async fn hello(identity: Identity) -> String {
    format!("hello, {}\n", identity.user.as_deref().unwrap_or("stranger"))
}

/// A stream with the caller's events and those of the group `greeters`. It ends after a minute.
async fn greetings(node: web::Data<Node>, identity: Identity, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let user = identity.user.unwrap_or_default();
    node.emitter().user(user).group("greeters").timeout(Duration::from_secs(60)).respond(&request).await
}

// === The check of `--once` ===

/// Does the work of a client of this program, over HTTP.
async fn check(addr: SocketAddr, node: &Node) -> Result<(), Box<dyn Error>> {
    let client = Client::new(millstream::upstream::Config::default());

    let hello = client.send(request(addr, Method::GET, "/hello", "s-bob")).await?;
    let text = hello.body.collect(1024).await?;
    ensure(&*text == b"hello, bob\n", "the program's own route does not know who is calling")?;

    let refused = client.send(request(addr, Method::GET, "/api/sse/managed/status", "stolen")).await?;
    ensure(refused.status == 401, "Millstream's routes are open to somebody without a session")?;

    let text = "Two streams meet\nat the old mill,\nand go on as one.";
    let job = json!({ "tasks": [{ "id": "poem", "run": "count words", "input": text }] });
    let mut submit = request(addr, Method::POST, "/api/sse/emitter/parallel-tasks", "s-alice");
    submit.headers.insert("content-type", HeaderValue::from_static("application/json"));
    submit.body = job.to_string().into();
    let stream = client.send(submit).await?;
    ensure(stream.status == 200, "the job was refused")?;

    let events = events(stream.body).await?;
    let data = |name: &str| {
        events.iter().find(|(event, _)| event == name).map(|(_, data)| data).ok_or(format!("no `{name}` came"))
    };
    ensure(data("connection")?["userId"] == "alice", "the stream does not know whose it is")?;
    ensure(data("task_progress")?["progress"].is_number(), "there was no progress")?;
    ensure(data("task_complete")?["result"] == json!({ "lines": 3, "words": 12 }), "the words were counted wrong")?;
    ensure(data("complete")?["status"] == "completed", "the job did not complete")?;

    // Open a stream of the program's own route, then publish an event from Rust.
    let mut stream = client.send(request(addr, Method::GET, "/greetings", "s-bob")).await?;
    ensure(stream.status == 200, "the program's own stream was refused")?;
    let mut decoder = Decoder::new(Limits::default());
    let mut published = false;
    let mut greeted = false;
    while !greeted {
        let chunk = stream.body.chunk().await.ok_or("the stream ended before the greeting")??;
        let mut connected = false;
        decoder.push(&chunk, |item| {
            if let Item::Event { event, data, .. } = item {
                println!("{event}: {data}");
                connected |= event == "connection";
                greeted |= event == "greeting" && data == "good morning";
            }
        })?;
        if connected && !published {
            published = true;
            let done = node.publish_to_group("greeters", "greeting", "good morning").await?;
            ensure(done.delivered == Some(1), "one stream is subscribed")?;
        }
    }
    println!("embed: all well");
    Ok(())
}

fn request(addr: SocketAddr, method: Method, path: &str, session: &'static str) -> Request {
    // The URL is this program's, so the egress guard does not apply.
    let mut request = Request::new(method, format!("http://{addr}{path}"), Trust::Operator);
    request.headers.insert("x-session", HeaderValue::from_static(session));
    request
}

/// All events of a stream with their data, until it ends.
async fn events(mut body: Body) -> Result<Vec<(String, Value)>, Box<dyn Error>> {
    let mut decoder = Decoder::new(Limits::default());
    let mut events = Vec::new();
    while let Some(chunk) = body.chunk().await {
        decoder.push(&chunk?, |item| {
            if let Item::Event { event, data, .. } = item {
                println!("{event}: {data}");
                events.push((event.to_owned(), serde_json::from_str(data).unwrap_or(Value::Null)));
            }
        })?;
    }
    Ok(events)
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}
