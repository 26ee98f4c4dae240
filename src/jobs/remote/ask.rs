//! Requests to the job API of a remote: submit, cancel, and a result that was too large for an event.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::bounded;
use crate::{
    jobs::urls,
    json,
    upstream::{
        Chunks, Connections, Error, HeaderMap, HeaderValue, Method, Purpose, Remote, Request, Response, StatusCode,
        Verdict, Via, events::Failure, retry_after, verdict,
    },
};

/// Why there is no good answer.
#[derive(Debug)]
pub enum Trouble {
    /// The wire, or a remote that is not well.
    Failed(Failure),
    /// The remote does not want this, and will not another time.
    Refused { http_status: Option<u16>, detail: String },
}

/// Largest answer to a submission or a refusal that is read.
const ANSWER_MAX: usize = 64 << 10;
/// How long such an answer may take once it has begun.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a result may take.
const RESULT_TIMEOUT: Duration = Duration::from_mins(5);
/// Longest id of a job that is taken.
const ID_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    job_id: String,
}

/// A problem as far as it is understood.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    errors: Vec<Field>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Field {
    field: String,
    detail: String,
}

/// Submits; the id of the job there. The same key and body again are the same job.
pub async fn submit(
    remote: &Remote,
    connections: &Connections,
    via: &Via,
    key: &str,
    body: Bytes,
) -> Result<String, Trouble> {
    let url = remote.url("/api/jobs").map_err(|bad| refused(None, bad.to_string()))?;
    let place = connections.enter(remote, &Method::POST, url.path(), Purpose::Job);
    let _place = place.map_err(|busy| Trouble::Failed(Failure::Busy(busy)))?;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("accept", HeaderValue::from_static("application/json"));
    let key = HeaderValue::from_str(key).map_err(|bad| refused(None, bad.to_string()))?;
    headers.insert("idempotency-key", key);
    let request = Request { via: Some(via.clone()), ..remote.request(Method::POST, &url, headers, body) };
    let response = remote.client().send(request).await.map_err(wire)?;
    let (status, answer) = answer(response).await?;
    let accepted = json::from_slice::<Accepted>(&answer).ok().filter(|accepted| good_id(&accepted.job_id));
    match accepted {
        Some(Accepted { job_id }) => Ok(job_id),
        None => Err(refused(Some(status), "its answer has no id of a job, as one of this program would have".into())),
    }
}

/// Cancels, again and again until the remote has heard it.
pub async fn cancel(remote: &Remote, job_id: &str) {
    let Ok(url) = remote.url(&urls::job(job_id)) else { return };
    loop {
        let request = remote.request(Method::DELETE, &url, HeaderMap::new(), Bytes::new());
        let answered = match remote.client().send(request).await {
            Ok(response) => answer(response).await.map(drop),
            Err(error) => Err(wire(error)),
        };
        match answered {
            Err(Trouble::Failed(failure)) if failure.passing() => sleep(super::AGAIN).await,
            // Also when it has ended, or is forgotten.
            _ => return,
        }
    }
}

/// A result, at most so large.
pub async fn result(remote: &Remote, path: &str, limit: usize) -> Result<Box<RawValue>, Trouble> {
    let url = remote.url(path).map_err(|bad| refused(None, bad.to_string()))?;
    let response = remote.client().send(remote.request(Method::GET, &url, HeaderMap::new(), Bytes::new()));
    let response = response.await.map_err(wire)?;
    if response.status != StatusCode::OK {
        let (status, _) = answer(response).await?;
        return Err(refused(Some(status), "the answer has no result".into()));
    }
    let body = response.body.idle_timeout(remote.read_timeout());
    let body = Chunks::of(&response.headers, body).map_err(encoded)?;
    let late = |_| Error::IdleTimeout { after: RESULT_TIMEOUT };
    let body = timeout(RESULT_TIMEOUT, body.collect(limit)).await.unwrap_or_else(|after| Err(late(after)));
    let text = String::from_utf8(body.map_err(wire)?.to_vec()).map_err(|bad| refused(None, bad.to_string()))?;
    RawValue::from_string(text).map_err(|bad| refused(None, format!("the result is no JSON: {bad}")))
}

/// The body of a good answer; what a bad one means.
async fn answer(response: Response) -> Result<(u16, Bytes), Trouble> {
    let Response { status, headers, received, body, .. } = response;
    let late = |_| Error::IdleTimeout { after: ANSWER_TIMEOUT };
    let body = match Chunks::of(&headers, body) {
        Ok(body) => {
            let body = timeout(ANSWER_TIMEOUT, body.collect(ANSWER_MAX)).await;
            body.unwrap_or_else(|after| Err(late(after))).map_err(wire)
        }
        Err(encoding) => Err(encoded(encoding)),
    };
    if verdict(status) == Verdict::Success {
        return Ok((status.as_u16(), body?));
    }
    // The body may be late, truncated or encoded; then the status alone is the reason.
    let excerpt = problem(&body.unwrap_or_default());
    let failure = Failure::Status { status, retry_after: retry_after(&headers, received), excerpt };
    if failure.passing() {
        Err(Trouble::Failed(failure))
    } else {
        Err(refused(Some(status.as_u16()), detail(&failure)))
    }
}

fn detail(failure: &Failure) -> String {
    match failure {
        Failure::Status { excerpt, .. } if !excerpt.is_empty() => excerpt.clone(),
        other => other.to_string(),
    }
}

/// What a problem says, with its fields; the beginning of what is none.
fn problem(body: &[u8]) -> String {
    let Ok(Problem { title, detail, errors }) = json::from_slice::<Problem>(body) else {
        return bounded::line(&String::from_utf8_lossy(body));
    };
    let fields: Vec<String> = errors.iter().take(10).map(|e| format!("{}: {}", e.field, e.detail)).collect();
    let said = match (fields.is_empty(), detail.is_empty()) {
        (false, _) => fields.join("; "),
        (true, false) => detail,
        (true, true) => title,
    };
    bounded::line(&said)
}

fn wire(error: Error) -> Trouble {
    Trouble::Failed(Failure::Transport(error))
}

fn encoded(encoding: String) -> Trouble {
    Trouble::Failed(Failure::Encoding(encoding))
}

fn refused(http_status: Option<u16>, detail: String) -> Trouble {
    Trouble::Refused { http_status, detail }
}

/// It becomes a part of URLs, and is kept.
fn good_id(id: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !id.is_empty() && id.len() <= ID_MAX && id.chars().all(good) && id != "." && id != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_its_fields_and_within_bounds() {
        let body = r#"{"title":"T","detail":"2 fields are wrong","errors":[{"field":"a","detail":"b"},{"field":"c","detail":"d"}]}"#;
        assert_eq!(problem(body.as_bytes()), "a: b; c: d");
        assert_eq!(problem(br#"{"title":"T","detail":"why"}"#), "why");
        assert_eq!(problem(b"<html>\n no\0"), "<html> no");
        assert!(problem("x".repeat(50_000).as_bytes()).len() < 2000);
    }

    #[test]
    fn an_id_that_could_lead_elsewhere_is_none() {
        assert!(good_id("01JABC-x_y.z"));
        for id in ["", ".", "..", "a/b", "a?b", "a b", "ü", &"x".repeat(129)] {
            assert!(!good_id(id), "{id}");
        }
    }
}
