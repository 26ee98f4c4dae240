//! From what came to what can be read: every rule of a spec, each with the message that a client gets.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::Value;

use super::{FieldError, Key, Plan, PlannedSource, SourceSpec, Spec};
use crate::{
    relay::Config,
    topic::Topic,
    upstream::{
        Purpose, Remotes,
        events::{Pace, Source},
    },
};

/// What the node allows and offers; what a spec is checked against.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The settings in force.
    pub config: &'a Config,
    /// Whom a source can name.
    pub remotes: &'a Remotes,
}

/// Longest label, in characters.
const MAX_LABEL: usize = 64;
/// Longest id to begin after, in bytes.
const MAX_ID_BYTES: usize = 1024;
/// Longest name of an event, in bytes.
const MAX_EVENT_NAME_BYTES: usize = 255;
/// Longest silence that a source may ask for: a day.
const MAX_READ_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
/// The delays that a source may ask for: no faster than ten times a second, no slower than once an hour.
const RETRY_MS: std::ops::RangeInclusive<u64> = 100..=60 * 60 * 1000;
/// A client with hundreds of broken sources is told of the first so many mistakes.
const MAX_ERRORS: usize = 100;
const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::PATCH];

/// Fields that are the transport's or the stream reader's.
const FOREIGN: [HeaderName; 13] = [
    header::HOST,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    HeaderName::from_static("last-event-id"),
];

/// Collects what is wrong.
struct Errors(Vec<FieldError>);

/// The place of one source in the spec, for messages.
struct At<'e> {
    index: usize,
    errors: &'e mut Errors,
}

// === impl Plan ===

impl Plan {
    /// Checks a spec whole, and fills in the remotes and labels that it leaves out.
    ///
    /// # Errors
    /// Lists what is wrong, by field, at most a hundred entries.
    pub fn check(spec: &mut Spec, limits: Limits<'_>) -> Result<Self, Vec<FieldError>> {
        let mut errors = Errors(Vec::new());
        let (count, max) = (spec.sources.len(), limits.config.max_sources);
        if count == 0 || count > max {
            let detail = format!("a relay has 1 to {max} sources (`relay.max_sources`), this one has {count}");
            return Err(vec![FieldError::new("sources", detail)]);
        }
        let target = errors.target(spec);
        if let Some(name) = &spec.end_event
            && (name.is_empty() || name.len() > MAX_EVENT_NAME_BYTES || name.contains(['\r', '\n', '\0']))
        {
            let detail = format!("must have 1 to {MAX_EVENT_NAME_BYTES} bytes without CR, LF and NUL");
            errors.add("endEvent", detail);
        }
        errors.names(spec, limits.config);
        let (common, mut sources) = (spec.clone(), Vec::new());
        for (index, source) in spec.sources.iter().enumerate() {
            sources.extend(At { index, errors: &mut errors }.source(&common, source, limits));
        }
        if errors.0.is_empty() { Ok(Self { target, sources }) } else { Err(errors.0) }
    }

    /// The target of a spec that was checked before.
    pub fn target(spec: &Spec) -> Option<Topic> {
        Errors(Vec::new()).target(spec)
    }

    /// A source of a spec that was checked before, as the settings of today permit it.
    ///
    /// # Errors
    /// The first thing that is wrong by now.
    pub fn source(spec: &Spec, index: usize, limits: Limits<'_>) -> Result<PlannedSource, FieldError> {
        let mut errors = Errors(Vec::new());
        let planned = At { index, errors: &mut errors }.source(spec, &spec.sources[index], limits);
        match (planned, errors.0.into_iter().next()) {
            (Some(planned), None) => Ok(planned),
            (_, Some(error)) => Err(error),
            (None, None) => Err(FieldError::new(format!("sources[{index}]"), "cannot be read")),
        }
    }
}

// === impl Errors ===

impl Errors {
    fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError::new(field, detail));
        }
    }

    fn target(&mut self, spec: &Spec) -> Option<Topic> {
        let user = spec.user.as_ref().map(|id| ("user", Topic::user(id)));
        let group = spec.group.as_ref().map(|id| ("group", Topic::group(id)));
        let topic = spec.topic.as_ref().map(|name| ("topic", Topic::new(name)));
        let mut targets = [topic, user, group].into_iter().flatten();
        let (field, target) = targets.next()?;
        if let Some((second, _)) = targets.next() {
            self.add(second, format!("give at most one of `topic`, `user` and `group`; there is `{field}` already"));
        }
        match target {
            Ok(topic) if topic.internal() => {
                self.add(field, format!("only the node itself publishes into `{topic}`"));
                None
            }
            Ok(topic) => Some(topic),
            Err(invalid) => {
                self.add(field, invalid.to_string());
                None
            }
        }
    }

    /// Gives every source a remote and a label of its own.
    fn names(&mut self, spec: &mut Spec, config: &Config) {
        let mut used: HashSet<String> = HashSet::new();
        for (index, source) in spec.sources.iter_mut().enumerate() {
            if source.remote.is_none() {
                source.remote.clone_from(&config.default_remote);
            }
            let Some(label) = &source.label else { continue };
            let characters = label.chars().count();
            let wrong = if !(1..=MAX_LABEL).contains(&characters) || label.contains(char::is_control) {
                format!("must have 1 to {MAX_LABEL} characters, none of them a control character")
            } else if !used.insert(label.clone()) {
                format!("`{label}` is the label of an earlier source; labels are unique in a relay")
            } else {
                continue;
            };
            self.add(format!("sources[{index}].label"), wrong);
        }
        for source in spec.sources.iter_mut().filter(|source| source.label.is_none()) {
            let name = source.remote.as_deref().unwrap_or("source").chars().take(MAX_LABEL - 8).collect::<String>();
            let mut label = name.clone();
            for number in 2.. {
                if used.insert(label.clone()) {
                    break;
                }
                label = format!("{name}-{number}");
            }
            source.label = Some(label);
        }
    }
}

// === impl At ===

impl At<'_> {
    fn error(&mut self, field: &str, detail: impl Into<String>) {
        self.errors.add(format!("sources[{}].{field}", self.index), detail);
    }

    fn source(&mut self, spec: &Spec, source: &SourceSpec, limits: Limits<'_>) -> Option<PlannedSource> {
        let method = self.method(source);
        let mut headers = self.headers(source);
        let body = match (&source.body, &method) {
            (None, _) => Bytes::new(),
            (Some(_), Some(method)) if *method == Method::GET => {
                self.error("body", "a GET has no body; say `\"method\": \"POST\"`");
                Bytes::new()
            }
            (Some(Value::String(text)), _) => Bytes::from(text.clone()),
            (Some(json), _) => {
                headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                Bytes::from(json.to_string())
            }
        };
        if source.last_event_id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES || id.contains(['\0', '\r', '\n'])) {
            self.error("lastEventId", format!("must have at most {MAX_ID_BYTES} bytes, without CR, LF and NUL"));
        }
        let timeout = source.read_timeout_ms;
        if timeout.is_some_and(|ms| !(1..=MAX_READ_TIMEOUT_MS).contains(&ms)) {
            self.error("readTimeoutMs", format!("must be 1 to {MAX_READ_TIMEOUT_MS} milliseconds"));
        }
        let initial = source.initial_retry_ms;
        if initial.is_some_and(|ms| !RETRY_MS.contains(&ms)) {
            self.error("initialRetryMs", format!("must be {} to {} milliseconds", RETRY_MS.start(), RETRY_MS.end()));
        }
        let Some(name) = &source.remote else {
            self.error("remote", "is missing, and the node has no `relay.default_remote`");
            return None;
        };
        let remote = match limits.remotes.get(name) {
            Ok(remote) => remote.clone(),
            Err(unknown) => {
                self.error("remote", unknown.to_string());
                return None;
            }
        };
        if source.path.is_empty() {
            self.error("path", "is missing: name a path of the remote, such as `/api/sse/sample-parallel`");
            return None;
        }
        let url = match remote.client_url(&source.path) {
            Ok(url) => url,
            Err(refused) => {
                self.error("path", refused.to_string());
                return None;
            }
        };
        let pace = limits.config.pace();
        let initial = initial.map_or(pace.initial, Duration::from_millis);
        let read = Source {
            method: method?,
            headers,
            body,
            repeat: spec.repeat,
            end_event: spec.end_event.clone(),
            read_timeout: timeout.map(Duration::from_millis),
            pace: Pace { initial, max: pace.max.max(initial) },
            ..Source::get(remote, url, Purpose::Relay)
        };
        let start = source.last_event_id.clone().unwrap_or_default();
        let label = source.label.clone().unwrap_or_default();
        Some(PlannedSource { label, key: Key::of(&read, &start), source: read, start })
    }

    fn method(&mut self, source: &SourceSpec) -> Option<Method> {
        let name = source.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let method = METHODS.into_iter().find(|method| method.as_str() == name);
        if method.is_none() {
            let shown: String = name.escape_debug().take(32).collect();
            self.error("method", format!("`{shown}` is none of GET, POST, PUT, PATCH"));
        }
        method
    }

    /// The messages leave the values out: they may be secrets.
    fn headers(&mut self, source: &SourceSpec) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in source.headers.iter().flatten() {
            let shown: String = name.escape_debug().take(64).collect();
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let Some((name, mut value)) = parsed else {
                self.error(
                    "headers",
                    format!("`{shown}` is no header field: names are tokens, values have no line break"),
                );
                continue;
            };
            if FOREIGN.contains(&name) {
                let hint = if name == "last-event-id" { "; say `lastEventId`" } else { "" };
                self.error("headers", format!("`{shown}` is set by the node itself{hint}"));
                continue;
            }
            value.set_sensitive(true);
            if fields.insert(name, value).is_some() {
                self.error("headers", format!("`{shown}` is named twice"));
            }
        }
        fields
    }
}
