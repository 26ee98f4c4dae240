//! Requests to the job API of a remote: submit, cancel, and read a result that was too large for an event.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use crate::{
    jobs::urls,
    json,
    text::{excerpt, one_line},
    upstream::{
        Chunks, Connections, Error, HeaderMap, HeaderValue, Method, Purpose, Remote, Request, Response, StatusCode,
        Verdict, Via, events::Failure, retry_after, verdict,
    },
};

/// Why a request has no success response.
#[derive(Debug)]
pub(super) enum RequestError {
    /// The connection or the remote failed.
    Failed(Failure),
    /// The remote rejects this request, and will reject a repeat.
    Refused { http_status: Option<u16>, detail: String },
}

/// Maximum bytes of a response to a submission, or of a refusal.
const ANSWER_MAX: usize = 64 << 10;
/// Time limit for the body of such a response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for a result.
const RESULT_TIMEOUT: Duration = Duration::from_mins(5);
/// Maximum length of the id of a job on a remote.
const ID_MAX: usize = 128;
/// Maximum characters of a refusal in the error of a task.
const REFUSAL_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    job_id: String,
}

/// The used fields of a problem document.
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

/// Submits a job; returns its id on the remote. A repeat with the same key and body returns the same job.
pub(super) async fn submit(
    remote: &Remote,
    connections: &Connections,
    via: &Via,
    key: &str,
    body: Bytes,
) -> Result<String, RequestError> {
    let url = remote.url("/api/jobs").map_err(|bad| refused(None, bad.to_string()))?;
    let permit = connections.acquire(remote, &Method::POST, url.path(), Purpose::Job);
    let _permit = permit.map_err(|busy| RequestError::Failed(Failure::Busy(busy)))?;
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
        None => Err(refused(Some(status), "its response has no job id; it may be another program".into())),
    }
}

/// Cancels a job, and repeats that until the remote has responded.
pub(super) async fn cancel(remote: &Remote, job_id: &str, pause: Duration) {
    let Ok(url) = remote.url(&urls::job(job_id)) else { return };
    loop {
        let request = remote.request(Method::DELETE, &url, HeaderMap::new(), Bytes::new());
        let answered = match remote.client().send(request).await {
            Ok(response) => answer(response).await.map(drop),
            Err(error) => Err(wire(error)),
        };
        match answered {
            Err(RequestError::Failed(failure)) if failure.is_transient() => sleep(pause).await,
            // Cancelled, or ended before, or no longer known.
            _ => return,
        }
    }
}

/// Reads a result of at most `limit` bytes.
pub(super) async fn result(remote: &Remote, path: &str, limit: usize) -> Result<Box<RawValue>, RequestError> {
    let url = remote.url(path).map_err(|bad| refused(None, bad.to_string()))?;
    let response = remote.client().send(remote.request(Method::GET, &url, HeaderMap::new(), Bytes::new()));
    let response = response.await.map_err(wire)?;
    if response.status != StatusCode::OK {
        let (status, _) = answer(response).await?;
        return Err(refused(Some(status), "the response has no result".into()));
    }
    let body = response.body.idle_timeout(remote.read_timeout);
    let body = Chunks::of(&response.headers, body).map_err(encoded)?;
    let late = |_| Error::IdleTimeout { after: RESULT_TIMEOUT };
    let body = timeout(RESULT_TIMEOUT, body.collect(limit)).await.unwrap_or_else(|after| Err(late(after)));
    let text = String::from_utf8(body.map_err(wire)?.to_vec()).map_err(|bad| refused(None, bad.to_string()))?;
    RawValue::from_string(text).map_err(|bad| refused(None, format!("the result is not JSON: {bad}")))
}

/// The status and the body of a success response.
async fn answer(response: Response) -> Result<(u16, Bytes), RequestError> {
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
    // The body may be late, truncated or encoded; then only the status is known.
    let excerpt = problem(&body.unwrap_or_default());
    let failure = Failure::Status { status, retry_after: retry_after(&headers, received), excerpt };
    if failure.is_transient() {
        Err(RequestError::Failed(failure))
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

/// The text of a problem document with its fields, or the beginning of any other text.
fn problem(body: &[u8]) -> String {
    let Ok(Problem { title, detail, errors }) = json::from_slice::<Problem>(body) else {
        return line(&String::from_utf8_lossy(body));
    };
    let fields: Vec<String> = errors.iter().take(10).map(|e| format!("{}: {}", e.field, e.detail)).collect();
    let text = match (fields.is_empty(), detail.is_empty()) {
        (false, _) => fields.join("; "),
        (true, false) => detail,
        (true, true) => title,
    };
    line(&text)
}

fn line(text: &str) -> String {
    excerpt(&one_line(text), REFUSAL_MAX)
}

/// Replaces the number of a task in the request to the remote (`tasks[0].run`) by the task's id.
pub(super) fn name_tasks(text: &str, ids: &[&str]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("tasks[") {
        out.push_str(before);
        let named = after.split_once(']').and_then(|(number, behind)| {
            let id = ids.get(number.parse::<usize>().ok()?)?;
            Some((id, behind))
        });
        match named {
            Some((id, behind)) => {
                out.push_str(&format!("task `{id}`"));
                rest = behind;
            }
            None => {
                out.push_str("tasks[");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn wire(error: Error) -> RequestError {
    RequestError::Failed(Failure::Transport(error))
}

fn encoded(encoding: String) -> RequestError {
    RequestError::Failed(Failure::Encoding(encoding))
}

fn refused(http_status: Option<u16>, detail: String) -> RequestError {
    RequestError::Refused { http_status, detail }
}

/// True if the id can be used in URLs and in a record.
fn good_id(id: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !id.is_empty() && id.len() <= ID_MAX && id.chars().all(good) && id != "." && id != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_with_its_fields_and_within_bounds() {
        let body = r#"{"title":"T","detail":"2 fields are wrong","errors":[{"field":"a","detail":"b"},{"field":"c","detail":"d"}]}"#;
        assert_eq!(problem(body.as_bytes()), "a: b; c: d");
        assert_eq!(problem(br#"{"title":"T","detail":"why"}"#), "why");
        assert_eq!(problem(b"<html>\n no\0"), "<html> no");
        assert!(problem("x".repeat(50_000).as_bytes()).len() < 2000);
    }

    #[test]
    fn an_id_that_could_change_the_path_is_rejected() {
        assert!(good_id("01JABC-x_y.z"));
        for id in ["", ".", "..", "a/b", "a?b", "a b", "ü", &"x".repeat(129)] {
            assert!(!good_id(id), "{id}");
        }
    }

    #[test]
    fn tasks_are_named_by_their_ids() {
        assert_eq!(name_tasks("tasks[1].run: no; tasks[0]: x", &["a", "b"]), "task `b`.run: no; task `a`: x");
        assert_eq!(name_tasks("tasks[7].run tasks[x tasks[", &["a"]), "tasks[7].run tasks[x tasks[");
    }
}
