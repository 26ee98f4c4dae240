//! Spans of log lines: they say of each line where in the node it belongs.
//!
//! ```text
//! request{id method path}   a request, until its response
//! ```
//!
//! All names and fields stand here, so that the parts of the node agree on them. Spans have the highest level, so that each
//! line that a filter passes keeps its spans. A span costs some 3,000 instructions: fine for a request, too much for each
//! delivery of an event.

use tracing::{Span, error_span};

/// Maximum length of a path in a span, in bytes; a longer path is cut.
const LONGEST_PATH: usize = 200;

/// The span of a request. `path` must not have the query, which can have credentials.
pub(crate) fn request(id: &str, method: &str, path: &str) -> Span {
    error_span!("request", id, method, path = &path[..path.floor_char_boundary(LONGEST_PATH)])
}
