//! URLs of jobs. Ids come from clients, so each is percent-encoded as one path segment.

use std::fmt::Write;

/// The URL of a job.
pub(crate) fn job(job_id: &str) -> String {
    format!("/api/jobs/{}", segment(job_id))
}

/// The URL of a job's event stream.
pub(crate) fn events(job_id: &str) -> String {
    format!("{}/events", job(job_id))
}

/// The URL of the result of a task.
pub(crate) fn result(job_id: &str, task_id: &str) -> String {
    format!("{}/tasks/{}/result", job(job_id), segment(task_id))
}

/// A text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        // The unreserved characters of RFC 3986.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_one_segment() {
        assert_eq!(result("01J", "a b/ü?"), "/api/jobs/01J/tasks/a%20b%2F%C3%BC%3F/result");
        assert_eq!(events("v1.2"), "/api/jobs/v1.2/events");
    }
}
