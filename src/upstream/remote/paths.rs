//! Which paths of a remote a client may name; pure.
//!
//! The path is judged in the form in which it is sent: parsed by the same rules as any URL, so that `..` and its
//! encoded spellings have had their effect before the allow-list is asked.

use std::fmt::Write as _;

use url::Url;

/// The allow-list of a remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Exact(String),
    Prefix(String),
}

/// A path that is not asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// The text is no path.
    #[error("`{path}` is no path of a remote: {reason}")]
    Malformed {
        /// What was named, shortened.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The operator has not listed it.
    #[error("`{path}` may not be asked of remote `{remote}`; `remotes.{remote}.paths` permits {permitted}")]
    Refused {
        /// The remote.
        remote: String,
        /// What was named, shortened.
        path: String,
        /// What would be taken.
        permitted: String,
    },
}

/// Longest path with query, in bytes.
const MAX_BYTES: usize = 4096;

// === impl Paths ===

impl Paths {
    /// Reads the entries of the setting.
    pub fn new(entries: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            if !text.starts_with('/') {
                return Err(format!("`{text}` must begin with `/`"));
            }
            match text.strip_suffix('*') {
                Some(prefix) if !prefix.contains('*') => Ok(Entry::Prefix(prefix.to_owned())),
                None if !text.contains('*') => Ok(Entry::Exact(text.clone())),
                _ => Err(format!("in `{text}` the `*` must be the last character: it stands for the rest")),
            }
        };
        entries.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// True when an entry has this path, which is without query.
    pub fn permit(&self, path: &str) -> bool {
        self.0.iter().any(|entry| match entry {
            Entry::Exact(exact) => path == exact,
            Entry::Prefix(prefix) => path.starts_with(prefix.as_str()),
        })
    }
}

// === impl BadPath ===

impl BadPath {
    pub(super) fn refused(remote: &str, path: &str, paths: &Paths) -> Self {
        let mut permitted = String::new();
        for entry in &paths.0 {
            let separator = if permitted.is_empty() { "" } else { ", " };
            let _ = match entry {
                Entry::Exact(exact) => write!(permitted, "{separator}`{exact}`"),
                Entry::Prefix(prefix) => write!(permitted, "{separator}`{prefix}*`"),
            };
        }
        if permitted.is_empty() {
            permitted.push_str("nothing");
        }
        Self::Refused { remote: remote.to_owned(), path: shown(path), permitted }
    }
}

/// The URL of a path below the base.
pub fn join(base: &Url, path: &str) -> Result<Url, BadPath> {
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
        // What one server takes for a part of a name another takes for a separator.
        return malformed("encoded slashes and NUL are not allowed in it");
    }
    let dots = |part: &str| matches!(part.replace("%2e", ".").split_once(';'), Some(("." | "..", _)));
    if lower.replace("%3b", ";").split('/').any(dots) {
        // Servers that take parameters out of a path before they resolve its dots see `..` in it.
        return malformed("`..;` is not allowed in it");
    }
    let root = base.path().trim_end_matches('/');
    let mut url = base.clone();
    url.set_path(&format!("{root}{before}"));
    url.set_query(query);
    let below = url.path().strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    if below { Ok(url) } else { malformed("it leads out of the remote's base URL") }
}

fn shown(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(120).collect()
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
    fn dots_do_not_lead_out_of_the_base() {
        let base = Url::parse("http://h/base").unwrap();
        for path in
            ["/../x", "/%2e%2e/x", "/a/../../x", "/a/%2E./../x", "/a/..;/x", "/a/%2e.;p=1/x", "/a/..%3B/x", "/a/.;"]
        {
            assert!(join(&base, path).is_err(), "{path}");
        }
        assert_eq!(join(&base, "/a/../b?q=../c").unwrap().as_str(), "http://h/base/b?q=../c");
    }

    #[test]
    fn parameters_of_a_path_are_taken() {
        let base = Url::parse("http://h").unwrap();
        assert_eq!(join(&base, "/a;v=1/b;..").unwrap().as_str(), "http://h/a;v=1/b;..");
    }

    #[test]
    fn a_base_without_path_takes_every_path() {
        let base = Url::parse("http://h").unwrap();
        assert_eq!(join(&base, "/x?a=b").unwrap().as_str(), "http://h/x?a=b");
    }
}
