//! The meaning of a response status for the request; pure. Tasks, event streams (relays, merges, the proxy), remote jobs
//! and the command line all use this module.
//!
//! A status is handled by its class (RFC 9110, section 15): an unknown 529 is treated as 500, an unknown 460 as 400,
//! and a status outside 100 to 599 as a server error.

use http::StatusCode;

/// The meaning of a response for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request succeeded.
    Success,
    /// The request failed; the same request may succeed later.
    Transient,
    /// The request failed, and a repeat would fail in the same way.
    Final,
}

/// Classifies a final response, after redirects.
pub fn verdict(status: StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Success,
        // The server will never accept this request: method, version, negotiation, a loop, an extension.
        501 | 505 | 506 | 508 | 510 => Verdict::Final,
        // 408: the request took too long; 425: the server does not risk a replay; 429: too many requests.
        408 | 425 | 429 | 500.. => Verdict::Transient,
        // No request asks for a final 1xx, and a 3xx here is a redirect that was not followed.
        _ => Verdict::Final,
    }
}

/// The status as text, with an explanation if the number alone is not clear.
pub fn describe(status: StatusCode) -> String {
    let number = status.as_u16();
    let text = match status.canonical_reason() {
        Some(reason) => format!("{number} {reason}"),
        None => number.to_string(),
    };
    match number {
        301 | 302 | 303 | 307 | 308 => format!("{text}, a redirect without `Location`"),
        300..=399 => format!("{text}, which is not followed"),
        100..=199 => format!("{text}, which the request did not ask for"),
        600.. => format!("{text}, which is no status code of HTTP"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(number: u16) -> StatusCode {
        StatusCode::from_u16(number).unwrap()
    }

    /// RFC 9110, section 15.
    #[test]
    fn the_class_of_a_status_decides_its_verdict() {
        for number in 100..=999 {
            let expected = match number {
                200..=299 => Verdict::Success,
                408 | 425 | 429 | 500 | 502..=504 | 507 | 509 | 511..=999 => Verdict::Transient,
                _ => Verdict::Final,
            };
            assert_eq!(verdict(status(number)), expected, "{number}");
        }
    }

    #[test]
    fn an_unusable_status_is_explained() {
        for (number, text) in [
            (404, "404 Not Found"),
            (529, "529"),
            (101, "101 Switching Protocols, which the request did not ask for"),
            (302, "302 Found, a redirect without `Location`"),
            (300, "300 Multiple Choices, which is not followed"),
            (999, "999, which is no status code of HTTP"),
        ] {
            assert_eq!(describe(status(number)), text);
        }
    }
}
