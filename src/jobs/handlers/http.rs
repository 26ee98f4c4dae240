//! HTTP tasks: a request whose URL a client names ([`HttpTask`]) or the operator ([`Endpoint`]).
//!
//! Owns what one attempt is: the request with its `Idempotency-Key` and `traceparent`, progress from `Content-Length`,
//! and what a response is worth. The egress guard, framing and timeouts of the wire are `upstream`'s.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Deps, excerpt, unless_cancelled};
use crate::{
    jobs::handler::{Output, Task, TaskError, TaskHandler},
    journal::BoxFuture,
    sse,
    upstream::{self, Client, HeaderMap, Method, Request, Response, StatusCode, Trust, retry_after},
};

mod content;
mod events;
pub(super) mod meter;
mod request;
#[cfg(test)]
mod tests;

pub use self::request::Input;
use self::{content::Media, meter::Meter};

/// The engine bounds each attempt as a whole, so the head gets as long as any attempt may reasonably take.
const HEAD_TIMEOUT: Duration = Duration::from_hours(24);

/// Longest pause in a body: what proxies and servers commonly allow. A task that needs less says so by `timeoutMs`.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// How much of an error's body goes into the message, in characters.
const ERROR_EXCERPT: usize = 300;

/// How long the body of an error may take. The status is the news; its text is not worth waiting for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// The handler of tasks that have a `url`. The input is an [`Input`].
#[derive(Debug)]
pub struct HttpTask {
    exchange: Exchange,
}

/// The handler of `kind = "http"`: the task's input is posted as JSON to the operator's URL, or the URL is asked with
/// GET where the input is `null`.
#[derive(Debug)]
pub struct Endpoint {
    exchange: Exchange,
    url: String,
}

/// Sends a request and makes a task's output of the response.
#[derive(Debug)]
struct Exchange {
    client: Client,
    max_response_bytes: usize,
}

// === impl HttpTask ===

impl HttpTask {
    /// A handler that sends by the client of `deps`.
    pub fn new(deps: &Deps) -> Self {
        Self { exchange: Exchange::new(deps) }
    }
}

impl TaskHandler for HttpTask {
    fn run(&self, mut task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            let input: Input = serde_json::from_value(std::mem::take(&mut task.input))
                .map_err(|error| TaskError::fatal("bad_input", format!("the HTTP task is malformed: {error}")))?;
            self.exchange.run(input.request(&task, Trust::Client)?, &task).await
        })
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A handler for this URL.
    ///
    /// # Errors
    /// When the URL can never be asked for.
    pub fn new(deps: &Deps, url: &str) -> Result<Self, upstream::Error> {
        upstream::parse_url(url)?;
        Ok(Self { exchange: Exchange::new(deps), url: url.to_owned() })
    }
}

impl TaskHandler for Endpoint {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            let method = if task.input.is_null() { "GET" } else { "POST" };
            // As text with its type, since a JSON string would else be sent as what it says.
            let body = if task.input.is_null() { Value::Null } else { Value::String(task.input.to_string()) };
            let mut input = Input { method: method.into(), body, ..Input::get(&self.url) };
            if !task.input.is_null() {
                input.headers.insert("content-type".into(), "application/json".into());
            }
            self.exchange.run(input.request(&task, Trust::Operator)?, &task).await
        })
    }
}

// === impl Exchange ===

impl Exchange {
    fn new(deps: &Deps) -> Self {
        Self { client: deps.client.clone(), max_response_bytes: deps.max_response_bytes }
    }

    async fn run(&self, mut request: Request, task: &Task) -> Result<Output, TaskError> {
        request.head_timeout = HEAD_TIMEOUT;
        let is_head = request.method == Method::HEAD;
        unless_cancelled(&task.cancel, async {
            let mut response = self.client.send(request).await?;
            response.body = response.body.idle_timeout(IDLE_TIMEOUT);
            let status = response.status;
            let output = if status.is_client_error() || status.is_server_error() {
                Err(status_error(response).await)
            } else {
                self.read(response, is_head, task).await
            };
            output.map_err(|error| TaskError { http_status: Some(status.as_u16()), ..error })
        })
        .await
    }

    async fn read(&self, mut response: Response, is_head: bool, task: &Task) -> Result<Output, TaskError> {
        let http_status = Some(response.status.as_u16());
        if is_head || is_bodiless(response.status) {
            return Ok(Output { http_status, ..Output::default() });
        }
        if let Some(encoding) = encoding(&response.headers) {
            let message = format!("the response is encoded as `{encoding}`, only `identity` is taken");
            return Err(TaskError::fatal("unsupported_encoding", message));
        }
        let media = Media::of(&response.headers);
        if media.is(sse::MEDIA_TYPE) {
            let result = events::forward(response.body, self.max_response_bytes, &task.progress).await?;
            return Ok(Output { result, http_status, encoding: None });
        }
        let mut meter = Meter::new(&task.progress, response.body.content_length());
        let bytes = meter.collect(&mut response.body, self.max_response_bytes, &task.reserve).await?;
        let (result, encoding) = media.interpret(bytes).await;
        Ok(Output { result, http_status, encoding })
    }
}

// === impl TaskError ===

/// A failure of the wire, in the words of tasks.
impl From<upstream::Error> for TaskError {
    fn from(error: upstream::Error) -> Self {
        Self { retryable: error.retryable(), ..Self::fatal(error.code(), error.to_string()) }
    }
}

// === helpers ===

/// Responses that never have a body, whatever their fields say.
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The content encoding, where it is another than `identity`.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = String::from_utf8_lossy(headers.get("content-encoding")?.as_bytes()).trim().to_owned();
    (!encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")).then(|| excerpt(&encoding, 40))
}

/// What a status from 400 on means for the task.
pub(super) async fn status_error(response: Response) -> TaskError {
    let Response { status, headers, url, body } = response;
    // Too early, too many, overloaded, restarting: what passes by itself. A 501 or 404 is the same tomorrow.
    let retryable = matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504);
    let host = url.host_str().unwrap_or_default();
    let mut message = format!("`{host}` answered {status}");
    if encoding(&headers).is_none() {
        let said = beginning(body).await;
        if !said.is_empty() {
            message = format!("{message}: {said}");
        }
    }
    TaskError {
        retryable,
        retry_after: if retryable { retry_after(&headers, SystemTime::now()) } else { None },
        http_status: Some(status.as_u16()),
        ..TaskError::fatal("http_status", message)
    }
}

/// The first characters of a body, as text on one line.
async fn beginning(mut body: upstream::Body) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        // Four bytes hold any character.
        while bytes.len() < ERROR_EXCERPT * 4 {
            match body.chunk().await {
                Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
                _ => break,
            }
        }
    };
    // Late or cut short: what is there is what there is to show.
    let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, reading).await;
    let text = String::from_utf8_lossy(&bytes);
    let line: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|s| !s.is_empty()).collect();
    excerpt(&line.join(" "), ERROR_EXCERPT)
}
