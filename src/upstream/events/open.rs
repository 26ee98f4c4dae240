//! One attempt to open a stream: the request, and the check of its response.

use std::time::Duration;

use http::{StatusCode, header};

use super::failure::Failure;
use crate::{
    sse,
    text::{excerpt, one_line},
    upstream::{Busy, Chunks, Client, Request, Response, connections::StreamPermit, fields::field_text, retry_after},
};

/// An open event stream.
pub(crate) struct OpenedStream {
    pub chunks: Chunks,
    /// True if the response marks the end of its body.
    pub end_marked: bool,
    pub permit: StreamPermit,
}

/// Why no stream was opened.
pub(crate) struct OpenError {
    pub failure: Failure,
    /// True if the remote may have received the request and acted on it.
    pub sent: bool,
}

/// Maximum length of the text of an error response in a message, in characters.
const EXCERPT: usize = 200;
/// Time limit for the beginning of an error response.
const EXCERPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a request for an event stream, and checks the response by the rules of the standard. `idle` is the maximum pause of
/// the stream. Returns `None` for status 204: the stream has ended.
pub(crate) async fn open(
    client: Client,
    request: Request,
    idle: Duration,
    permit: Result<StreamPermit, Busy>,
) -> Result<Option<OpenedStream>, OpenError> {
    let permit = permit.map_err(|busy| OpenError { failure: Failure::Busy(busy), sent: false })?;
    let ended = permit.end_token();
    let mut redirected = false;
    let response = tokio::select! {
        biased;
        () = ended.cancelled() => return Err(OpenError { failure: Failure::Ended, sent: true }),
        response = client.send_tracked(request, &mut redirected) => response.map_err(Failure::Transport),
    };
    let answer = match response {
        Ok(response) => check(response, idle, permit).await,
        Err(failure) => Err(failure),
    };
    // The server that redirected has received the request, and may have acted on it.
    answer.map_err(|failure| OpenError { sent: redirected || !failure.is_unsent(), failure })
}

async fn check(response: Response, idle: Duration, permit: StreamPermit) -> Result<Option<OpenedStream>, Failure> {
    match response.status {
        StatusCode::OK => {}
        StatusCode::NO_CONTENT => return Ok(None),
        _ => return Err(status_failure(response).await),
    }
    let media_type = field_text(&response.headers, &header::CONTENT_TYPE);
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(sse::MEDIA_TYPE) {
        return Err(Failure::ContentType(excerpt(&one_line(&media_type), 80)));
    }
    let end_marked = response.body.is_end_marked();
    let chunks = Chunks::of(&response.headers, response.body.idle_timeout(idle)).map_err(Failure::Encoding)?;
    Ok(Some(OpenedStream { chunks, end_marked, permit }))
}

async fn status_failure(response: Response) -> Failure {
    let Response { status, headers, received, body, .. } = response;
    let text = match Chunks::of(&headers, body) {
        Ok(chunks) => error_text(&chunks.beginning(EXCERPT * 4, EXCERPT_TIMEOUT).await),
        Err(_) => String::new(),
    };
    let retry_after = retry_after(&headers, received);
    Failure::Status { status, retry_after, excerpt: excerpt(&one_line(&text), EXCERPT) }
}

/// The text of an error response: the `detail` of a problem (RFC 9457), otherwise the whole body.
fn error_text(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    let problem = crate::json::from_slice::<Problem>(bytes);
    problem.map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), |problem| problem.detail)
}
