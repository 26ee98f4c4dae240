//! Methods of outgoing requests: which methods are allowed, and which may be repeated; pure.

use http::Method;

/// Methods that are case-insensitive, as in browsers (Fetch, "normalize").
const COMMON: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Registered safe methods (RFC 9110, section 9.2.1) in addition to those that [`Method`] knows. A safe request changes
/// nothing, so it may be repeated.
const SAFE: [&str; 4] = ["PROPFIND", "QUERY", "REPORT", "SEARCH"];

/// Parses a method: any token except `CONNECT`, which opens a tunnel, and `TRACE`, which reflects credentials.
///
/// # Errors
/// When the method is not allowed; the message lists the accepted methods.
pub fn parse_method(text: &str) -> Result<Method, String> {
    if let Some(method) = COMMON.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(text)) {
        return Ok(method);
    }
    let refused = text.eq_ignore_ascii_case("CONNECT") || text.eq_ignore_ascii_case("TRACE");
    Method::from_bytes(text.as_bytes()).ok().filter(|_| !refused).ok_or_else(|| {
        let shown: String = text.escape_debug().take(40).collect();
        format!(
            "method `{shown}` is not sent; use any HTTP method, such as GET, POST or QUERY, except CONNECT and TRACE"
        )
    })
}

/// True for methods that change nothing, so that the request may be repeated.
pub(super) fn is_safe(method: &Method) -> bool {
    method.is_safe() || SAFE.contains(&method.as_str())
}

/// True for methods whose repetition has the effect of one request (RFC 9110, section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || matches!(*method, Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_any_token_except_connect_and_trace() {
        for (text, method) in
            [("get", "GET"), ("Patch", "PATCH"), ("QUERY", "QUERY"), ("query", "query"), ("M-x!", "M-x!")]
        {
            assert_eq!(parse_method(text).unwrap().as_str(), method);
        }
        for text in ["", "CONNECT", "trace", "A B", "A\r\nB", "é", "A:", "(x)"] {
            assert!(parse_method(text).unwrap_err().contains("GET"), "{text:?}");
        }
    }

    #[test]
    fn methods_that_change_nothing_are_safe() {
        let is_safe = |name: &str| is_safe(&Method::from_bytes(name.as_bytes()).unwrap());
        assert!(["GET", "HEAD", "OPTIONS", "QUERY", "REPORT", "SEARCH", "PROPFIND"].into_iter().all(is_safe));
        assert!(!["POST", "PUT", "DELETE", "PATCH", "PURGE", "query"].into_iter().any(is_safe));
    }
}
