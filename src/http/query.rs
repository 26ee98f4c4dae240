//! Query parameters that may be repeated, with errors that name the parameter.

use std::{
    future::{Ready, ready},
    str::FromStr,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::HeaderMap};

use super::{Code, Problem, accept};

/// The parameters of a request, decoded, in order.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// Minimum similarity (0 to 1) for a suggestion.
const ALIKE: f64 = 0.7;

/// Prefixes of parameters that proxies and links add for their own purposes; stream routes ignore them.
const IGNORED_PREFIXES: [&str; 2] = ["_", "utm_"];
/// Maximum number of ignored parameters that a stream lists, and maximum characters of each name.
const MOST_IGNORED: (usize, usize) = (16, 64);

/// For routes without parameters: a given parameter would be ignored silently.
pub(super) struct NoQuery;

// === impl Query ===

impl Query {
    pub(super) fn of(request: &HttpRequest) -> Self {
        Self(url::form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect())
    }

    /// Rejects unknown parameters: a typing error must not be ignored silently.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        self.strangers(known).next().map_or(Ok(()), |stranger| Err(unknown(stranger, known)))
    }

    /// Like [`only`](Self::only), for stream routes. A browser's EventSource does not reconnect after a 400, so a
    /// client that accepts event streams is not rejected. Returns the unknown names, which the first frame lists.
    pub(super) fn of_stream(&self, known: &[&str], headers: &HeaderMap) -> Result<Vec<String>, Problem> {
        let added = |name: &&str| IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let mut strangers = self.strangers(known).filter(|name| !added(name)).peekable();
        if let Some(stranger) = strangers.peek()
            && !accept::takes_stream(headers)
        {
            return Err(unknown(stranger, known));
        }
        let mut names: Vec<String> = Vec::new();
        for name in strangers.map(|name| name.chars().take(MOST_IGNORED.1).collect()) {
            if names.len() < MOST_IGNORED.0 && !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Names that are not known; a trailing `*` of a known name matches the rest.
    fn strangers<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|(name, _)| name.as_str()).filter(|name| {
            let reads =
                |known: &&str| known.strip_suffix('*').map_or(*known == *name, |prefix| name.starts_with(prefix));
            !known.iter().any(reads)
        })
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Name and value of the parameters with a prefix; the names are without it.
    pub(super) fn prefixed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }

    /// Values given one by one (`topic=a&topic=b`) and in lists (`topics=a,b`).
    pub(super) fn list<'a>(&'a self, one: &'a str, many: &'a str) -> impl Iterator<Item = &'a str> {
        let split = |value: &'a str| value.split(',').map(str::trim).filter(|part| !part.is_empty());
        self.all(one).chain(self.all(many).flat_map(split))
    }

    /// A parameter that is a number or another plain value.
    pub(super) fn get<T: FromStr>(&self, name: &str, form: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.first(name) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Problem::parameter(format!("query parameter `{name}` = `{text}` must be {form}"))),
        }
    }
}

/// The problem for an unknown parameter; suggests the most similar known name.
fn unknown(stranger: &str, known: &[&str]) -> Problem {
    let likeness = |known: &str| strsim::jaro_winkler(known, stranger);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let nearest = nearest.filter(|known| likeness(known) >= ALIKE);
    let nearest = nearest.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
    Problem::malformed(format!("unknown query parameter `{stranger}`{nearest}")).coded(Code::UnknownParameter)
}

// === impl NoQuery ===

impl FromRequest for NoQuery {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::of(request).only(&["access_token"]).map(|()| Self))
    }
}
