//! The path of a request: the field `Via` (RFC 9110, section 7.6.3), by which nodes detect loops, and its trace (W3C
//! Trace Context). Pure, except for random span ids.
//!
//! A node adds itself, under a pseudonym, to each request that it sends on behalf of a caller. A request that has
//! already passed this node, or [`Via::MAX`] nodes and proxies, causes no further request.

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use crate::text::hex;

/// The members of the field, in order of the hops, and the trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Via {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hops: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
}

/// The parts of a `traceparent` that are propagated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trace {
    /// 32 hexadecimal digits.
    id: String,
    /// True if the caller has recorded the trace.
    sampled: bool,
}

/// Prefix of a node's pseudonym; the node's id follows.
const PSEUDONYM: &str = "millstream-";

// === impl Via ===

impl Via {
    /// Maximum number of hops of a request.
    pub const MAX: usize = 16;

    /// Parses the lines of the field. Members beyond [`MAX`](Self::MAX) are ignored, since such a request is rejected
    /// anyway.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let lines: Vec<_> = lines.into_iter().map(String::from_utf8_lossy).collect();
        let hops = lines.iter().flat_map(|line| members(line)).take(Self::MAX).map(str::to_owned).collect();
        Self { hops, trace: None }
    }

    /// Adds the trace of this `traceparent`; a value that cannot be parsed is ignored.
    #[must_use]
    pub fn traced(self, traceparent: Option<&[u8]>) -> Self {
        Self { trace: traceparent.and_then(Trace::parse), ..self }
    }

    /// The `traceparent` of an outgoing request, with a new span id; `None` without a trace.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        self.trace.as_ref().map(Trace::next)
    }

    /// The `traceparent` of an outgoing request. Without a trace, the request begins one whose id is made from `seed`. The
    /// flag "sampled" is not set in it: the node records no spans.
    pub fn traceparent_or_new(&self, seed: &str) -> HeaderValue {
        let new = || Trace { id: hex(&Sha256::digest(seed)[..16]), sampled: false }.next();
        self.traceparent().unwrap_or_else(new)
    }

    /// Keeps only the nodes: data that outlives the request does not need the proxies.
    #[must_use]
    pub fn nodes(mut self) -> Self {
        self.hops.retain(|member| received_by(member).starts_with(PSEUDONYM));
        self
    }

    /// True without members and without a trace.
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty() && self.trace.is_none()
    }

    /// Checks that the node with this id may send a further request on this path.
    ///
    /// # Errors
    /// [`Error::Loop`] with the reason.
    pub fn check(&self, node: &str) -> Result<(), Error> {
        let own = |member: &String| received_by(member).strip_prefix(PSEUDONYM) == Some(node);
        if self.hops.iter().any(own) {
            return Err(Error::Loop { reason: "it has already passed this node" });
        }
        if self.hops.len() >= Self::MAX {
            return Err(Error::Loop { reason: "it has passed 16 nodes and proxies" });
        }
        Ok(())
    }

    /// The `Via` of a request that the node with this id sends on this path.
    ///
    /// # Errors
    /// The errors of [`check`](Self::check).
    pub(super) fn extended(&self, node: &str) -> Result<HeaderValue, Error> {
        self.check(node)?;
        let own = format!("1.1 {PSEUDONYM}{node}");
        // Skip members that are not valid in a header field.
        let fits = |member: &&str| member.is_ascii() && HeaderValue::from_str(member).is_ok();
        let members: Vec<&str> = self.hops.iter().map(String::as_str).filter(fits).chain([own.as_str()]).collect();
        Ok(HeaderValue::from_str(&members.join(", ")).expect("each member is valid in a field"))
    }
}

// === impl Trace ===

impl Trace {
    /// Parses `traceparent`: `00-<trace>-<span>-<flags>`. A later version begins with the same parts.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim();
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next()?;
            let valid = part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            valid.then_some(part)
        };
        let (version, id, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let zero = |digits: &str| digits.bytes().all(|b| b == b'0');
        if version == "ff" || zero(id) || zero(span) || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { id: id.to_owned(), sampled: flags & 1 == 1 })
    }

    /// The `traceparent` of the next request, with a new span id.
    fn next(&self) -> HeaderValue {
        // The standard reserves zero for "no span".
        let span = rand::random::<u64>().max(1);
        let text = format!("00-{}-{span:016x}-{:02x}", self.id, u8::from(self.sampled));
        HeaderValue::try_from(text).expect("hexadecimal digits are valid in a header")
    }
}

/// The members of the list. A comment in parentheses may contain a comma.
fn members(line: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut escaped) = (0_usize, false);
    line.split(move |c: char| {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = depth > 0,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' => return depth == 0,
            _ => {}
        }
        false
    })
    .map(str::trim)
    .filter(|member| !member.is_empty())
}

/// The name in `1.1 name (comment)`.
fn received_by(member: &str) -> &str {
    member.split_ascii_whitespace().nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_continues_with_a_new_span_and_its_flag() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let next = |text: &str| {
            let via = Via::default().traced(Some(text.as_bytes()));
            via.traceparent().map(|value| value.to_str().unwrap().to_owned())
        };
        for (flags, sampled) in [("01", "01"), ("00", "00"), ("03", "01"), ("02", "00")] {
            let sent = next(&format!("00-{trace}-{span}-{flags}")).unwrap();
            assert!(sent.starts_with(&format!("00-{trace}-")) && sent.ends_with(&format!("-{sampled}")), "{sent}");
            assert!(!sent.contains(span) && sent.len() == 55, "{sent}");
        }
        assert!(next(&format!("01-{trace}-{span}-01-more")).is_some(), "a later version begins with the same parts");
        let zero = "0".repeat(32);
        for wrong in [
            "",
            "00",
            &format!("00-{trace}-{span}"),
            &format!("00-{trace}-{span}-1"),
            &format!("00-{trace}-{span}-01-more"),
            &format!("ff-{trace}-{span}-01"),
            &format!("00-{zero}-{span}-01"),
            &format!("00-{trace}-0000000000000000-01"),
            &format!("00-{}-{span}-01", trace.to_uppercase()),
        ] {
            assert_eq!(next(wrong), None, "{wrong}");
        }
        let stored = Via::default().traced(Some(format!("00-{trace}-{span}-01").as_bytes())).nodes();
        let json = serde_json::to_string(&stored).unwrap();
        assert_eq!(serde_json::from_str::<Via>(&json).unwrap(), stored);
        assert!(!stored.is_empty() && Via::default().is_empty());
    }

    fn via(lines: &[&str]) -> Via {
        Via::read(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn a_node_appends_itself() {
        assert_eq!(via(&[]).extended("a").unwrap(), "1.1 millstream-a");
        let came = via(&["1.0 fred, 1.1 p.example (x, \\) y), ,", "2.0 millstream-b"]);
        assert_eq!(
            came.extended("a").unwrap(),
            "1.0 fred, 1.1 p.example (x, \\) y), 2.0 millstream-b, 1.1 millstream-a"
        );
        assert_eq!(came.nodes(), via(&["2.0 millstream-b"]));
    }

    #[test]
    fn a_request_that_has_passed_this_node_is_a_loop() {
        let came = via(&["1.1 millstream-a, 1.1 millstream-b"]);
        assert_eq!(came.check("b").unwrap_err().code(), "loop_detected");
        assert!(came.check("c").is_ok() && came.check("").is_ok());
        assert!(via(&["1.1 x (1.1 millstream-a, 1.1 millstream-a)"]).check("a").is_ok(), "a comment is not a hop");
    }

    #[test]
    fn the_number_of_hops_is_limited() {
        let hops = |count: usize| via(&[vec!["1.1 p"; count].join(",").as_str()]);
        assert!(hops(Via::MAX - 1).check("a").is_ok());
        assert_eq!(hops(Via::MAX).extended("a").unwrap_err().code(), "loop_detected");
        assert_eq!(hops(10_000).hops.len(), Via::MAX);
    }

    #[test]
    fn members_that_are_not_valid_in_a_field_are_skipped() {
        let came = Via::read([&b"1.1 millstream-b, 1.1 \xff"[..]]);
        assert_eq!(came.extended("a").unwrap(), "1.1 millstream-b, 1.1 millstream-a");
    }
}
