//! The paths of a remote that a client can request; pure.
//!
//! The allow-list checks a path in the form in which it is sent: URL parsing has already resolved `..` and its encoded
//! forms.

use url::Url;

use crate::text::{excerpt, one_line};

/// The allow-list of a remote: exact paths, and prefixes with a final `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Paths(Vec<String>);

/// Why a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// The text is not a valid path.
    #[error("`{path}` is not a path of a remote: {reason}")]
    Malformed {
        /// The path, shortened.
        path: String,
        /// The mistake.
        reason: &'static str,
    },
    /// The allow-list of the remote does not permit the path.
    #[error("`{path}` may not be asked of remote `{remote}`; `remotes.{remote}.paths` permits {permitted}")]
    Refused {
        /// The name of the remote.
        remote: String,
        /// The path, shortened.
        path: String,
        /// The permitted paths.
        permitted: String,
    },
}

/// Maximum length of a path with its query, in bytes.
const MAX_BYTES: usize = 4096;

// === impl Paths ===

impl Paths {
    /// Parses the entries of the setting.
    pub(super) fn new(entries: &[String]) -> Result<Self, String> {
        for text in entries {
            if !text.starts_with('/') {
                return Err(format!("`{text}` must begin with `/`"));
            }
            if text.strip_suffix('*').unwrap_or(text).contains('*') {
                return Err(format!("in `{text}` the `*` must be the last character: it means any rest"));
            }
        }
        Ok(Self(entries.to_vec()))
    }

    /// True if an entry permits this path, which has no query.
    pub(super) fn permit(&self, path: &str) -> bool {
        self.0.iter().any(|entry| match entry.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == entry,
        })
    }
}

// === impl BadPath ===

impl BadPath {
    pub(super) fn refused(remote: &str, path: &str, paths: &Paths) -> Self {
        let permitted = match paths.0.is_empty() {
            true => "nothing".into(),
            false => format!("`{}`", paths.0.join("`, `")),
        };
        Self::Refused { remote: remote.to_owned(), path: shown(path), permitted }
    }
}

/// The URL of a path below the base URL.
pub(super) fn join(base: &Url, path: &str) -> Result<Url, BadPath> {
    let malformed = |reason| Err(BadPath::Malformed { path: shown(path), reason });
    if path.len() > MAX_BYTES {
        return malformed("it has more than 4096 bytes");
    }
    let (before, query) = path.split_once('?').map_or((path, None), |(before, query)| (before, Some(query)));
    if !before.starts_with('/') {
        return malformed("it must begin with `/`");
    }
    if before.contains(['\\', '#']) || before.contains("//") || path.contains(char::is_control) {
        return malformed("`\\`, `#`, `//` and control characters are not allowed in it");
    }
    let lower = before.to_ascii_lowercase();
    if ["%2f", "%5c", "%00"].iter().any(|code| lower.contains(code)) {
        // Some servers treat an encoded slash as a part of a name, others as a separator.
        return malformed("encoded slashes and NUL are not allowed in it");
    }
    let dots = |part: &str| matches!(part.replace("%2e", ".").split_once(';'), Some(("." | "..", _)));
    if lower.replace("%3b", ";").split('/').any(dots) {
        // Some servers remove parameters from a path before they resolve its dots; they would see `..`.
        return malformed("`..;` is not allowed in it");
    }
    let root = base.path().trim_end_matches('/');
    let mut url = base.clone();
    url.set_path(&format!("{root}{before}"));
    url.set_query(query);
    let below = url.path().strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    if below { Ok(url) } else { malformed("it leads out of the remote's base URL") }
}

/// A path for a message.
fn shown(path: &str) -> String {
    excerpt(&one_line(path), 120)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_exact_or_prefixes() {
        let paths = Paths::new(&["/a".into(), "/b/*".into()]).unwrap();
        assert!(paths.permit("/a") && paths.permit("/b/") && paths.permit("/b/c/d"));
        assert!(!paths.permit("/a/") && !paths.permit("/b") && !paths.permit("/"));
        assert!(Paths::new(&["/*".into()]).unwrap().permit("/anything"));
        assert!(Paths::new(&["/a*b".into()]).is_err() && Paths::new(&["a".into()]).is_err());
    }

    #[test]
    fn dots_cannot_leave_the_base() {
        let base = Url::parse("http://h/base").unwrap();
        for path in
            ["/../x", "/%2e%2e/x", "/a/../../x", "/a/%2E./../x", "/a/..;/x", "/a/%2e.;p=1/x", "/a/..%3B/x", "/a/.;"]
        {
            assert!(join(&base, path).is_err(), "{path}");
        }
        assert_eq!(join(&base, "/a/../b?q=../c").unwrap().as_str(), "http://h/base/b?q=../c");
    }

    #[test]
    fn parameters_of_a_path_are_permitted() {
        let base = Url::parse("http://h").unwrap();
        assert_eq!(join(&base, "/a;v=1/b;..").unwrap().as_str(), "http://h/a;v=1/b;..");
    }

    #[test]
    fn a_base_without_path_permits_every_path() {
        let base = Url::parse("http://h").unwrap();
        assert_eq!(join(&base, "/x?a=b").unwrap().as_str(), "http://h/x?a=b");
    }
}
