//! The way of a request: the field `Via` (RFC 9110, section 7.6.3), by which nodes notice loops; pure.
//!
//! A node adds itself, under a pseudonym, to each request that it sends for somebody. It begins no further request for one
//! that has been here before, or that has come through [`Via::MAX`] nodes and proxies already.

use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::Error;

/// The members of the field, the first hop first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Via(Vec<String>);

/// What the pseudonyms of nodes begin with; the node's id follows.
const PSEUDONYM: &str = "millstream-";

// === impl Via ===

impl Via {
    /// Most hops of a request.
    pub const MAX: usize = 16;

    /// Reads the lines of the field. What is beyond the bound is left out: it goes no further anyway.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let lines: Vec<_> = lines.into_iter().map(String::from_utf8_lossy).collect();
        Self(lines.iter().flat_map(|line| members(line)).take(Self::MAX).map(str::to_owned).collect())
    }

    /// The nodes among them: what outlives the request need not remember its proxies.
    #[must_use]
    pub fn nodes(mut self) -> Self {
        self.0.retain(|member| received_by(member).starts_with(PSEUDONYM));
        self
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the node of this id may send a request on this way.
    ///
    /// # Errors
    /// [`Error::Loop`] says why not.
    pub fn check(&self, node: &str) -> Result<(), Error> {
        let own = |member: &String| received_by(member).strip_prefix(PSEUDONYM) == Some(node);
        if self.0.iter().any(own) {
            return Err(Error::Loop { reason: "it has been at this node before" });
        }
        if self.0.len() >= Self::MAX {
            return Err(Error::Loop { reason: "it has come through 16 nodes and proxies" });
        }
        Ok(())
    }

    /// The field of a request that the node of this id sends on this way.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) fn onward(&self, node: &str) -> Result<HeaderValue, Error> {
        self.check(node)?;
        let own = format!("1.1 {PSEUDONYM}{node}");
        // Members that no field can hold are left out, not the whole way with them.
        let fits = |member: &&str| member.is_ascii() && HeaderValue::from_str(member).is_ok();
        let members: Vec<&str> = self.0.iter().map(String::as_str).filter(fits).chain([own.as_str()]).collect();
        Ok(HeaderValue::from_str(&members.join(", ")).expect("each member is the text of a field"))
    }
}

/// The members of a list. A comment, in parentheses, may hold a comma.
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

    fn via(lines: &[&str]) -> Via {
        Via::read(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn a_node_adds_itself_behind_all_others() {
        assert_eq!(via(&[]).onward("a").unwrap(), "1.1 millstream-a");
        let came = via(&["1.0 fred, 1.1 p.example (x, \\) y), ,", "2.0 millstream-b"]);
        assert_eq!(came.onward("a").unwrap(), "1.0 fred, 1.1 p.example (x, \\) y), 2.0 millstream-b, 1.1 millstream-a");
        assert_eq!(came.nodes(), via(&["2.0 millstream-b"]));
    }

    #[test]
    fn a_request_that_has_been_here_goes_no_further() {
        let came = via(&["1.1 millstream-a, 1.1 millstream-b"]);
        assert_eq!(came.check("b").unwrap_err().code(), "loop_detected");
        assert!(came.check("c").is_ok() && came.check("").is_ok());
        assert!(via(&["1.1 x (1.1 millstream-a, 1.1 millstream-a)"]).check("a").is_ok(), "a comment is no hop");
    }

    #[test]
    fn a_request_has_at_most_so_many_hops() {
        let hops = |count: usize| via(&[vec!["1.1 p"; count].join(",").as_str()]);
        assert!(hops(Via::MAX - 1).check("a").is_ok());
        assert_eq!(hops(Via::MAX).onward("a").unwrap_err().code(), "loop_detected");
        assert_eq!(hops(10_000).0.len(), Via::MAX);
    }

    #[test]
    fn what_no_field_can_hold_is_left_out() {
        let came = Via::read([&b"1.1 millstream-b, 1.1 \xff"[..]]);
        assert_eq!(came.onward("a").unwrap(), "1.1 millstream-b, 1.1 millstream-a");
    }
}
