//! Checks the settings of a webhook, and reads its secrets from the environment.

use super::{
    config::{EnvNames, WebhookConfig},
    mapping::Mapping,
    signature::{Scheme, Verifier},
    source::Source,
};
use crate::journal;

/// Default header field of the secret.
const HEADER: &str = "x-secret-key";
/// Default window of timestamps, as in the libraries of the standard.
const TOLERANCE_MS: u64 = 5 * 60 * 1000;

// === impl WebhookConfig ===

impl WebhookConfig {
    /// Checks everything except the environment. The journal must remember a delivery for as long as it can be repeated.
    ///
    /// # Errors
    /// Names the setting and the fault.
    pub fn check(&self, name: &str, journal: &journal::Config) -> Result<(), String> {
        let wrong = |key: &str, error: &str| Err(format!("`webhooks.{name}.{key}`: {error}"));
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(format!("`webhooks.{name}`: a name has 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        let variables = self.secret_env.as_ref().map_or(&[][..], EnvNames::names);
        let named = |variable: &String| !variable.is_empty() && !variable.contains(['=', '\0']);
        if variables.is_empty() || !variables.iter().all(named) {
            return wrong("secret_env", "name the environment variable that holds the secret");
        }
        if self.header.is_some() && self.scheme != Scheme::SecretHeader {
            return wrong("header", "it needs `scheme = \"secret-header\"`");
        }
        if self.secret_header().parse::<http::HeaderName>().is_err() {
            return wrong("header", "it is not the name of a header field");
        }
        match self.tolerance_ms {
            Some(_) if self.scheme != Scheme::StandardWebhooks => {
                return wrong(
                    "tolerance_ms",
                    "it needs `scheme = \"standard-webhooks\"`: other schemes have no timestamp",
                );
            }
            Some(0) => return wrong("tolerance_ms", "it must be at least 1"),
            _ => {}
        }
        let mapping = match Mapping::new(self) {
            Ok(mapping) => mapping,
            Err((key, error)) => return wrong(&key, &error),
        };
        if mapping.sources().any(|source| self.shows_secret(source)) {
            return wrong("header", "it holds the secret, which must not get into events");
        }
        // A timestamp may be too early or too late by the tolerance. During both a delivery can be repeated.
        let (window, known) = (self.tolerance().saturating_mul(2), journal.remembered_ms(mapping.topic()));
        if self.scheme == Scheme::StandardWebhooks && window > known {
            let error = format!(
                "a delivery can be repeated within twice this time, {window} ms, and must be remembered for that time, but is only \
                 remembered for {known} ms: see `journal.dedupe_ms`, and the `retention_ms` of its topic"
            );
            return wrong("tolerance_ms", &error);
        }
        Ok(())
    }

    /// Reads the secrets from the environment; `None` if no variable is set and the webhook is optional.
    ///
    /// # Errors
    /// Names the setting and the environment variable, never its value.
    pub(super) fn verifier(
        &self,
        name: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Verifier>, String> {
        let wrong =
            |env: &str, error: &str| format!("`webhooks.{name}.secret_env`: the environment variable `{env}` {error}");
        let mut secrets = Vec::new();
        for env in self.secret_env.iter().flat_map(EnvNames::names) {
            let secret = variable(env).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
            let Some(secret) = secret else {
                if self.optional {
                    continue;
                }
                return Err(wrong(
                    env,
                    "is not set, or empty; `optional = true` permits that, and switches the webhook off",
                ));
            };
            // Each is checked separately, so that the error can name the variable.
            Verifier::new(self.scheme, std::slice::from_ref(&secret), HEADER, 0)
                .map_err(|error| wrong(env, &format!("contains no valid secret: {error}")))?;
            secrets.push(secret);
        }
        if secrets.is_empty() {
            return Ok(None);
        }
        Verifier::new(self.scheme, &secrets, self.secret_header(), self.tolerance()).map(Some)
    }

    fn secret_header(&self) -> &str {
        self.header.as_deref().unwrap_or(HEADER)
    }

    fn tolerance(&self) -> u64 {
        self.tolerance_ms.unwrap_or(TOLERANCE_MS)
    }

    fn shows_secret(&self, source: &Source) -> bool {
        let header = self.secret_header();
        self.scheme == Scheme::SecretHeader
            && matches!(source, Source::Header(name) if name.eq_ignore_ascii_case(header))
    }
}
