//! The check of a spec: every rule, with the message for the client.

use std::{collections::HashSet, sync::Arc, time::Duration};

use url::Url;

use super::{Kind, Notify, Plan, PlannedTask, Spec, TaskSpec};
use crate::{
    jobs::{handler::Handlers, handlers::HttpInput},
    json::FieldError,
    topic::Topic,
    upstream::{Remotes, Via, parse_method},
};

/// The limits and the offers of the node, against which a spec is checked.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Maximum number of tasks in one job.
    pub max_tasks: usize,
    /// The handlers that `run` can name.
    pub handlers: &'a Handlers,
    /// The remotes that `remote` can name.
    pub remotes: &'a Remotes,
}

/// Maximum length of an id or a name of a task in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Maximum number of repeats of a failed attempt. With the delays between them they take about seven minutes at most.
const MAX_RETRIES: u64 = 20;
/// Maximum timeout of a task or a job: a day.
const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
/// Maximum number of mistakes in a response, also for a job with ten thousand wrong tasks.
const MAX_ERRORS: usize = 100;

/// Collects mistakes.
struct Errors(Vec<FieldError>);

/// The position of one task in the spec, for messages.
struct At<'e> {
    index: usize,
    errors: &'e mut Errors,
}

// === impl Plan ===

impl Plan {
    /// Checks a whole spec.
    ///
    /// # Errors
    /// Lists the mistakes by field, at most a hundred entries.
    pub fn check(spec: &Spec, limits: Limits<'_>) -> Result<Self, Vec<FieldError>> {
        let mut errors = Errors(Vec::new());
        let count = spec.tasks.len();
        if count == 0 || count > limits.max_tasks {
            let detail = format!("a job has 1 to {} tasks (`jobs.max_tasks`), this one has {count}", limits.max_tasks);
            return Err(vec![FieldError::new("tasks", detail)]);
        }
        let plan = Self::lay_out(spec, limits, &mut errors);
        if errors.0.is_empty() { Ok(plan) } else { Err(errors.0) }
    }

    /// A plan for a spec that was checked when its job was accepted. Later changes (a handler was removed, a limit is
    /// lower) are no reason to drop the job.
    pub fn restore(spec: &Spec, handlers: &Handlers) -> Self {
        let limits = Limits { max_tasks: usize::MAX, handlers, remotes: &Remotes::default() };
        Self::lay_out(spec, limits, &mut Errors(Vec::new()))
    }

    fn lay_out(spec: &Spec, limits: Limits<'_>, errors: &mut Errors) -> Self {
        if spec.callback_url.is_some() {
            errors.add("callbackUrl", "not supported yet; watch the job's events or use `notify`");
        }
        if spec.concurrency == Some(0) {
            errors.add("concurrency", "must be at least 1; leave it out for no limit of the job");
        }
        let timeout = errors.timeout("timeoutMs", spec.timeout_ms);
        let notify = spec.notify.as_ref().map_or_else(Vec::new, |notify| errors.notify(notify));
        let ids = assign_ids(&spec.tasks, errors);
        let tasks = spec.tasks.iter().zip(ids).enumerate();
        let tasks = tasks.map(|(index, (task, id))| At { index, errors: &mut *errors }.task(task, id, limits));
        Self {
            tasks: tasks.collect(),
            concurrency: spec.concurrency.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            timeout,
            fail_fast: spec.fail_fast,
            notify,
            via: Via::default(),
            groups: Arc::default(),
        }
    }
}

/// The given ids. A task without id gets its number, or the next free number.
fn assign_ids(tasks: &[TaskSpec], errors: &mut Errors) -> Vec<String> {
    let mut used: HashSet<&str> = HashSet::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let mut at = At { index, errors };
        let Some(id) = &task.id else { continue };
        if !at.text("id", id) {
            continue;
        }
        if id == "." || id == ".." {
            at.error("id", format!("`{id}` cannot be a part of a URL; use another id"));
        }
        if !used.insert(id) {
            at.error("id", format!("`{id}` is the id of an earlier task; ids are unique in a job"));
        }
    }
    let mut next = 0;
    let free = |number: &usize| !used.contains(number.to_string().as_str());
    let mut assign = |index: usize| {
        let own = index + 1;
        if free(&own) {
            return own.to_string();
        }
        // After the last task's number, so that no later task's own number is used.
        next = next.max(tasks.len()) + 1;
        while !free(&next) {
            next += 1;
        }
        next.to_string()
    };
    tasks.iter().enumerate().map(|(index, task)| task.id.clone().unwrap_or_else(|| assign(index))).collect()
}

// === impl Errors ===

impl Errors {
    fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError::new(field, detail));
        }
    }

    fn timeout(&mut self, field: &str, ms: Option<u64>) -> Option<Duration> {
        let ms = ms?;
        if !(1..=MAX_TIMEOUT_MS).contains(&ms) {
            self.add(field, format!("must be 1 to {MAX_TIMEOUT_MS} milliseconds, not {ms}"));
        }
        Some(Duration::from_millis(ms.min(MAX_TIMEOUT_MS)))
    }

    fn notify(&mut self, notify: &Notify) -> Vec<Topic> {
        let user = notify.user.as_ref().map(|id| ("notify.user", Topic::user(id)));
        let group = notify.group.as_ref().map(|id| ("notify.group", Topic::group(id)));
        let topic = notify.topic.as_ref().map(|name| ("notify.topic", Topic::new(name)));
        let mut topics = Vec::new();
        for (field, topic) in [user, group, topic].into_iter().flatten() {
            match topic {
                Ok(topic) if topic.internal() => {
                    self.add(field, format!("only the node itself publishes into `{topic}`"));
                }
                Ok(topic) => topics.push(topic),
                Err(invalid) => self.add(field, invalid.to_string()),
            }
        }
        topics
    }
}

// === impl At ===

impl At<'_> {
    fn error(&mut self, field: &str, detail: impl Into<String>) {
        let dot = if field.is_empty() { "" } else { "." };
        self.errors.add(format!("tasks[{}]{dot}{field}", self.index), detail);
    }

    /// Checks an id or a name.
    fn text(&mut self, field: &str, text: &str) -> bool {
        let wrong = match text.len() {
            0 => "must not be empty; leave it out to have one given".to_owned(),
            length if length > MAX_NAME_BYTES => format!("has {length} bytes, the limit is {MAX_NAME_BYTES}"),
            _ if text.contains(char::is_control) => "must not contain control characters".to_owned(),
            _ => return true,
        };
        self.error(field, wrong);
        false
    }

    fn task(&mut self, task: &TaskSpec, id: String, limits: Limits<'_>) -> PlannedTask {
        if let Some(name) = &task.name {
            self.text("name", name);
        }
        let timeout = task.timeout_ms.and_then(|ms| {
            let field = format!("tasks[{}].timeoutMs", self.index);
            self.errors.timeout(&field, Some(ms))
        });
        let retries = task.retry_count.unwrap_or(0);
        if retries > MAX_RETRIES {
            self.error("retryCount", format!("must be 0 to {MAX_RETRIES}, not {retries}"));
        }
        let kind = self.kind(task, limits);
        let name = task.name.clone().unwrap_or_else(|| match &kind {
            Kind::Http => id.clone(),
            Kind::Run(handler) => handler.clone(),
        });
        let retries = u32::try_from(retries.min(MAX_RETRIES)).expect("bounded in this line");
        let remote = task.remote.as_deref().map(Arc::from);
        PlannedTask { id, name, remote, kind, timeout, retries }
    }

    fn kind(&mut self, task: &TaskSpec, limits: Limits<'_>) -> Kind {
        let handlers = limits.handlers;
        if let Some(Err(unknown)) = task.remote.as_ref().map(|name| limits.remotes.get(name)) {
            self.error("remote", unknown.to_string().escape_debug().to_string());
        }
        match (&task.url, &task.run) {
            (Some(url), None) => {
                self.http(task, url);
                Kind::Http
            }
            (None, Some(run)) => {
                self.run(task, run, handlers);
                Kind::Run(run.clone())
            }
            (Some(_), Some(_)) => {
                self.error("", "has both `url` and `run`; a task is either an HTTP request or a handler's");
                Kind::Http
            }
            (None, None) => {
                let hint = match task.name.as_deref().filter(|name| handlers.get(name).is_some()) {
                    Some(name) => format!("; `{name}` is the name of a handler: write \"run\": \"{name}\""),
                    None => String::new(),
                };
                self.error("", format!("needs `url` (an HTTP request) or `run` (a handler){hint}"));
                Kind::Http
            }
        }
    }

    fn run(&mut self, task: &TaskSpec, run: &str, handlers: &Handlers) {
        // Only the remote knows its handlers.
        if task.remote.is_none() && handlers.get(run).is_none() {
            let known = match handlers.names() {
                names if names.is_empty() => "this node has none".to_owned(),
                names => format!("known are {}", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
            };
            self.error("run", format!("no handler is called `{}`; {known}", run.escape_debug()));
        }
        let foreign = [
            ("method", task.method.is_some()),
            ("headers", task.headers.is_some()),
            ("body", task.body.is_some()),
            ("endEvent", task.end_event.is_some()),
            ("errorEvents", task.error_events.is_some()),
        ];
        for (field, _) in foreign.into_iter().filter(|(_, present)| *present) {
            self.error(field, "belongs to a task with `url`; a handler gets `input`");
        }
    }

    fn http(&mut self, task: &TaskSpec, url: &str) {
        if task.input.is_some() {
            self.error("input", "belongs to a task with `run`; an HTTP request has a `body`");
        }
        let mistakes = self.errors.0.len();
        self.url(url);
        if let Err(reason) = parse_method(task.method.as_deref().unwrap_or("GET")) {
            self.error("method", reason);
        }
        if let Some(name) = &task.end_event
            && (name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(['\r', '\n', '\0']))
        {
            let detail = format!("must have 1 to {MAX_NAME_BYTES} bytes without CR, LF and NUL");
            self.error("endEvent", detail);
        }
        for (name, value) in task.headers.iter().flatten() {
            // The message does not contain the value: it may be a secret.
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() || http::HeaderValue::from_str(value).is_err() {
                let name = name.escape_debug();
                self.error(
                    "headers",
                    format!("`{name}` is not a valid header field: names are tokens, values have no line break"),
                );
            }
        }
        // Reject requests that the handler would reject at each attempt, such as one with a connection header field.
        let mut request = HttpInput { headers: task.headers.clone().unwrap_or_default(), ..HttpInput::get(url) };
        if let Some(method) = &task.method {
            request.method.clone_from(method);
        }
        if self.errors.0.len() == mistakes
            && let Err(refusal) = request.check()
        {
            let field = if refusal.code == "bad_header" { "headers" } else { "url" };
            self.error(field, refusal.message);
        }
    }

    fn url(&mut self, url: &str) {
        let wrong = match Url::parse(url) {
            Err(e) => format!("`{}` is not an absolute URL: {e}", url.escape_debug()),
            Ok(parsed) if !matches!(parsed.scheme(), "http" | "https") => {
                format!("the scheme must be `http` or `https`, not `{}`", parsed.scheme())
            }
            Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
                "must not contain user or password; send them in `headers`".to_owned()
            }
            Ok(_) => return,
        };
        self.error("url", wrong);
    }
}
