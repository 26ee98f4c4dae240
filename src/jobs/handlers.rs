//! The task handlers of the node, and the section `[handlers.NAME]` that configures them.
//!
//! Owns [`HttpTask`] (a URL that a client names), [`Command`] (a program of this machine), [`Endpoint`] (a URL that the
//! operator names) and the samples. Their futures are `Send` and stop when they are dropped. They do not know jobs: the
//! engine limits the number, the duration and the concurrency of their attempts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::handler::{Handlers, Registered};

mod command;
mod common;
#[cfg(test)]
mod double;
mod http;
pub mod sample;

pub use self::{
    command::{Command, Environment, adopt},
    common::Deps,
    http::{Endpoint, ErrorEvents, HttpTask, Input as HttpInput},
};

/// Settings of one section `[handlers.NAME]`; clients ask for it by `"run": "NAME"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum HandlerConfig {
    /// Posts the task's input as JSON to a URL of the operator, or sends GET if there is no input.
    Http {
        /// The URL, http or https. The egress guard does not apply to URLs of the operator.
        url: String,
        /// Timeout of one attempt in milliseconds, if the task names no `timeoutMs`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// Maximum number of tasks of this handler at once on the node; no limit of its own if it is not set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
    },
    /// Runs a program with the task's input on its stdin.
    Command {
        /// The program and its arguments. They are passed without a shell and without expansion.
        command: Vec<String>,
        /// Additional variables of its environment, which otherwise has only `PATH`, `HOME`, `LANG`, `TZ` and those of
        /// `pass_env`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
        /// Variables that the program gets from the node's environment.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pass_env: Vec<String>,
        /// Timeout of one attempt in milliseconds, if the task names no `timeoutMs`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// Maximum number of tasks of this handler at once on the node; no limit of its own if it is not set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
    },
    /// Does real work on data inside the binary.
    Sample {
        /// One of [`sample::NAMES`].
        sample: String,
        /// Timeout of one attempt in milliseconds, if the task names no `timeoutMs`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// Maximum number of tasks of this handler at once on the node; no limit of its own if it is not set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
    },
}

/// Makes the handlers of the settings, by their names.
///
/// # Errors
/// Names the key and the accepted form.
pub fn build(config: &BTreeMap<String, HandlerConfig>, deps: &Deps) -> Result<Handlers, String> {
    let mut handlers = Handlers::default();
    for (name, entry) in config {
        let registered = entry.build(deps).map_err(|reason| format!("`handlers.{name}`: {reason}"))?;
        handlers.register(name, registered);
    }
    Ok(handlers)
}

// === impl HandlerConfig ===

impl HandlerConfig {
    /// Checks the environment of a program. It must not contain `MILLSTREAM_…` variables or one of `secrets`.
    ///
    /// # Errors
    /// Names the key and the variable.
    pub fn check_environment(&self, name: &str, secrets: &BTreeSet<String>) -> Result<(), String> {
        let Self::Command { env, pass_env, .. } = self else { return Ok(()) };
        let environment = Environment { set: env.clone(), pass: pass_env.clone() };
        environment.check().map_err(|reason| format!("`handlers.{name}`: {reason}"))?;
        match pass_env.iter().find(|variable| secrets.contains(*variable)) {
            Some(variable) => Err(format!(
                "`handlers.{name}`: `pass_env`: `{variable}` is a variable of another setting with a secret or an address of the node; \
                 set `env`, or pass the value under another name"
            )),
            None => Ok(()),
        }
    }

    fn build(&self, deps: &Deps) -> Result<Registered, String> {
        let (mut registered, timeout_ms, concurrency) = match self {
            Self::Http { url, timeout_ms, concurrency } => {
                let endpoint = Endpoint::new(deps, url).map_err(|error| format!("`url`: {error}"))?;
                (Registered::new(endpoint), timeout_ms, concurrency)
            }
            Self::Command { command, env, pass_env, timeout_ms, concurrency } => {
                let environment = Environment { set: env.clone(), pass: pass_env.clone() };
                environment.check()?;
                let command = Command::new(command.clone(), environment)
                    .ok_or("`command` must name a program: command = [\"program\", \"argument\"]")?;
                (Registered::new(command), timeout_ms, concurrency)
            }
            Self::Sample { sample, timeout_ms, concurrency } => {
                let registered = sample::sample(sample, deps).ok_or_else(|| {
                    format!("sample `{sample}` is unknown, known are `{}`", sample::NAMES.join("`, `"))
                })?;
                (registered, timeout_ms, concurrency)
            }
        };
        if *timeout_ms == Some(0) {
            return Err("`timeout_ms` must be at least 1; leave it out for the default".into());
        }
        if *concurrency == Some(0) {
            return Err("`concurrency` must be at least 1; leave it out for no limit".into());
        }
        registered.timeout = timeout_ms.map(Duration::from_millis);
        registered.concurrency = *concurrency;
        Ok(registered)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn built(config: serde_json::Value) -> Result<Handlers, String> {
        let config = serde_json::from_value(config).map_err(|error| error.to_string())?;
        build(&config, &double::deps())
    }

    fn refusal(config: serde_json::Value) -> String {
        built(config).err().expect("the settings are wrong")
    }

    #[test]
    fn each_kind_is_built_under_its_name_with_its_bounds() {
        let handlers = built(json!({
            "Process Image": {"kind": "sample", "sample": "thumbnail", "concurrency": 2},
            "lookup": {"kind": "http", "url": "http://10.0.0.1/lookup", "timeout_ms": 1500},
            "convert": {"kind": "command", "command": ["convert", "-"]},
        }))
        .expect("the settings are right");
        assert_eq!(handlers.names(), ["Process Image", "convert", "lookup"]);
        let lookup = handlers.get("lookup").expect("it is registered");
        assert_eq!((lookup.timeout, lookup.concurrency), (Some(Duration::from_millis(1500)), None));
        assert_eq!(handlers.get("Process Image").expect("it is registered").concurrency, Some(2));
    }

    #[test]
    fn an_unknown_sample_is_answered_with_the_known_ones() {
        let text = refusal(json!({"task1": {"kind": "sample", "sample": "thumbnial"}}));
        assert!(text.contains("`handlers.task1`") && text.contains("`thumbnial`"), "{text}");
        for name in sample::NAMES {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_their_key() {
        for (entry, named) in [
            (json!({"kind": "http", "url": "ftp://h/"}), "`url`"),
            (json!({"kind": "http", "url": "h/path"}), "`url`"),
            (json!({"kind": "command", "command": []}), "`command`"),
            (json!({"kind": "command", "command": [""]}), "`command`"),
            (json!({"kind": "command", "command": ["x"], "timeout_ms": 0}), "`timeout_ms`"),
            (json!({"kind": "command", "command": ["x"], "pass_env": ["MILLSTREAM_TOKEN"]}), "`pass_env`"),
            (json!({"kind": "command", "command": ["x"], "env": {"A=B": "c"}}), "`env`"),
            (json!({"kind": "http", "url": "http://h/", "env": {"A": "b"}}), "`env`"),
            (json!({"kind": "sample", "sample": "stats", "concurrency": 0}), "`concurrency`"),
            (json!({"kind": "sample", "sample": "stats", "url": "http://h/"}), "`url`"),
            (json!({"kind": "shell", "command": ["x"]}), "`shell`"),
        ] {
            let text = refusal(json!({ "x": entry.clone() }));
            assert!(text.contains(named), "{entry}: {text}");
        }
    }
}
