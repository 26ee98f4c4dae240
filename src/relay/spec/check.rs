//! The rules of a spec, each with the message that a client gets.

use std::{collections::HashSet, time::Duration};

use super::{FieldError, Key, Plan, PlannedSource, SourceSpec, Spec, own};
use crate::{
    relay::{
        Config,
        request::{Limits, SourceRequest},
    },
    topic::Topic,
    upstream::{
        Purpose,
        events::{Pace, Source},
    },
};

/// Maximum length of a label, in characters.
const MAX_LABEL: usize = 64;
/// Maximum length of the id after which a source begins, in bytes.
const MAX_ID_BYTES: usize = 1024;
/// Maximum length of the name of an event, in bytes.
const MAX_EVENT_NAME_BYTES: usize = 255;
/// The largest `readTimeoutMs`: one day.
const MAX_READ_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
/// The accepted values of `initialRetryMs`: from ten attempts per second to one per hour.
const RETRY_MS: std::ops::RangeInclusive<u64> = 100..=60 * 60 * 1000;
/// Maximum number of mistakes in one answer.
const MAX_ERRORS: usize = 100;

/// Collects the mistakes of a spec.
struct Errors(Vec<FieldError>);

/// Collects the mistakes of one source.
struct At<'e> {
    index: usize,
    errors: &'e mut Errors,
}

// === impl Plan ===

impl Plan {
    /// Checks a spec, and fills in missing remotes and labels.
    ///
    /// # Errors
    /// All mistakes by field, at most 100.
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
            let mut at = At { index, errors: &mut errors };
            let planned = at.source(&common, source, limits);
            if let Some(topic) = planned.as_ref().and_then(|planned| own::returns(planned, target.as_ref())) {
                at.error(
                    "path",
                    format!("is a stream of this node that carries `{topic}`: the relay would read its own events"),
                );
            }
            sources.extend(planned);
        }
        if errors.0.is_empty() { Ok(Self { target, sources }) } else { Err(errors.0) }
    }

    /// The target of a checked spec.
    pub fn target(spec: &Spec) -> Option<Topic> {
        Errors(Vec::new()).target(spec)
    }

    /// A source of a checked spec, if the current settings permit it.
    ///
    /// # Errors
    /// The first mistake by the current settings.
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

    /// Gives each source a remote and a unique label.
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
        let written = SourceRequest {
            remote: source.remote.as_deref(),
            path: &source.path,
            method: source.method.as_deref(),
            headers: source.headers.as_ref(),
            body: source.body.as_ref(),
        };
        let read = written.source(limits, Purpose::Relay, &mut |field, detail| self.error(field, detail));
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
        let read = read?;
        let initial = initial.map_or(read.pace.initial, Duration::from_millis);
        let read = Source {
            repeat: spec.repeat,
            end_event: spec.end_event.clone(),
            read_timeout: timeout.map(Duration::from_millis),
            pace: Pace { initial, max: read.pace.max.max(initial) },
            ..read
        };
        let start = source.last_event_id.clone().unwrap_or_default();
        let label = source.label.clone().unwrap_or_default();
        Some(PlannedSource { label, key: Key::of(&read, &start), source: read, start })
    }
}
