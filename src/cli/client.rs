//! The node as its command line sees it: one address, one token, JSON answers, and problems in words.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{EXIT_USAGE, Failure};
use crate::upstream::{
    self, Client, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Trust, Url, Verdict,
    verdict,
};

mod stream;

pub(super) use self::stream::{Message, Next, Stream};

/// Where a node is found unless something else is said.
const DEFAULT_URL: &str = "http://127.0.0.1:8090";

/// Largest answer that is read whole; a page of events has at most 4 MiB.
const ANSWER_MAX: usize = 64 << 20;

/// How long a whole answer may take.
const ANSWER_TIME: Duration = Duration::from_mins(1);

/// Which node to talk to, and as whom.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ClientArguments {
    /// The node; else `MILLSTREAM_URL`, else <http://127.0.0.1:8090>.
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// The token, sent as `X-Auth-Token`; else `MILLSTREAM_TOKEN`.
    #[arg(long, value_name = "TOKEN")]
    pub(super) token: Option<String>,
    /// Whom to be in open mode, sent as `X-User-ID`.
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
}

/// A node, ready to be asked. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    base: Url,
    /// What every request to the node carries.
    headers: HeaderMap,
}

/// Why an answer is none.
#[derive(Debug)]
pub(super) enum Error {
    /// The request got no answer.
    Transport(upstream::Error),
    /// The answer is a refusal.
    Refused {
        /// Its status.
        status: u16,
        /// In words.
        detail: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The answer is not what was asked for.
    Unexpected(String),
}

#[derive(Deserialize)]
struct Problem {
    detail: Option<String>,
    title: Option<String>,
    #[serde(default)]
    errors: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    field: String,
    detail: String,
}

// === impl Api ===

impl Api {
    /// A node as the arguments and the environment name it.
    ///
    /// # Errors
    /// When the address or the token cannot be sent.
    pub(super) fn new(arguments: &ClientArguments) -> Result<Self, Failure> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = arguments.url.clone().or_else(|| env("MILLSTREAM_URL")).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let token = arguments.token.clone().or_else(|| env("MILLSTREAM_TOKEN"));
        let mut api = Self::at(&url)?;
        api.carry("x-auth-token", token.as_deref())?;
        api.carry("x-user-id", arguments.user.as_deref())?;
        Ok(api)
    }

    /// A node at an address, asked without a token.
    ///
    /// # Errors
    /// When it is no URL.
    pub(super) fn at(url: &str) -> Result<Self, Failure> {
        let base = upstream::parse_url(url).map_err(|error| Failure::usage(format!("`{url}`: {error}")))?;
        Ok(Self { client: Client::new(upstream::Config::default()), base, headers: HeaderMap::new() })
    }

    fn carry(&mut self, name: &'static str, value: Option<&str>) -> Result<(), Failure> {
        let Some(value) = value else { return Ok(()) };
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| Failure::usage(format!("the value for `{name}` has characters that no header can carry")))?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    /// A path of the node as a URL.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let (path, query) = path.split_once('?').map_or((&*path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// A request for that URL. The token goes to the node alone, not to whatever URL somebody watches.
    pub(super) fn request(&self, method: Method, url: &Url) -> Request {
        let mut request = Request::new(method, url.as_str(), Trust::Operator);
        if url.origin() == self.base.origin() {
            request.headers = self.headers.clone();
        }
        request
    }

    /// A request with a JSON body.
    pub(super) fn post(&self, path: &str, body: impl Into<bytes::Bytes>) -> Request {
        let mut request = self.request(Method::POST, &self.url(path));
        request.headers.insert("content-type", HeaderValue::from_static("application/json"));
        request.body = body.into();
        request
    }

    /// Sends a request; the answer is a success.
    ///
    /// # Errors
    /// [`Error::Transport`] and [`Error::Refused`].
    pub(super) async fn send(&self, request: Request) -> Result<Response, Error> {
        let response = self.client.send(request).await.map_err(Error::Transport)?;
        if response.status.is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// Sends a request and reads its JSON answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn json(&self, request: Request) -> Result<Value, Error> {
        let response = self.send(request).await?;
        let body = tokio::time::timeout(ANSWER_TIME, response.body.collect(ANSWER_MAX))
            .await
            .map_err(|_| Error::Unexpected(format!("the answer took longer than {ANSWER_TIME:?}")))?
            .map_err(Error::Transport)?;
        serde_json::from_slice(&body).map_err(|error| Error::Unexpected(format!("the answer is no JSON: {error}")))
    }
}

// === impl Error ===

impl Error {
    /// True if the same request may get an answer later.
    pub(super) fn retryable(&self) -> bool {
        match self {
            Self::Transport(error) => error.retryable(),
            Self::Refused { status, .. } => {
                StatusCode::from_u16(*status).is_ok_and(|status| verdict(status) == Verdict::Transient)
            }
            Self::Unexpected(_) => false,
        }
    }

    /// True if the request cannot have arrived.
    pub(super) fn nobody_there(&self) -> bool {
        use upstream::Error as E;
        matches!(self, Self::Transport(E::Connect { .. } | E::ConnectTimeout { .. } | E::Resolve { .. }))
    }

    /// When the node asks to come back.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(error) if self.nobody_there() => {
                write!(f, "{error}; is a node running there? `millstream serve` starts one, --url names another")
            }
            Self::Transport(error) => error.fmt(f),
            Self::Refused { status, detail, .. } => write!(f, "{status}: {detail}"),
            Self::Unexpected(what) => f.write_str(what),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if matches!(error, Error::Transport(upstream::Error::BadUrl { .. })) { EXIT_USAGE } else { 1 };
        Self { message: error.to_string(), code }
    }
}

/// What a refusal says.
async fn refused(response: Response) -> Error {
    let retry_after = upstream::retry_after(&response.headers, response.received);
    let status = response.status;
    let body = tokio::time::timeout(ANSWER_TIME, response.body.collect(1 << 20)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or("refused");
    Error::Refused { status: status.as_u16(), detail: detail(&body, reason), retry_after }
}

/// The words of a problem (RFC 9457), with each field where there are several; else what the status says.
fn detail(body: &[u8], reason: &str) -> String {
    let Ok(problem) = crate::json::from_slice::<Problem>(body) else { return reason.to_owned() };
    let mut text = problem.detail.or(problem.title).unwrap_or_else(|| reason.to_owned());
    if problem.errors.len() > 1 {
        for Field { field, detail } in problem.errors.iter().take(20) {
            let _ = write!(text, "\n  `{field}`: {detail}");
        }
        if problem.errors.len() > 20 {
            let _ = write!(text, "\n  and {} more", problem.errors.len() - 20);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_in_its_words() {
        let one = br#"{"title":"T","status":422,"detail":"`tasks[0].run`: unknown","errors":[{"field":"tasks[0].run","detail":"unknown"}]}"#;
        assert_eq!(detail(one, "r"), "`tasks[0].run`: unknown");
        let two =
            br#"{"detail":"2 fields are wrong","errors":[{"field":"a","detail":"x"},{"field":"b","detail":"y"}]}"#;
        assert_eq!(detail(two, "r"), "2 fields are wrong\n  `a`: x\n  `b`: y");
        assert_eq!(detail(b"<html>", "Bad Gateway"), "Bad Gateway");
        assert_eq!(detail(br#"{"title":"Gone"}"#, "r"), "Gone");
    }

    #[test]
    fn paths_are_below_the_address() {
        let api = Api::at("http://127.0.0.1:1/below/").unwrap();
        assert_eq!(api.url("/api/jobs?x=1").as_str(), "http://127.0.0.1:1/below/api/jobs?x=1");
        assert_eq!(Api::at("http://h:1").unwrap().url("/events").as_str(), "http://h:1/events");
    }

    #[test]
    fn the_token_goes_to_the_node_alone() {
        let arguments = ClientArguments {
            url: Some("http://127.0.0.1:1".into()),
            token: Some("secret".into()),
            user: Some("42".into()),
        };
        let api = Api::new(&arguments).unwrap();
        let own = api.request(Method::GET, &api.url("/events"));
        assert_eq!(
            (&own.headers["x-auth-token"], &own.headers["x-user-id"]),
            (&"secret".parse().unwrap(), &"42".parse().unwrap())
        );
        let foreign = api.request(Method::GET, &Url::parse("http://127.0.0.1:2/events").unwrap());
        assert!(foreign.headers.is_empty());
    }
}
