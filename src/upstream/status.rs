//! What the status of an answer means for the request; pure. The only place that decides this: tasks, event streams
//! (relays, merges, the proxy), remote jobs and the command line ask here.
//!
//! A status is understood by its class (RFC 9110, section 15): an unknown 529 is a 500, an unknown 460 is a 400, and what
//! lies outside of 100 to 599 is a server error.

use http::StatusCode;

/// What an answer means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request succeeded.
    Success,
    /// The request failed; the same request may succeed later.
    Transient,
    /// The request failed, and a repeat would fail in the same way.
    Final,
}

/// Judges an answer to which no further hop belongs.
pub fn verdict(status: StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Success,
        // The server cannot do this at all: method, version, negotiation, a loop, an extension.
        501 | 505 | 506 | 508 | 510 => Verdict::Final,
        // 408, 425, 429: it waited too long for the request, does not want to risk a replay, or is asked too often.
        408 | 425 | 429 | 500.. => Verdict::Transient,
        // 1xx is no answer unless it was asked for, and a 3xx here is one that was not followed.
        _ => Verdict::Final,
    }
}

/// The status in words, with what is wrong with it where the number alone does not say.
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

    /// Each number there is, by its class; RFC 9110, section 15.
    #[test]
    fn a_status_is_understood_by_its_class() {
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
    fn a_status_is_described_with_what_is_wrong_with_it() {
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
