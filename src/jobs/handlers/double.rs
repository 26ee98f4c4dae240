//! Test doubles for handlers: a task whose reports are recorded, and an upstream with given responses.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::Deps;
use crate::{
    jobs::handler::{Progress, Report, Reserve, Sink, Submitter, Task},
    journal::BoxFuture,
    json::Json,
    upstream::{Client, Config, Via},
};

/// Records reports.
#[derive(Default)]
pub(super) struct Recorder {
    reports: Mutex<Vec<(Report, bool)>>,
}

/// An upstream on a port of its own.
pub(super) struct Upstream {
    /// Its base URL.
    pub url: String,
    /// The requests as received, head and body.
    pub requests: mpsc::Receiver<String>,
    /// Gets a message for each connection that the other side closed before the whole response was sent.
    pub left: mpsc::Receiver<()>,
}

/// The reaction of the upstream to a request.
#[derive(Clone)]
pub(super) enum Answer {
    /// Sends this and closes.
    Send(Vec<u8>),
    /// Sends this and nothing more, without closing.
    Stall(Vec<u8>),
}

// === impl Recorder ===

impl Recorder {
    /// All reports so far.
    pub(super) fn reports(&self) -> Vec<Report> {
        self.recorded().iter().map(|(report, _)| report.clone()).collect()
    }

    /// The progress of each report.
    pub(super) fn progress(&self) -> Vec<f64> {
        self.recorded().iter().map(|(report, _)| report.progress).collect()
    }

    /// The messages of the reports that had one.
    pub(super) fn messages(&self) -> Vec<String> {
        self.recorded().iter().filter_map(|(report, _)| report.message.clone()).collect()
    }

    /// The data of the reports that must not be lost.
    pub(super) fn forwarded(&self) -> Vec<Value> {
        self.recorded()
            .iter()
            .filter(|(_, lossy)| !lossy)
            .filter_map(|(report, _)| Some(report.data.as_ref()?.value()))
            .collect()
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, Vec<(Report, bool)>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Recorder {
    fn take(&self, report: Report, lossy: bool) -> BoxFuture<'_, ()> {
        self.recorded().push((report, lossy));
        Box::pin(async {})
    }
}

// === impl Upstream ===

impl Upstream {
    /// Responds to each request with the result of `answer` for its head and body.
    pub(super) async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("it is bound");
        let (seen, requests) = mpsc::channel(64);
        let (gone, left) = mpsc::channel(64);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, seen, gone) = (answer.clone(), seen.clone(), gone.clone());
                tokio::spawn(async move {
                    let Ok(request) = read_request(&mut stream).await else { return };
                    let answer = answer(&request);
                    let _ = seen.try_send(request);
                    let (Answer::Send(bytes) | Answer::Stall(bytes)) = &answer;
                    let sent = stream.write_all(bytes).await;
                    let stalled =
                        matches!(answer, Answer::Stall(_)) && matches!(stream.read(&mut [0]).await, Ok(0) | Err(_));
                    if sent.is_err() || stalled {
                        let _ = gone.try_send(());
                    }
                });
            }
        });
        Self { url: format!("http://{addr}"), requests, left }
    }

    /// Responds to every request with the same bytes.
    pub(super) async fn responding(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_| Answer::Send(bytes.clone())).await
    }
}

// === helpers ===

/// Dependencies whose client may connect to loopback.
pub(super) fn deps() -> Deps {
    let allow = vec!["127.0.0.0/8".parse().expect("a network")];
    let client = Client::new(Config { allow, ..Config::default() });
    Deps { client, own_url: Arc::new(OnceLock::new()), max_response_bytes: 4 << 20, max_event_bytes: 1 << 20 }
}

/// A first attempt at task `t1` of job `j1`.
pub(super) fn task(input: impl Into<Json>) -> (Task, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let task = Task {
        job_id: "j1".into(),
        task_id: "t1".into(),
        name: "a task".into(),
        input: input.into(),
        submitter: Submitter::default(),
        via: Via::default(),
        attempt: 1,
        progress: Progress::new(recorder.clone()),
        reserve: Reserve::default(),
        cancel: CancellationToken::new(),
    };
    (task, recorder)
}

/// A complete response with a `Content-Length`.
pub(super) fn response(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads a request and a body of the length of its `Content-Length`.
async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap_or(0)) {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
