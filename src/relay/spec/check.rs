//! The rules of a spec, each with the message that a client gets.

use std::{collections::HashSet, time::Duration};

use super::{Key, Limits, PlannedSource, Spec, own, unused_label};
use crate::{
    json::FieldError,
    relay::Config,
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

// === impl Spec ===

impl Spec {
    /// Checks the spec, and fills in missing remotes and labels.
    ///
    /// # Errors
    /// All mistakes by field, at most 100.
    pub fn check(&mut self, limits: Limits<'_>) -> Result<Vec<PlannedSource>, Vec<FieldError>> {
        let (count, max) = (self.sources.len(), limits.config.max_sources);
        if count == 0 || count > max {
            let detail = format!("a relay has 1 to {max} sources (`relay.max_sources`), this one has {count}");
            return Err(vec![FieldError::new("sources", detail)]);
        }
        let mut errors = Vec::new();
        let target = self.read_target(&mut errors);
        if let Some(name) = &self.end_event
            && (name.is_empty() || name.len() > MAX_EVENT_NAME_BYTES || name.contains(['\r', '\n', '\0']))
        {
            let detail = format!("must have 1 to {MAX_EVENT_NAME_BYTES} bytes without CR, LF and NUL");
            errors.push(FieldError::new("endEvent", detail));
        }
        self.fill_in(limits.config, &mut errors);
        let mut sources = Vec::with_capacity(count);
        for index in 0..count {
            if errors.len() >= MAX_ERRORS {
                break;
            }
            let Some(planned) = self.plan(index, limits, &mut errors) else { continue };
            if let Some(topic) = own::returns(&planned, target.as_ref()) {
                let detail =
                    format!("is a stream of this node that carries `{topic}`: the relay would read its own events");
                errors.push(FieldError::new(format!("sources[{index}].path"), detail));
            }
            sources.push(planned);
        }
        errors.truncate(MAX_ERRORS);
        if errors.is_empty() { Ok(sources) } else { Err(errors) }
    }

    /// The topic beside the relay's own, of a checked spec.
    pub fn target(&self) -> Option<Topic> {
        self.read_target(&mut Vec::new())
    }

    /// A source of a checked spec, if the current settings permit it.
    ///
    /// # Errors
    /// The first mistake by the current settings.
    pub fn source(&self, index: usize, limits: Limits<'_>) -> Result<PlannedSource, FieldError> {
        let mut errors = Vec::new();
        let planned = self.plan(index, limits, &mut errors).filter(|_| errors.is_empty());
        // A source that is not planned has a mistake.
        planned.ok_or_else(|| errors.swap_remove(0))
    }

    fn read_target(&self, errors: &mut Vec<FieldError>) -> Option<Topic> {
        let user = self.user.as_ref().map(|id| ("user", Topic::user(id)));
        let group = self.group.as_ref().map(|id| ("group", Topic::group(id)));
        let topic = self.topic.as_ref().map(|name| ("topic", Topic::new(name)));
        let mut targets = [topic, user, group].into_iter().flatten();
        let (field, target) = targets.next()?;
        if let Some((second, _)) = targets.next() {
            let detail = format!("give at most one of `topic`, `user` and `group`; there is `{field}` already");
            errors.push(FieldError::new(second, detail));
        }
        let wrong = match target {
            Ok(topic) if !topic.internal() => return Some(topic),
            Ok(topic) => format!("only the node itself publishes into `{topic}`"),
            Err(invalid) => invalid.to_string(),
        };
        errors.push(FieldError::new(field, wrong));
        None
    }

    /// Gives each source a remote and a unique label.
    fn fill_in(&mut self, config: &Config, errors: &mut Vec<FieldError>) {
        let mut used = HashSet::new();
        for (index, source) in self.sources.iter_mut().enumerate() {
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
            errors.push(FieldError::new(format!("sources[{index}].label"), wrong));
        }
        for source in self.sources.iter_mut().filter(|source| source.label.is_none()) {
            let name: String = source.remote.as_deref().unwrap_or("source").chars().take(MAX_LABEL - 8).collect();
            source.label = Some(unused_label(&mut used, &name, '-'));
        }
    }

    /// The plan of a source; `None` if it has a mistake that leaves nothing to read.
    fn plan(&self, index: usize, limits: Limits<'_>, errors: &mut Vec<FieldError>) -> Option<PlannedSource> {
        let mut fail = |field: &str, detail| errors.push(FieldError::new(format!("sources[{index}].{field}"), detail));
        let source = &self.sources[index];
        let read = source.request(limits, Purpose::Relay, &mut fail);
        if source.last_event_id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES || id.contains(['\0', '\r', '\n'])) {
            fail("lastEventId", format!("must have at most {MAX_ID_BYTES} bytes, without CR, LF and NUL"));
        }
        let timeout = source.read_timeout_ms;
        if timeout.is_some_and(|ms| !(1..=MAX_READ_TIMEOUT_MS).contains(&ms)) {
            fail("readTimeoutMs", format!("must be 1 to {MAX_READ_TIMEOUT_MS} milliseconds"));
        }
        let initial = source.initial_retry_ms;
        if initial.is_some_and(|ms| !RETRY_MS.contains(&ms)) {
            fail("initialRetryMs", format!("must be {} to {} milliseconds", RETRY_MS.start(), RETRY_MS.end()));
        }
        let read = read?;
        let initial = initial.map_or(read.pace.initial, Duration::from_millis);
        let read = Source {
            repeat: self.repeat,
            end_event: self.end_event.clone(),
            read_timeout: timeout.map(Duration::from_millis),
            pace: Pace { initial, max: read.pace.max.max(initial) },
            ..read
        };
        let start = source.last_event_id.clone().unwrap_or_default();
        Some(PlannedSource { key: Key::of(&read, &start), source: read, start })
    }
}
