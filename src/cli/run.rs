//! `run`: submits a job, shows its progress and prints its results.
//!
//! Progress is written to stderr, the aggregated result to stdout. A lost connection loses nothing: the submission has an
//! idempotency key, and the stream resumes.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json, value::RawValue};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure,
    client::{Api, ClientArguments, Error, Next, Stream},
    print_error,
    progress::View,
    text::print_line,
};
use crate::{
    jobs::{
        Status,
        event::{AggregatedResult, Complete, Fact, JobEvent},
    },
    json::{self, without_mark},
    upstream::{Backoff, HeaderValue, Method},
};

/// Maximum size of a job file. The default limit of a node is lower.
const JOB_MAX: u64 = 64 << 20;

/// Maximum number of submissions while no response arrives, and the first delay between them.
const SUBMISSIONS: u32 = 4;
const SUBMIT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));

/// Maximum time without a connection to the stream of the job.
const GIVE_UP_AFTER: Duration = Duration::from_mins(2);

/// Maximum time for a cancellation.
const CANCEL_TIME: Duration = Duration::from_secs(5);

/// The job, and the form of the output.
#[derive(Args, Debug)]
pub(super) struct RunArguments {
    #[command(flatten)]
    node: ClientArguments,
    /// Job file, such as `{"tasks":[{"run":"Process Image"}]}`; `-` reads stdin.
    #[arg(value_name = "JOB.json|-")]
    job: PathBuf,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
    /// Print each event as a JSON line, instead of the result.
    #[arg(long)]
    json: bool,
}

/// The result of a job.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The last event of the job.
    pub(super) complete: Complete,
    /// The results, unless they are too large for an event.
    pub(super) results: Option<AggregatedResult>,
}

/// Runs a job. The exit code is 1 if a task failed.
pub(super) async fn run(arguments: &RunArguments) -> Result<u8, Failure> {
    let body = read_job(&arguments.job).await?;
    let api = Api::new(&arguments.node)?;
    let no_signals = |error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut stopped = async || tokio::select! { _ = interrupt.recv() => 130, _ = terminate.recv() => 143 };

    let mut view = View::new(arguments.quiet);
    let job = tokio::select! {
        job = Job::submit(&api, body) => job?,
        code = stopped() => return Ok(code),
    };
    let outcome = tokio::select! {
        outcome = job.watch(&mut view, arguments.json) => outcome?,
        code = stopped() => {
            view.note(&format!("cancelling job {}; Ctrl-C again stops at once", job.id));
            tokio::select! { () = job.cancel() => {}, _ = stopped() => {} }
            return Ok(code);
        }
    };
    if !arguments.json {
        print_line(&outcome.results_json())?;
    }
    Ok(outcome.exit_code())
}

/// A job that the node has accepted.
pub(super) struct Job {
    api: Api,
    id: String,
    events_url: String,
}

// === impl Job ===

impl Job {
    /// Submits a job. Repeats this until a response arrives; the idempotency key prevents duplicates.
    ///
    /// # Errors
    /// If the node rejects the job or cannot be reached.
    pub(super) async fn submit(api: &Api, body: Vec<u8>) -> Result<Self, Failure> {
        let mut request = api.post("/api/jobs", body);
        let key = ulid::Ulid::new().to_string();
        request.headers.insert("idempotency-key", HeaderValue::from_str(&key).expect("a ULID is letters and digits"));
        request.headers.insert("accept", HeaderValue::from_static("application/json"));
        let mut attempt = 0;
        let answer = loop {
            match api.json(request.clone()).await {
                Ok(answer) => break answer,
                Err(error) if attempt + 1 < SUBMISSIONS && error.retryable() && !error.is_connect_error() => {
                    let hint = error.retry_after().map(|hint| hint.min(Duration::from_secs(30)));
                    tokio::time::sleep(SUBMIT_BACKOFF.delay(attempt, hint, &mut rand::rng())).await;
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        match (text("jobId"), text("eventsUrl")) {
            (Some(id), Some(events_url)) => Ok(Self { api: api.clone(), id, events_url }),
            _ => Err(Error::Unexpected(format!("the response has no job id: {answer}")).into()),
        }
    }

    /// Follows the job until it ends. With `json` each event is printed to stdout as a line.
    ///
    /// # Errors
    /// If the stream of the job fails and cannot be resumed.
    pub(super) async fn watch(&self, view: &mut View, json: bool) -> Result<Outcome, Failure> {
        view.begin(&self.id);
        let mut stream = Stream::new(&self.api, self.api.url(&self.events_url), None).give_up_after(GIVE_UP_AFTER);
        let mut results = None;
        loop {
            let message = match stream.next().await? {
                Next::Event(message) => message,
                Next::Lost { reason, wait } => {
                    view.note(&format!(
                        "connection lost ({reason}); trying again in {}",
                        super::text::duration_text(wait)
                    ));
                    continue;
                }
                Next::End => return Err(Failure::new("the job's stream ended before the job did")),
            };
            if message.is_control() {
                if message.event == "gap" {
                    view.note("the node no longer has all of the job's events");
                }
                continue;
            }
            if json {
                print_line(&message.row())?;
            }
            // A newer node may have other events.
            let Ok(event) = JobEvent::decode(&message.event, &message.data) else { continue };
            view.on(&event);
            match event.fact {
                Fact::AggregatedResult(result) => results = Some(result),
                Fact::Complete(complete) => return Ok(Outcome { complete, results }),
                _ => {}
            }
        }
    }

    /// Requests the cancellation of the job, for at most a few seconds.
    async fn cancel(&self) {
        let request = self.api.request(Method::DELETE, &self.api.url(&format!("/api/jobs/{}", self.id)));
        match tokio::time::timeout(CANCEL_TIME, self.api.send(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => print_error(&format!("job {} was not cancelled: {error}", self.id)),
            Err(_) => print_error(&format!("job {} was not cancelled within {CANCEL_TIME:?}", self.id)),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// 0 if no task has failed.
    pub(super) fn exit_code(&self) -> u8 {
        u8::from(self.complete.status != Status::Completed)
    }

    /// The results by task id. If they are too large for an event: the URL of the results.
    fn results_json(&self) -> String {
        let Some(AggregatedResult { results, results_url }) = &self.results else { return "{}".into() };
        match results_url {
            Some(url) => json!({ "results": null, "resultsUrl": url }).to_string(),
            None => json::pretty(results.get()),
        }
    }
}

/// Reads a job file and checks that it is JSON. The node checks everything else.
async fn read_job(path: &Path) -> Result<Vec<u8>, Failure> {
    let (name, from_stdin) =
        if path == Path::new("-") { ("stdin".into(), true) } else { (path.to_string_lossy(), false) };
    let name = name.into_owned();
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let source: Box<dyn Read> =
            if from_stdin { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(path)?) };
        let mut body = Vec::new();
        source.take(JOB_MAX + 1).read_to_end(&mut body)?;
        Ok::<_, std::io::Error>(body)
    });
    let body = read
        .await
        .map_err(|error| Failure::new(error.to_string()))?
        .map_err(|error| Failure::usage(format!("cannot read `{name}`: {error}")))?;
    check_job(&name, &body)?;
    Ok(without_mark(&body).to_vec())
}

fn check_job(name: &str, body: &[u8]) -> Result<(), Failure> {
    if body.len() as u64 > JOB_MAX {
        return Err(Failure::usage(format!("`{name}` has more than {JOB_MAX} bytes")));
    }
    if body.starts_with(b"\xff\xfe") || body.starts_with(b"\xfe\xff") {
        return Err(Failure::usage(format!("`{name}` is UTF-16; save it as UTF-8")));
    }
    let parsed: Result<&RawValue, _> = serde_json::from_slice(without_mark(body));
    parsed.map(drop).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or(&text);
        Failure::usage(format!("`{name}`, line {line}, column {column}: {what}; a job is JSON such as {EXAMPLE}"))
    })
}

const EXAMPLE: &str = r#"{"tasks":[{"run":"Process Image"}]}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_not_json_is_rejected_with_file_and_line() {
        let failure = check_job("job.json", b"{\n  \"tasks\": [,]\n}").unwrap_err();
        assert_eq!(failure.code, super::super::EXIT_USAGE);
        assert!(failure.message.starts_with("`job.json`, line 2, column 13: "), "{}", failure.message);
        assert!(check_job("stdin", b"").unwrap_err().message.contains("`stdin`, line 1"));
        assert!(check_job("job.json", br#"{"tasks":[]}"#).is_ok());
        assert!(check_job("job.json", "\u{feff}{\"tasks\":[]}".as_bytes()).is_ok(), "a byte order mark is ignored");
        assert!(check_job("job.json", b"\xff\xfe{\0").unwrap_err().message.contains("UTF-16"));
    }

    #[test]
    fn results_are_shown_or_their_url() {
        let complete = Complete {
            status: Status::Partial,
            total_tasks: 1,
            success_count: 0,
            error_count: 1,
            errors: Vec::new(),
            errors_omitted: None,
            duration_ms: 1,
        };
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let results = Some(AggregatedResult { results: raw(r#"{"a":1}"#), results_url: None });
        let mut outcome = Outcome { complete, results };
        assert_eq!((outcome.exit_code(), &*outcome.results_json()), (1, "{\n  \"a\": 1\n}"));
        outcome.results = Some(AggregatedResult { results: raw("null"), results_url: Some("/api/jobs/J".into()) });
        assert!(outcome.results_json().contains("/api/jobs/J"));
        outcome.complete.status = Status::Completed;
        assert_eq!(outcome.exit_code(), 0);
    }
}
