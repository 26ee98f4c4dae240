//! Memory of an idle upstream stream: the cost of an open connection to a remote while no events arrive.
//!
//! `cargo bench --bench upstream` prints the bytes per stream, and fails above [`LIMIT`]. The server is in the same
//! process. It keeps only sockets, whose buffers are memory of the kernel and are not counted.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use millstream::upstream::{
    Client, Config, Connections, Method, Purpose, RemoteConfig, Request, Trust,
    events::{Cursor, EventSource, Source, StreamEvent},
};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Streams that are open at the same time.
const STREAMS: usize = 1000;
/// Streams that are opened before the measurement, so that threads and pools have their memory.
const WARM_UP: usize = 50;
/// Maximum number of bytes per stream.
const LIMIT: usize = 18_000;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                      11\r\nid: 1\ndata: one\n\n\r\n";

/// Starts a server that answers each request with the beginning of a stream. Returns its base URL.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("it is bound"));
    thread::spawn(move || {
        let mut sockets = Vec::with_capacity(4 * STREAMS);
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).expect("a request");
            socket.write_all(HEAD).expect("the client reads");
            sockets.push(socket);
        }
    });
    base
}

/// Anonymous memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(0, |kib: usize| kib * 1024)
}

/// Prints the memory per stream that `open` returns. True if it is within the limit. The streams stay open, so that
/// the next measurement does not use their memory again.
async fn measure<T>(name: &str, open: impl AsyncFn() -> T) -> (bool, Vec<T>) {
    let mut streams = Vec::with_capacity(WARM_UP + STREAMS);
    for _ in 0..WARM_UP {
        streams.push(open().await);
    }
    settle().await;
    let before = resident();
    for _ in 0..STREAMS {
        streams.push(open().await);
    }
    settle().await;
    let each = resident().saturating_sub(before) / STREAMS;
    println!("{name}: {each} bytes per stream, limit {LIMIT}");
    (each <= LIMIT, streams)
}

/// Waits until freed memory is returned to the system.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

fn main() -> ExitCode {
    let base = serve();
    let client = Client::new(Config::default());
    let config = RemoteConfig { base_url: Some(base.clone()), paths: vec!["/*".into()], ..RemoteConfig::default() };
    let config = RemoteConfig { max_connections: 2 * STREAMS, ..config };
    let remote = Arc::new(config.build("idle", &client).expect("good settings"));
    let url = remote.client_url("/events").expect("a good path");
    let connections = Connections::new(2 * STREAMS);
    let response = async || {
        let mut response = client.send(Request::new(Method::GET, &base, Trust::Operator)).await.expect("a response");
        response.body.chunk().await.expect("an event").expect("no error");
        response
    };
    let event_source = async || {
        let source = Source::get(remote.clone(), url.clone(), Purpose::Relay);
        let mut source = EventSource::new(source, Cursor::default(), connections.clone());
        while !matches!(source.next().await, Some(StreamEvent::Events(_))) {}
        source
    };
    let good = actix_rt::System::new().block_on(async {
        let (first, _responses) = measure("response", response).await;
        let (second, _sources) = measure("event source", event_source).await;
        first && second
    });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
