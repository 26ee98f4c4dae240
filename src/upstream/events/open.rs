//! One attempt to open a stream: the request, and what its answer means.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::failure::Failure;
use crate::{
    sse,
    upstream::{
        Busy, Chunks, Client, Request, Response,
        chunks::{shorten, text},
        connections::Lease,
        retry_after,
    },
};

/// What came back.
pub enum Answer {
    /// 204: nothing follows, ever.
    NoContent,
    /// A stream.
    Stream(Box<Opened>),
}

/// A stream that is open.
pub struct Opened {
    pub chunks: Chunks,
    /// The end of the body is marked as such.
    pub framed: bool,
    pub lease: Lease,
}

/// Why there is no stream.
pub struct Refused {
    pub failure: Failure,
    /// The remote may have got the request and acted on it.
    pub sent: bool,
}

/// Longest beginning of a refusal that is shown, in characters.
const EXCERPT: usize = 200;
/// How long the beginning of a refusal is waited for.
const EXCERPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the request and judges the answer by the rules of the standard.
pub async fn open(
    client: Client,
    request: Request,
    idle: Duration,
    place: Result<Lease, Busy>,
) -> Result<Answer, Refused> {
    let lease = place.map_err(|busy| Refused { failure: Failure::Busy(busy), sent: false })?;
    let ended = lease.ended();
    let mut redirected = false;
    let response = tokio::select! {
        biased;
        () = ended.cancelled() => return Err(Refused { failure: Failure::Ended, sent: true }),
        response = client.send_noting(request, &mut redirected) => response.map_err(Failure::Transport),
    };
    let answer = match response {
        Ok(response) => judge(response, idle, lease).await,
        Err(failure) => Err(failure),
    };
    // A redirect to a server that is gone is no request that was not sent: it was answered, and perhaps acted on.
    answer.map_err(|failure| Refused { sent: redirected || !failure.unsent(), failure })
}

async fn judge(response: Response, idle: Duration, lease: Lease) -> Result<Answer, Failure> {
    match response.status {
        StatusCode::OK => {}
        StatusCode::NO_CONTENT => return Ok(Answer::NoContent),
        _ => return Err(refusal(response).await),
    }
    let media = text(&response.headers, &header::CONTENT_TYPE);
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(sse::MEDIA_TYPE) {
        return Err(Failure::ContentType(shorten(&media, 80)));
    }
    let framed = is_framed(&response.headers)?;
    let chunks = Chunks::of(&response.headers, response.body.idle_timeout(idle)).map_err(Failure::Encoding)?;
    Ok(Answer::Stream(Box::new(Opened { chunks, framed, lease })))
}

/// True when the end of the body is marked: what just stops may have been cut (RFC 9112, section 8).
fn is_framed(headers: &HeaderMap) -> Result<bool, Failure> {
    let transfer = text(headers, &header::TRANSFER_ENCODING);
    match transfer.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(headers.contains_key(header::CONTENT_LENGTH)),
        "chunked" => Ok(true),
        // Compressed on the way, though nobody said that this would be understood (RFC 9110, section 10.1.4).
        _ => Err(Failure::Encoding(shorten(&transfer, 40))),
    }
}

async fn refusal(response: Response) -> Failure {
    let Response { status, headers, received, body, .. } = response;
    let said = match Chunks::of(&headers, body) {
        Ok(chunks) => words_of(&chunks.beginning(EXCERPT * 4, EXCERPT_TIMEOUT).await),
        Err(_) => String::new(),
    };
    let words: Vec<&str> =
        said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let excerpt = shorten(&words.join(" "), EXCERPT);
    Failure::Status { status, retry_after: retry_after(&headers, received), excerpt }
}

/// What a refusal says to people: the detail of a problem (RFC 9457), else all of it.
fn words_of(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    let problem = crate::json::from_slice::<Problem>(bytes);
    problem.map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), |problem| problem.detail)
}
