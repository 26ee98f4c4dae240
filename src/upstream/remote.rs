//! Remotes: the servers that the operator configures, with their credentials and limits.
//!
//! Owns section `[remotes.NAME]`, and builds a [`Remote`] from it. A client chooses only a path, which the remote's
//! allow-list must permit. Requests carry the credentials of the remote, never those that a client sent to this node. A
//! redirect to another origin removes them.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{Client, HeaderMap, Method, Request, Trust, Url, Via, method::is_safe, parse_url};
use crate::shares::Pool;

mod paths;

pub use self::paths::BadPath;
use self::paths::Paths;

/// Settings of one section `[remotes.NAME]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteConfig {
    /// The base URL of the remote: `https://host[:port][/path]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The environment variable with the base URL. If it is set, it has precedence over `base_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url_env: Option<String>,
    /// Paths that clients can request: exact, or a prefix with a trailing `*`. Default: `/api/sse/*`.
    pub paths: Vec<String>,
    /// Header fields of every request to this remote.
    pub headers: BTreeMap<String, String>,
    /// The environment variable with a token, which is sent as `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Time limit of name lookup, TCP and TLS of one connection together, in milliseconds. Default: 5000.
    pub connect_timeout_ms: u64,
    /// Maximum pause of a connection in milliseconds; after it, the connection is closed. Also limits the wait for a
    /// response head. Default: 300,000.
    pub read_timeout_ms: u64,
    /// Maximum number of open streams of this remote, over all clients. Default: 256.
    pub max_connections: usize,
    /// Maximum number of reconnects of a stream without a new event; after them, the stream fails. Default: 5.
    pub max_retries: u32,
    /// Maximum size of a line, and of the data of an event, in bytes. Default: 1,048,576.
    pub max_event_bytes: usize,
    /// True if unsafe requests such as POST can be repeated, because the remote recognizes a repeat. Default: false.
    pub repeat_post: bool,
}

/// A remote that is ready for requests.
pub struct Remote {
    name: String,
    base: Url,
    paths: Paths,
    headers: HeaderMap,
    client: Client,
    /// Permits for open streams of this remote.
    pub(super) permits: Pool,
    /// Maximum pause of a connection to the remote.
    pub read_timeout: Duration,
    /// Maximum number of reconnects of a stream without a new event.
    pub max_retries: u32,
    /// Maximum size of a line, and of the data of an event, in bytes.
    pub max_event_bytes: usize,
    repeat_post: bool,
}

/// The remotes of a node, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Remotes(Arc<BTreeMap<String, Arc<Remote>>>);

/// The error for a name that no remote has. Its text lists the configured remotes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no remote is called `{name}`; {known}")]
pub struct UnknownRemote {
    name: String,
    known: String,
}

/// Names that a remote cannot have: routes and jobs use them.
const RESERVED: [&str; 3] = ["connections", "local", "merge-streams"];

/// Maximum time for the response head of an event stream, with connecting.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_mins(5);

// === impl RemoteConfig ===

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            base_url: None,
            base_url_env: None,
            paths: vec!["/api/sse/*".into()],
            headers: BTreeMap::new(),
            token_env: None,
            connect_timeout_ms: 5000,
            read_timeout_ms: 300_000,
            max_connections: 256,
            max_retries: 5,
            max_event_bytes: 1 << 20,
            repeat_post: false,
        }
    }
}

impl RemoteConfig {
    /// Checks the settings without the environment variables.
    ///
    /// # Errors
    /// The key, and the mistake.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let key = |key: &str| format!("`remotes.{name}.{key}`");
        let is_valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_valid) {
            return Err(format!("`remotes.{name}`: a name has 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        if RESERVED.contains(&name) {
            return Err(format!("`remotes.{name}`: this name is taken, choose another one"));
        }
        let positive = [
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("read_timeout_ms", self.read_timeout_ms),
            ("max_connections", self.max_connections as u64),
            ("max_event_bytes", self.max_event_bytes as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{} must be at least 1", key(name)));
        }
        if self.base_url.is_none() && self.base_url_env.is_none() {
            return Err(format!("{} is missing; write it as `http://host:port`", key("base_url")));
        }
        if let Some(url) = &self.base_url {
            base_url(url).map_err(|error| format!("{}: {error}", key("base_url")))?;
        }
        Paths::new(&self.paths).map_err(|error| format!("{}: {error}", key("paths")))?;
        self.header_fields().map_err(|error| format!("{}: {error}", key("headers")))?;
        Ok(())
    }

    /// Builds the remote with this name. It has pools of its own, and the guard of `client`.
    ///
    /// # Errors
    /// The key, and the mistake in its value or in its environment variable.
    pub fn build(&self, name: &str, client: &Client) -> Result<Remote, String> {
        self.check(name)?;
        let mut headers = self.header_fields()?;
        if let Some(variable) = &self.token_env {
            headers.insert(
                AUTHORIZATION,
                bearer(variable).map_err(|error| format!("`remotes.{name}.token_env`: {error}"))?,
            );
        }
        Ok(Remote {
            base: self.base().map_err(|error| format!("`remotes.{name}.base_url_env`: {error}"))?,
            paths: Paths::new(&self.paths)?,
            headers,
            client: client.with_connect_timeout(Duration::from_millis(self.connect_timeout_ms)),
            permits: Pool::new(self.max_connections as u64),
            read_timeout: Duration::from_millis(self.read_timeout_ms),
            max_retries: self.max_retries,
            max_event_bytes: self.max_event_bytes,
            repeat_post: self.repeat_post,
            name: name.to_owned(),
        })
    }

    /// The base URL. The environment variable has precedence, as for all settings.
    fn base(&self) -> Result<Url, String> {
        let from_env = self.base_url_env.as_ref().and_then(|variable| std::env::var(variable).ok());
        match from_env.filter(|url| !url.is_empty()).as_ref().or(self.base_url.as_ref()) {
            Some(url) => base_url(url),
            None => {
                let variable = self.base_url_env.as_deref().unwrap_or_default();
                Err(format!("the environment variable `{variable}` is not set, and there is no `base_url`"))
            }
        }
    }

    fn header_fields(&self) -> Result<HeaderMap, String> {
        let mut fields = HeaderMap::new();
        for (field, value) in &self.headers {
            let parsed = field.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
            let (field, mut value) = parsed.ok_or_else(|| format!("`{field}` is not a valid header field"))?;
            value.set_sensitive(true);
            fields.append(field, value);
        }
        Ok(fields)
    }
}

fn base_url(text: &str) -> Result<Url, String> {
    let mut url = parse_url(text).map_err(|error| error.to_string())?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must not have a query or a fragment".into());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn bearer(variable: &str) -> Result<HeaderValue, String> {
    let token = std::env::var(variable).ok().filter(|token| !token.trim().is_empty());
    let token = token.ok_or_else(|| format!("the environment variable `{variable}` is not set"))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = value
        .map_err(|_| format!("the environment variable `{variable}` has characters that a header cannot contain"))?;
    value.set_sensitive(true);
    Ok(value)
}

// === impl Remote ===

impl Remote {
    /// The name of the remote in the settings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if a request with this method can be repeated: the method is safe, or the settings permit it.
    pub fn may_repeat(&self, method: &Method) -> bool {
        is_safe(method) || self.repeat_post
    }

    /// The URL of a path (with query) from a client, if the allow-list permits it.
    ///
    /// # Errors
    /// The mistake in the path, or the permitted paths.
    pub fn client_url(&self, path: &str) -> Result<Url, BadPath> {
        let url = self.url(path)?;
        let own = url.path().strip_prefix(self.base.path().trim_end_matches('/')).unwrap_or_default();
        if self.paths.permit(own) { Ok(url) } else { Err(BadPath::refused(&self.name, own, &self.paths)) }
    }

    /// The URL of a path (with query) from this program, without the allow-list.
    ///
    /// # Errors
    /// The mistake in the path.
    pub fn url(&self, path: &str) -> Result<Url, BadPath> {
        paths::join(&self.base, path)
    }

    /// Creates a request to this remote with its credentials. Header fields of the settings replace those of `headers`.
    pub fn request(&self, method: Method, url: &Url, mut headers: HeaderMap, body: Bytes) -> Request {
        // Replaces the fields with these names.
        headers.extend(self.headers.clone());
        Request {
            headers,
            body,
            via: Some(Via::default()),
            head_timeout: self.read_timeout.min(HEAD_TIMEOUT_MAX),
            ..Request::new(method, url.as_str(), Trust::Operator)
        }
    }

    /// True if the base URL of this remote is this node ([`Client::is_own`]).
    pub fn is_self(&self) -> bool {
        self.client.is_own(&self.base)
    }

    /// The client that sends requests to this remote.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Shows no credentials.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.name).field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

// === impl Remotes ===

impl Remotes {
    /// Builds all remotes of the settings.
    ///
    /// # Errors
    /// The first error of [`RemoteConfig::build`].
    pub fn build(configs: &BTreeMap<String, RemoteConfig>, client: &Client) -> Result<Self, String> {
        let build = |(name, config): (&String, &RemoteConfig)| {
            Ok::<_, String>((name.clone(), Arc::new(config.build(name, client)?)))
        };
        Ok(Self(Arc::new(configs.iter().map(build).collect::<Result<_, _>>()?)))
    }

    /// Finds a remote by name.
    ///
    /// # Errors
    /// [`UnknownRemote`] if no remote has this name.
    pub fn get(&self, name: &str) -> Result<&Arc<Remote>, UnknownRemote> {
        self.0.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let known = match names.is_empty() {
                true => "none is configured (`[remotes.NAME]`)".into(),
                false => format!("there are `{}`", names.join("`, `")),
            };
            UnknownRemote { name: name.chars().take(64).collect(), known }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Config;

    #[expect(clippy::needless_pass_by_value, reason = "the tests write the settings in place")]
    fn build(config: RemoteConfig) -> Result<Remote, String> {
        config.build("up", &Client::new(Config::default()))
    }

    fn at(base: &str) -> RemoteConfig {
        RemoteConfig { base_url: Some(base.into()), ..RemoteConfig::default() }
    }

    #[test]
    fn a_client_can_request_only_paths_of_the_allow_list() {
        let remote = build(at("http://h:1/base/")).unwrap();
        assert_eq!(remote.client_url("/api/sse/x?a=1").unwrap().as_str(), "http://h:1/base/api/sse/x?a=1");
        for path in
            ["/api/jobs", "/api/sse/../jobs", "/api/sse/%2e%2e/jobs", "/api/sse/..%2fjobs", "//evil/api/sse/x", "x"]
        {
            assert!(remote.client_url(path).is_err(), "{path}");
        }
        let refused = remote.client_url("/api/jobs").unwrap_err().to_string();
        assert!(refused.contains("`/api/sse/*`") && refused.contains("remotes.up.paths"), "{refused}");
        assert_eq!(remote.url("/api/jobs").unwrap().as_str(), "http://h:1/base/api/jobs");
    }

    #[test]
    fn header_fields_of_the_settings_replace_those_of_a_client() {
        let headers = BTreeMap::from([("X-Key".to_owned(), "secret".to_owned())]);
        let remote = build(RemoteConfig { headers, ..at("http://h") }).unwrap();
        let mut own = HeaderMap::new();
        own.insert("x-key", HeaderValue::from_static("forged"));
        own.insert("accept", HeaderValue::from_static("a/b"));
        let request = remote.request(Method::GET, &remote.url("/x").unwrap(), own, Bytes::new());
        assert_eq!(request.headers["x-key"], "secret");
        assert_eq!(request.headers.get_all("x-key").iter().count(), 1);
        assert_eq!(request.headers["accept"], "a/b");
        assert!(!format!("{remote:?}").contains("secret"));
    }

    #[test]
    fn an_invalid_setting_is_reported_with_its_key() {
        let error = |config: RemoteConfig| build(config).unwrap_err();
        assert!(error(RemoteConfig::default()).contains("`remotes.up.base_url`"));
        assert!(error(at("ftp://h")).contains("ftp"));
        assert!(error(at("http://h/?q")).contains("query"));
        let no_token = RemoteConfig { token_env: Some("MILLSTREAM_TEST_NO_SUCH_VARIABLE".into()), ..at("http://h") };
        assert!(error(no_token).contains("MILLSTREAM_TEST_NO_SUCH_VARIABLE"));
        assert!(error(RemoteConfig { max_connections: 0, ..at("http://h") }).contains("max_connections"));
        assert!(error(RemoteConfig { paths: vec!["api".into()], ..at("http://h") }).contains("paths"));
        let reserved = at("http://h").build("connections", &Client::new(Config::default())).unwrap_err();
        assert!(reserved.contains("taken"), "{reserved}");
    }

    #[test]
    fn the_error_for_an_unknown_name_lists_the_known_names() {
        let configs = BTreeMap::from([("a".to_owned(), at("http://h")), ("b".to_owned(), at("http://h"))]);
        let remotes = Remotes::build(&configs, &Client::new(Config::default())).unwrap();
        assert_eq!(remotes.get("c").unwrap_err().to_string(), "no remote is called `c`; there are `a`, `b`");
        assert!(Remotes::default().get("c").unwrap_err().to_string().contains("[remotes.NAME]"));
    }
}
