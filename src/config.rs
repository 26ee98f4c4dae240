//! Settings: one tree, a section per component; read from a file, then the environment, then flags.
//!
//! A section is defined where its component is. Every key has a documented default; an unknown key is an error that
//! names the nearest known one. Nothing here acts: [`crate::app`] builds the node from it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize};

use crate::{
    access::{self, Mode},
    hub, intake,
    jobs::{self, handlers},
    journal,
    json::Objects,
    relay, telemetry, upstream,
};

mod files;
mod secrets;
mod shown;
#[cfg(test)]
mod tests;
mod transport;

pub use self::files::TooFewFiles;

/// Everything that can be set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[server]`: the listener.
    pub server: Server,
    /// `[access]`: who may come in.
    pub access: access::Config,
    /// `[limits]`: how much of the node one caller may use.
    pub limits: access::limits::Config,
    /// `[egress]`: which private addresses requests named by clients may reach.
    pub egress: Egress,
    /// `[journal]`: what is kept, and for how long.
    pub journal: journal::Config,
    /// `[emitter]`: streams.
    pub emitter: hub::Config,
    /// `[jobs]`: parallel work.
    pub jobs: jobs::Config,
    /// `[relay]`: what is read from other servers.
    pub relay: relay::Config,
    /// `[remotes.NAME]`: the servers that are read from.
    pub remotes: BTreeMap<String, upstream::RemoteConfig>,
    /// `[handlers.NAME]`: what a task may `run`.
    pub handlers: BTreeMap<String, handlers::HandlerConfig>,
    /// `[samples]`: example jobs.
    pub samples: handlers::sample::Config,
    /// `[streams.NAME]`: streams with topics of their own.
    pub streams: BTreeMap<String, hub::NamedConfig>,
    /// `[webhooks.NAME]`: deliveries of other services.
    pub webhooks: BTreeMap<String, intake::WebhookConfig>,
    /// `[telemetry]`: logs.
    pub telemetry: telemetry::Config,
}

/// `[server]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the journal is kept; made if need be. One directory is one node's.
    pub data_dir: PathBuf,
    /// Names beside loopback that the `Host` header may have in open mode.
    pub hosts: Vec<String>,
    /// Headers added to every response.
    pub headers: BTreeMap<String, String>,
    /// Threads that serve connections; 0: one per core.
    pub workers: usize,
    /// Maximum number of open connections; 0: as many as the limit of open files permits. Above it, streams get a
    /// `disconnect` frame with `retry:`, and other requests get 503.
    pub max_connections: usize,
    /// Over how many milliseconds streams are ended at a stop.
    pub drain_ms: u64,
    /// Largest request body in bytes.
    pub body_limit_bytes: usize,
    /// How long a request body may take, in milliseconds.
    pub body_timeout_ms: u64,
    /// Maximum time in milliseconds that a request may wait for events (`wait=`).
    pub max_wait_ms: u64,
    /// The kernel's send buffer of a connection in bytes; it doubles the number for its own bookkeeping. Bounds what a
    /// stuck reader costs beside its outbox.
    pub send_buffer_bytes: usize,
    /// Maximum number of response bytes that wait for clients. Above it, the response that has been blocked longest
    /// ends.
    pub max_unsent_bytes: usize,
    /// Origins beside the node's own that web pages may call from, such as `https://app.example`.
    pub cors_origins: Vec<String>,
    /// Proxies that are believed when they say for whom a request is: `10.0.0.0/8`, `::1`.
    pub trusted_proxies: Vec<upstream::Net>,
    /// The node's certificate and its chain (PEM); with it and `tls_key` the node speaks TLS, and nothing else.
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate (PEM, not encrypted).
    pub tls_key: Option<PathBuf>,
    /// How long the head of a request may take, a TLS handshake too, in milliseconds; then the connection is cut.
    pub head_timeout_ms: u64,
    /// Most requests and streams at once on one connection of HTTP/2.
    pub http2_max_streams: u32,
    /// Requests of HTTP/2 whose response has not begun, in the node; above it, each connection has one.
    pub http2_max_answering: usize,
    /// Whether answers in JSON are compressed for clients that take it.
    pub compress: bool,
}

/// `[egress]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Private, loopback and link-local targets that clients may name: `127.0.0.1:9000`, `10.1.0.0/16`, `api.internal`.
    pub allow: Vec<String>,
    /// A file with certificates (PEM) of authorities that outgoing requests trust beside the public ones.
    pub ca_file: Option<PathBuf>,
}

/// The settings are wrong; the message names the key and the accepted form.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The configuration of the guide's orchestrator, used where no file is named.
pub const BUILT_IN: &str = include_str!("../config/orchestrator.toml");

/// The configuration of the guide's reactive server; `demo` runs it beside the other one.
pub const REACTIVE: &str = include_str!("../config/reactive.toml");

/// Prefix of environment variables: `MILLSTREAM__SERVER__LISTEN`.
const ENV_PREFIX: &str = "MILLSTREAM__";

// === impl Server ===

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8090)),
            data_dir: "data".into(),
            hosts: Vec::new(),
            headers: BTreeMap::new(),
            workers: 0,
            max_connections: 0,
            drain_ms: 5000,
            body_limit_bytes: 4 << 20,
            body_timeout_ms: 30_000,
            max_wait_ms: 60_000,
            send_buffer_bytes: 64 << 10,
            max_unsent_bytes: 16 << 20,
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            tls_cert: None,
            tls_key: None,
            head_timeout_ms: 5000,
            http2_max_streams: 128,
            http2_max_answering: 64,
            compress: false,
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads a file (or, without one, the built-in configuration), then the environment.
    ///
    /// # Errors
    /// Names the key, where it stands, and the nearest known key or the accepted form.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Error(format!("cannot read the configuration `{}`: {error}", path.display())))?,
            None => BUILT_IN.to_owned(),
        };
        let source = file.map_or_else(|| "the built-in configuration".to_owned(), |path| path.display().to_string());
        Self::read(&text, &source)
    }

    /// Reads TOML text, then the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(toml: &str, source: &str) -> Result<Self, Error> {
        Self::extract(&base(toml).merge(Env::prefixed(ENV_PREFIX).split("__")), source)
    }

    /// Reads TOML text alone.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(toml: &str, source: &str) -> Result<Self, Error> {
        Self::extract(&base(toml), source)
    }

    fn extract(figment: &Figment, source: &str) -> Result<Self, Error> {
        let Objects(config): Objects<Self> = figment.extract().map_err(|errors| {
            let lines: Vec<String> = errors.into_iter().map(|error| explain(&error, source)).collect();
            Error(lines.join("\n"))
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not; to be called again after flags have changed something.
    ///
    /// # Errors
    /// Names the key and the accepted form.
    pub fn check(&self) -> Result<(), Error> {
        self.access.check().map_err(Error)?;
        self.journal.check().map_err(Error)?;
        self.emitter.check().map_err(Error)?;
        self.jobs.check().map_err(Error)?;
        self.egress()?;
        self.limits.check().map_err(Error)?;
        self.relay.check().map_err(Error)?;
        self.telemetry.check().map_err(Error)?;
        for (name, remote) in &self.remotes {
            remote.check(name).map_err(Error)?;
        }
        for (name, stream) in &self.streams {
            stream.check(name).map_err(Error)?;
        }
        for (name, webhook) in &self.webhooks {
            webhook.check(name, &self.journal).map_err(Error)?;
        }
        let secrets = secrets::variables(&self.all());
        for (name, handler) in &self.handlers {
            handler.check_environment(name, &secrets).map_err(Error)?;
        }
        if let Some(name) = &self.relay.default_remote
            && !self.remotes.contains_key(name)
        {
            return Err(Error(format!(
                "`relay.default_remote` = `{name}` names no remote: there is no `[remotes.{name}]`"
            )));
        }
        if self.server.body_limit_bytes < 1024 {
            return Err(Error("`server.body_limit_bytes` must be at least 1024".into()));
        }
        if self.server.body_timeout_ms < 100 {
            return Err(Error("`server.body_timeout_ms` must be at least 100".into()));
        }
        self.server.check_transport()?;
        for (name, value) in &self.server.headers {
            let good = name.parse::<http::HeaderName>().is_ok() && value.parse::<http::HeaderValue>().is_ok();
            if !good {
                return Err(Error(format!("`server.headers`: `{name}` is no header that can be sent")));
            }
        }
        for origin in &self.server.cors_origins {
            let plain = upstream::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !plain {
                return Err(Error(format!(
                    "`server.cors_origins`: `{origin}` is no origin such as `https://app.example`"
                )));
            }
        }
        let loopback = self.server.listen.ip().is_loopback();
        if self.access.mode == Mode::Open && !loopback && !self.access.allow_open {
            return Err(Error(format!(
                "`server.listen` = `{}` can be reached from outside, and `access.mode` = `open` lets everybody in: listen on \
                 127.0.0.1, or set `access.allow_open = true` if something in front of the node decides who comes in",
                self.server.listen
            )));
        }
        Ok(())
    }

    /// Whether anything differs that a running node cannot take over.
    pub(crate) fn changed_beside_tokens(&self, other: &Self) -> bool {
        let without = |config: &Self| {
            let mut config = config.clone();
            config.access.tokens.clear();
            config.all()
        };
        without(self) != without(other)
    }

    /// The allow-list of the egress guard.
    ///
    /// # Errors
    /// Names the entry that is none.
    pub fn egress(&self) -> Result<Vec<upstream::Allow>, Error> {
        let parse = |text: &String| text.parse().map_err(|error| Error(format!("`egress.allow`: `{text}`: {error}")));
        self.egress.allow.iter().map(parse).collect()
    }

    /// What outgoing requests are made with.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn upstream(&self) -> Result<upstream::Config, Error> {
        let wrong = |path: &Path, reason: &str| Error(format!("`egress.ca_file` = `{}`: {reason}", path.display()));
        let roots = match &self.egress.ca_file {
            None => Vec::new(),
            Some(path) => {
                let text = std::fs::read(path).map_err(|error| wrong(path, &error.to_string()))?;
                upstream::read_roots(&text).map_err(|reason| wrong(path, &reason))?
            }
        };
        let defaults = upstream::Config::default();
        // Tasks end many at a time, and with fewer places for their connections most would be closed and made anew.
        let idle_connections = defaults.idle_connections.max(self.jobs.concurrency);
        let hosts = self.server.hosts.clone();
        Ok(upstream::Config { allow: self.egress()?, roots, hosts, idle_connections, ..defaults })
    }

    fn all(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("settings are plain data")
    }
}

/// The defaults, and over them what the text says.
fn base(toml: &str) -> Figment {
    Figment::from(Serialized::defaults(Config::default())).merge(Toml::string(toml))
}

/// One line for one error: the key, what is wrong, where, and what was perhaps meant.
fn explain(error: &figment::Error, source: &str) -> String {
    let key = error.path.join(".");
    let place = match &error.metadata {
        Some(metadata) if metadata.name.contains("environment") => "the environment (MILLSTREAM__…)".to_owned(),
        _ => source.to_owned(),
    };
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let nearest = known.iter().max_by(|a, b| {
                let likeness = |known: &str| strsim::jaro_winkler(known, name);
                likeness(a).total_cmp(&likeness(b))
            });
            let parent = error.path.iter().take_while(|part| *part != name).cloned().collect::<Vec<_>>().join(".");
            let full = if parent.is_empty() { name.clone() } else { format!("{parent}.{name}") };
            let hint = nearest.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
            format!("{place}: unknown key `{full}`{hint}")
        }
        kind => format!("{place}: `{key}`: {kind}"),
    }
}
