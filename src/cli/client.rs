//! The client of a node: one address, one token, JSON responses, and errors as text.

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

/// Default address of the node.
const DEFAULT_URL: &str = "http://127.0.0.1:8090";

/// Maximum size of a response in memory. A page of events has at most 4 MiB.
const ANSWER_MAX: usize = 64 << 20;

/// Maximum time for a complete response.
const ANSWER_TIME: Duration = Duration::from_mins(1);

/// The address of the node and the credentials.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct ClientArguments {
    /// URL of the node; default: `MILLSTREAM_URL`, else <http://127.0.0.1:8090>.
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Token, sent as `X-Auth-Token`; default: `MILLSTREAM_TOKEN`.
    #[arg(long, value_name = "TOKEN")]
    pub(super) token: Option<String>,
    /// User name in open mode, sent as `X-User-ID`.
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
}

/// A client of one node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    base: Url,
    /// Headers of every request to the node.
    headers: HeaderMap,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Error {
    /// There was no response.
    Transport(upstream::Error),
    /// The node rejected the request.
    Refused {
        /// The status.
        status: u16,
        /// The reason as text.
        detail: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// The response has another form than expected.
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
    /// A client from the arguments and the environment.
    ///
    /// # Errors
    /// If the address is not valid, or the token cannot be sent in a header.
    pub(super) fn new(arguments: &ClientArguments) -> Result<Self, Failure> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = arguments.url.clone().or_else(|| env("MILLSTREAM_URL")).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let token = arguments.token.clone().or_else(|| env("MILLSTREAM_TOKEN"));
        let mut api = Self::at(&url)?;
        api.carry("x-auth-token", token.as_deref())?;
        api.carry("x-user-id", arguments.user.as_deref())?;
        Ok(api)
    }

    /// A client for this address, without a token.
    ///
    /// # Errors
    /// If it is not a valid URL.
    pub(super) fn at(url: &str) -> Result<Self, Failure> {
        let base = upstream::parse_url(url).map_err(|error| Failure::usage(format!("`{url}`: {error}")))?;
        Ok(Self { client: Client::new(upstream::Config::default()), base, headers: HeaderMap::new() })
    }

    fn carry(&mut self, name: &'static str, value: Option<&str>) -> Result<(), Failure> {
        let Some(value) = value else { return Ok(()) };
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            Failure::usage(format!("the value for `{name}` has characters that are not valid in a header"))
        })?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    /// The URL of a path of the node.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let (path, query) = path.split_once('?').map_or((&*path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// A request for this URL. The token is sent only to the node, not to other servers.
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

    /// Sends a request and expects success.
    ///
    /// # Errors
    /// [`Error::Transport`] and [`Error::Refused`].
    pub(super) async fn send(&self, request: Request) -> Result<Response, Error> {
        let response = self.client.send(request).await.map_err(Error::Transport)?;
        if response.status.is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// Sends a request and reads its JSON response.
    ///
    /// # Errors
    /// See [`Error`].
    pub(super) async fn json(&self, request: Request) -> Result<Value, Error> {
        let response = self.send(request).await?;
        let body = tokio::time::timeout(ANSWER_TIME, response.body.collect(ANSWER_MAX))
            .await
            .map_err(|_| Error::Unexpected(format!("the answer took longer than {ANSWER_TIME:?}")))?
            .map_err(Error::Transport)?;
        serde_json::from_slice(&body).map_err(|error| Error::Unexpected(format!("the response is not JSON: {error}")))
    }
}

// === impl Error ===

impl Error {
    /// True if the request may succeed later.
    pub(super) fn retryable(&self) -> bool {
        match self {
            Self::Transport(error) => error.retryable(),
            Self::Refused { status, .. } => {
                StatusCode::from_u16(*status).is_ok_and(|status| verdict(status) == Verdict::Transient)
            }
            Self::Unexpected(_) => false,
        }
    }

    /// True if the request cannot have reached a server.
    pub(super) fn is_connect_error(&self) -> bool {
        use upstream::Error as E;
        matches!(self, Self::Transport(E::Connect { .. } | E::ConnectTimeout { .. } | E::Resolve { .. }))
    }

    /// When the node asks for the next attempt.
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
            Self::Transport(error) if self.is_connect_error() => {
                write!(
                    f,
                    "{error}; is a node running there? `millstream serve` starts one, `--url` selects another one"
                )
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

/// The error of a rejected request.
async fn refused(response: Response) -> Error {
    let retry_after = upstream::retry_after(&response.headers, response.received);
    let status = response.status;
    let body = tokio::time::timeout(ANSWER_TIME, response.body.collect(1 << 20)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or("refused");
    Error::Refused { status: status.as_u16(), detail: detail(&body, reason), retry_after }
}

/// The text of a problem (RFC 9457), with all fields if there are several; else the reason of the status.
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
    fn an_error_has_the_text_of_the_problem() {
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
    fn the_token_is_sent_only_to_the_node() {
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
