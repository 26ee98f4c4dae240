//! Spans of log lines, which name the part of the node that has written a line.
//!
//! ```text
//! request{id method path}    a request, until its response
//! stream{emitter user}       a stream of the hub
//! job{id}                    a job
//! └─ attempt{task number}    an attempt at a task of the job
//! relay{id}                  a relay
//! ```
//!
//! All names and fields are here, so that the parts of the node agree on them. Spans have the highest level, so that each
//! line that a filter passes keeps its spans.
//!
//! A span costs some 2,500 instructions and 500 bytes, and each poll of a future in a span 250 more. So no span is entered
//! for a single event: requests, attempts and sessions with remotes run in their spans, a job keeps its span, and streams
//! and relays make one for each line.

use tracing::{Span, error_span};

/// Maximum length of a path in a span, in bytes; a longer path is cut.
const LONGEST_PATH: usize = 200;

/// The span of a request. `path` must not have the query, which can have credentials.
pub(crate) fn request(id: &str, method: &str, path: &str) -> Span {
    error_span!("request", id, method, path = &path[..path.floor_char_boundary(LONGEST_PATH)])
}

/// The span of a stream of the hub.
pub(crate) fn stream(emitter: &str, user: Option<&str>) -> Span {
    error_span!("stream", emitter, user)
}

/// The span of a job. It has no parent: a job outlives the request that submitted it.
pub(crate) fn job(id: &str) -> Span {
    error_span!(parent: None, "job", id)
}

/// The span of an attempt at a task of a job; `number` begins with 1.
pub(crate) fn attempt(job: &Span, task: &str, number: u32) -> Span {
    error_span!(parent: job, "attempt", task, number)
}

/// The span of a relay.
pub(crate) fn relay(id: &str) -> Span {
    error_span!("relay", id)
}
