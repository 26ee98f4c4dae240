//! HTTP tasks: a request whose URL a client names ([`HttpTask`]) or the operator ([`Endpoint`]).
//!
//! Owns one attempt: the request with its `Idempotency-Key` and `traceparent`, progress from `Content-Length`, and the
//! evaluation of the response. The egress guard, framing and timeouts are parts of `upstream`.

use std::time::Duration;

use bytes::Bytes;

use super::common::{Deps, unless_cancelled};
use crate::{
    jobs::handler::{Output, Task, TaskError, TaskHandler},
    journal::BoxFuture,
    sse,
    text::{excerpt, one_line},
    upstream::{
        self, Chunks, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Trust, Verdict, describe,
        retry_after, verdict,
    },
};

mod content;
mod events;
pub(super) mod meter;
mod request;
#[cfg(test)]
mod tests;

pub use self::request::{ErrorEvents, Input};
use self::{content::Media, meter::Meter};

/// The engine limits the duration of each attempt, so the head may take as long as the longest attempt.
const HEAD_TIMEOUT: Duration = Duration::from_hours(24);

/// Maximum pause in a body: the usual limit of proxies and servers. A task can set a shorter `timeoutMs`.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Maximum characters of an error's body in the message.
const ERROR_EXCERPT: usize = 300;

/// Time limit for the body of an error. The status is the information; its text is not worth a long wait.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Request fields that ask for a body only if it has changed (RFC 9110, section 13.1).
const CONDITIONS: [&str; 2] = ["if-none-match", "if-modified-since"];

/// The handler of tasks that have a `url`. The input is an [`Input`].
#[derive(Debug)]
pub struct HttpTask {
    deps: Deps,
}

/// The handler of `kind = "http"`: it posts the task's input as JSON to the operator's URL, or sends GET if the input
/// is `null`.
#[derive(Debug)]
pub struct Endpoint {
    deps: Deps,
    url: String,
}

// === impl HttpTask ===

impl HttpTask {
    /// A handler that sends its requests with the client of `deps`.
    pub fn new(deps: &Deps) -> Self {
        Self { deps: deps.clone() }
    }
}

impl TaskHandler for HttpTask {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            let input: Input = task
                .input
                .read()
                .map_err(|error| TaskError::fatal("bad_input", format!("the HTTP task is malformed: {error}")))?;
            attempt(&self.deps, input.request(&task, Trust::Client)?, &input, &task).await
        })
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A handler for this URL.
    ///
    /// # Errors
    /// If the URL is not valid or not permitted.
    pub fn new(deps: &Deps, url: &str) -> Result<Self, upstream::Error> {
        upstream::parse_url(url)?;
        Ok(Self { deps: deps.clone(), url: url.to_owned() })
    }
}

impl TaskHandler for Endpoint {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            let method = if task.input.is_null() { "GET" } else { "POST" };
            let input = Input { method: method.into(), ..Input::get(&self.url) };
            let mut request = input.request(&task, Trust::Operator)?;
            if !task.input.is_null() {
                // Also a string is sent as JSON, not as its content.
                request.body = Bytes::from(task.input.get().to_owned());
                request.headers.insert("content-type", HeaderValue::from_static("application/json"));
            }
            attempt(&self.deps, request, &input, &task).await
        })
    }
}

// === one attempt ===

/// Sends a request and makes the task's output from the response.
async fn attempt(deps: &Deps, mut request: Request, input: &Input, task: &Task) -> Result<Output, TaskError> {
    request.head_timeout = HEAD_TIMEOUT;
    let is_head = request.method == Method::HEAD;
    let conditional = CONDITIONS.iter().any(|name| request.headers.contains_key(*name));
    unless_cancelled(&task.cancel, async {
        let mut response = deps.client.send(request).await?;
        response.body = response.body.idle_timeout(IDLE_TIMEOUT);
        let status = response.status;
        let succeeded = verdict(status) == Verdict::Success || (status == StatusCode::NOT_MODIFIED && conditional);
        let output = match succeeded {
            true if is_head || is_bodiless(status) => Ok(Output::default()),
            true => read(deps, response, input, task).await,
            false => Err(status_error(response).await),
        };
        let http_status = Some(status.as_u16());
        match output {
            Ok(output) => Ok(Output { http_status, ..output }),
            Err(error) => Err(TaskError { http_status, ..error }),
        }
    })
    .await
}

/// Makes the output from the body of a success.
async fn read(deps: &Deps, response: Response, input: &Input, task: &Task) -> Result<Output, TaskError> {
    let Response { headers, body, .. } = response;
    let mut body = Chunks::of(&headers, body).map_err(|encoding| {
        let message = format!("the response is encoded as `{encoding}`; `identity` and `gzip` are taken");
        TaskError::fatal("unsupported_encoding", message)
    })?;
    let media = Media::of(&headers);
    if media.is(sse::MEDIA_TYPE) {
        return Ok(events::forward(body, deps.max_event_bytes, input, &task.progress).await?.into());
    }
    let mut meter = Meter::new(&task.progress, body.content_length());
    let bytes = meter.collect(&mut body, deps.max_response_bytes, &task.reserve).await?;
    let (result, encoding) = media.interpret(bytes, &task.reserve).await;
    Ok(Output { result, encoding, ..Output::default() })
}

// === impl TaskError ===

/// Converts a connection failure to the error of a task.
impl From<upstream::Error> for TaskError {
    fn from(error: upstream::Error) -> Self {
        Self { retryable: error.retryable(), ..Self::fatal(error.code(), error.to_string()) }
    }
}

// === helpers ===

/// True for responses that never have a body, for any header fields.
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The error of a task for a status that is not a success.
pub(super) async fn status_error(response: Response) -> TaskError {
    let Response { status, headers, url, received, body } = response;
    let retryable = verdict(status) == Verdict::Transient;
    let host = url.host_str().unwrap_or_default();
    let mut message = format!("`{host}` answered {}", describe(status));
    if let Ok(body) = Chunks::of(&headers, body) {
        let excerpt = beginning(body, &headers).await;
        if !excerpt.is_empty() {
            message = format!("{message}: {excerpt}");
        }
    }
    TaskError {
        retryable,
        retry_after: if retryable { retry_after(&headers, received) } else { None },
        http_status: Some(status.as_u16()),
        ..TaskError::fatal("http_status", message)
    }
}

/// The first characters of a body, as text on one line.
async fn beginning(body: Chunks, headers: &HeaderMap) -> String {
    // Four bytes can hold any character.
    let bytes = body.beginning(ERROR_EXCERPT * 4, ERROR_BODY_TIMEOUT).await;
    let text = Media::of(headers).lossy(&bytes);
    excerpt(&one_line(&text), ERROR_EXCERPT)
}
