//! One attempt to open a stream: the request, and what its answer means.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::{chunks::Chunks, failure::Failure};
use crate::{
    sse,
    upstream::{Busy, Client, Request, Response, connections::Lease, retry_after},
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
) -> Result<Answer, Failure> {
    let lease = place.map_err(Failure::Busy)?;
    let ended = lease.ended();
    let response = tokio::select! {
        biased;
        () = ended.cancelled() => return Err(Failure::Ended),
        response = client.send(request) => response.map_err(Failure::Transport)?,
    };
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
    let framed = is_framed(&response.headers);
    let encoding = text(&response.headers, &header::CONTENT_ENCODING);
    let body = response.body.idle_timeout(idle);
    let chunks = match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Chunks::plain(body),
        "gzip" | "x-gzip" => Chunks::gzip(body),
        _ => return Err(Failure::Encoding(shorten(&encoding, 40))),
    };
    Ok(Answer::Stream(Box::new(Opened { chunks, framed, lease })))
}

/// True when the end of the body is marked: what just stops may have been cut (RFC 9112, section 8).
fn is_framed(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

async fn refusal(response: Response) -> Failure {
    let Response { status, headers, mut body, .. } = response;
    let mut bytes = Vec::new();
    let reading = async {
        while bytes.len() < EXCERPT * 4 {
            match body.chunk().await {
                Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
                _ => break,
            }
        }
    };
    // Late or cut short: what is there is what there is to show.
    let _ = tokio::time::timeout(EXCERPT_TIMEOUT, reading).await;
    let excerpt = if headers.contains_key(header::CONTENT_ENCODING) {
        String::new()
    } else {
        let said = String::from_utf8_lossy(&bytes);
        let words: Vec<&str> =
            said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
        shorten(&words.join(" "), EXCERPT)
    };
    Failure::Status { status, retry_after: retry_after(&headers, SystemTime::now()), excerpt }
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> String {
    headers.get(name).map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn shorten(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}
