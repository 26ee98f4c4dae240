//! Settings: one tree with a section per component, read from a file, then the environment, then options.
//!
//! Each section is defined in its component. Every setting has a documented default. An unknown setting is an error that
//! names the nearest known one. This file starts nothing: [`crate::app`] builds the node.

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

/// All settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[server]`: the listener.
    pub server: Server,
    /// `[access]`: authentication and rights.
    pub access: access::Config,
    /// `[limits]`: limits per caller.
    pub limits: access::limits::Config,
    /// `[egress]`: private addresses that client requests may reach.
    pub egress: Egress,
    /// `[journal]`: storage and retention.
    pub journal: journal::Config,
    /// `[emitter]`: streams.
    pub emitter: hub::Config,
    /// `[jobs]`: parallel tasks.
    pub jobs: jobs::Config,
    /// `[relay]`: streams of other servers.
    pub relay: relay::Config,
    /// `[remotes.NAME]`: other servers.
    pub remotes: BTreeMap<String, upstream::RemoteConfig>,
    /// `[handlers.NAME]`: handlers that a task may `run`.
    pub handlers: BTreeMap<String, handlers::HandlerConfig>,
    /// `[samples]`: example handlers.
    pub samples: handlers::sample::Config,
    /// `[streams.NAME]`: streams with fixed topics.
    pub streams: BTreeMap<String, hub::NamedConfig>,
    /// `[webhooks.NAME]`: webhooks for other services.
    pub webhooks: BTreeMap<String, intake::WebhookConfig>,
    /// `[telemetry]`: logs.
    pub telemetry: telemetry::Config,
}

/// Settings of section `[server]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port to listen on; port 0 selects a free port.
    pub listen: SocketAddr,
    /// Data directory of the journal; created if it does not exist. Only one node may use it.
    pub data_dir: PathBuf,
    /// Names beside loopback that the `Host` header may have in open mode.
    pub hosts: Vec<String>,
    /// Headers added to every response.
    pub headers: BTreeMap<String, String>,
    /// Threads that serve connections; 0: one per processor core.
    pub workers: usize,
    /// Maximum number of open connections; 0: as many as the limit of open files permits. Above it, streams get a
    /// `disconnect` frame with `retry:`, and other requests get 503.
    pub max_connections: usize,
    /// Time in milliseconds during which streams are ended at a stop.
    pub drain_ms: u64,
    /// Maximum size of a request body in bytes.
    pub body_limit_bytes: usize,
    /// Maximum time for a request body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Maximum time in milliseconds that a request may wait for events (`wait=`).
    pub max_wait_ms: u64,
    /// Send buffer of a connection in the kernel, in bytes; the kernel doubles the number. It limits the memory of a blocked
    /// client beside its outbox.
    pub send_buffer_bytes: usize,
    /// Maximum number of response bytes that wait for clients. Above it, the response that has been blocked longest
    /// ends.
    pub max_unsent_bytes: usize,
    /// Origins of web pages that may call the node, beside its own, such as `https://app.example`.
    pub cors_origins: Vec<String>,
    /// Proxies whose forwarding headers are trusted: `10.0.0.0/8`, `::1`.
    pub trusted_proxies: Vec<upstream::Net>,
    /// Certificate of the node with its chain (PEM). With it and `tls_key` the node accepts only TLS.
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM, not encrypted).
    pub tls_key: Option<PathBuf>,
    /// Maximum time for a TLS handshake, and for the head of a request, in milliseconds. Then the connection is closed.
    pub head_timeout_ms: u64,
    /// Maximum number of concurrent requests and streams on one HTTP/2 connection.
    pub http2_max_streams: u32,
    /// Maximum number of HTTP/2 requests in the node whose response has not begun. Above it, each connection has one.
    pub http2_max_answering: usize,
    /// Whether JSON responses are compressed for clients that accept it.
    pub compress: bool,
}

/// Settings of section `[egress]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Private, loopback and link-local targets that clients may name: `127.0.0.1:9000`, `10.1.0.0/16`, `api.internal`.
    pub allow: Vec<String>,
    /// File with certificates (PEM) of further authorities for outgoing requests.
    pub ca_file: Option<PathBuf>,
}

/// The settings are not valid. The message names the setting and the accepted values.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The configuration of the orchestrator in the guide; default without a settings file.
pub const BUILT_IN: &str = include_str!("../config/orchestrator.toml");

/// The configuration of the reactive server in the guide, for `demo`.
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
    /// Reads a file (without one: the built-in configuration), then the environment.
    ///
    /// # Errors
    /// Names the setting, its origin, and the nearest known setting or the accepted values.
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
    /// Names the setting, its origin, and the nearest known setting or the accepted values.
    pub fn read(toml: &str, source: &str) -> Result<Self, Error> {
        Self::extract(&base(toml).merge(Env::prefixed(ENV_PREFIX).split("__")), source)
    }

    /// Reads only TOML text.
    ///
    /// # Errors
    /// Names the setting, its origin, and the nearest known setting or the accepted values.
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

    /// Checks all values. Must be called again after options have changed a value.
    ///
    /// # Errors
    /// Names the setting and the accepted values.
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
                "`relay.default_remote` = `{name}` is not the name of a remote: there is no `[remotes.{name}]`"
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
                return Err(Error(format!("`server.headers`: `{name}` is not a valid header")));
            }
        }
        for origin in &self.server.cors_origins {
            let plain = upstream::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !plain {
                return Err(Error(format!(
                    "`server.cors_origins`: `{origin}` is not an origin such as `https://app.example`"
                )));
            }
        }
        let loopback = self.server.listen.ip().is_loopback();
        if self.access.mode == Mode::Open && !loopback && !self.access.allow_open {
            return Err(Error(format!(
                "`server.listen` = `{}` is reachable from outside, and `access.mode` = `open` admits all callers: listen on \
                 127.0.0.1, or set `access.allow_open = true` if a proxy in front of the node checks access",
                self.server.listen
            )));
        }
        Ok(())
    }

    /// True if another setting than the tokens has changed, which needs a restart.
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
    /// Names the invalid entry.
    pub fn egress(&self) -> Result<Vec<upstream::Allow>, Error> {
        let parse = |text: &String| text.parse().map_err(|error| Error(format!("`egress.allow`: `{text}`: {error}")));
        self.egress.allow.iter().map(parse).collect()
    }

    /// The settings of outgoing requests.
    ///
    /// # Errors
    /// Names the invalid setting.
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
        // Many tasks end at the same time. With fewer idle connections most connections would be closed and opened again.
        let idle_connections = defaults.idle_connections.max(self.jobs.concurrency);
        let hosts = self.server.hosts.clone();
        Ok(upstream::Config { allow: self.egress()?, roots, hosts, idle_connections, ..defaults })
    }

    fn all(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("settings are plain data")
    }
}

/// The defaults, overridden by the text.
fn base(toml: &str) -> Figment {
    Figment::from(Serialized::defaults(Config::default())).merge(Toml::string(toml))
}

/// One line per error: the setting, the error, its origin, and the nearest known setting.
fn explain(error: &figment::Error, source: &str) -> String {
    let key = error.path.join(".");
    let origin = match &error.metadata {
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
            format!("{origin}: unknown key `{full}`{hint}")
        }
        kind => format!("{origin}: `{key}`: {kind}"),
    }
}
