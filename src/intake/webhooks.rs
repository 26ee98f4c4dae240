//! Webhooks: deliveries of other services. Each webhook has its own URL and secret.
//!
//! ```text
//!  header fields ──> claim ──> hashes the body while it arrives ──> proof ──> draft: mapping ──> the journal
//!                      └─ 401, without a reason ──────────────────────┘          └─ 422, with the missing value
//! ```
//!
//! A repeated delivery is detected by its id, which is the idempotency key of the event. The webhook is the publisher.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use self::{mapping::Mapping, signature::Verifier, source::Unmapped};
use crate::{event::Draft, metrics::Rows};

mod check;
mod config;
mod mapping;
mod rule;
mod signature;
mod source;

#[cfg(test)]
mod tests;

pub use self::{
    config::{EnvNames, Target, ValuePath, WebhookConfig},
    signature::{Claim, Proven, Refusal, Scheme},
    source::Headers,
};

/// The webhooks of a node, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Webhooks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    webhooks: BTreeMap<String, Webhook>,
    accepted: AtomicU64,
    duplicates: AtomicU64,
    refused: [AtomicU64; Refused::REASONS.len()],
}

/// One webhook.
#[derive(Debug)]
pub struct Webhook {
    name: String,
    scheme: Scheme,
    /// `None` if the webhook is off.
    verifier: Option<Verifier>,
    mapping: Mapping,
}

/// Why a delivery was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no webhook with this name.
    Unknown,
    /// The webhook is off, because its secret is not set.
    Off,
    /// The sender does not know the secret.
    Unproven(Refusal),
    /// The delivery cannot be mapped to an event. The text names the missing value.
    Unmapped(String),
}

/// Maximum length of a delivery id in bytes. The id is stored with the event.
const MAX_ID_BYTES: usize = 255;

// === impl Refused ===

impl Refused {
    const REASONS: [&'static str; 7] = [
        "unknown",
        "off",
        Refusal::ALL[0].as_str(),
        Refusal::ALL[1].as_str(),
        Refusal::ALL[2].as_str(),
        Refusal::ALL[3].as_str(),
        "unmapped",
    ];

    /// The reason in one word, for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Off => "off",
            Self::Unproven(refusal) => refusal.as_str(),
            Self::Unmapped(_) => "unmapped",
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Unproven(refusal)
    }
}

impl From<Unmapped> for Refused {
    fn from(unmapped: Unmapped) -> Self {
        Self::Unmapped(unmapped.0)
    }
}

// === impl Webhooks ===

impl Webhooks {
    /// Creates all webhooks of the settings, with the secrets of the environment. Logs which webhooks are off.
    ///
    /// # Errors
    /// Names the setting, and the fault of its value or of the environment variable. Never contains a secret.
    pub fn build(configs: &BTreeMap<String, WebhookConfig>) -> Result<Self, String> {
        let build = |(name, config): (&String, &WebhookConfig)| {
            Ok::<_, String>((name.clone(), Webhook::new(name, config, |name| std::env::var(name).ok())?))
        };
        let webhooks = configs.iter().map(build).collect::<Result<BTreeMap<_, _>, _>>()?;
        for (name, webhook) in &webhooks {
            if webhook.verifier.is_none() {
                let env = configs[name].secret_env.iter().flat_map(EnvNames::names).cloned().collect::<Vec<_>>();
                tracing::info!(webhook = name, secret_env = env.join(","), "webhook off: its secret is not set");
            }
        }
        Ok(Self(Arc::new(Inner { webhooks, ..Inner::default() })))
    }

    /// Finds a webhook by name.
    ///
    /// # Errors
    /// If there is no webhook with this name.
    pub fn get(&self, name: &str) -> Result<&Webhook, Refused> {
        self.0.webhooks.get(name).ok_or(Refused::Unknown)
    }

    /// Counts a delivery whose event is in the journal.
    pub fn count_accepted(&self, duplicate: bool) {
        let counter = if duplicate { &self.0.duplicates } else { &self.0.accepted };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a rejected delivery.
    pub fn count_refused(&self, refused: &Refused) {
        let reason = Refused::REASONS.iter().position(|reason| *reason == refused.as_str());
        self.0.refused[reason.expect("all reasons are listed")].fetch_add(1, Relaxed);
    }

    /// Adds the figures of deliveries.
    pub fn metrics(&self, rows: &mut Rows) {
        let help = "Deliveries to webhooks that became events.";
        rows.counter("webhook_deliveries", help, self.0.accepted.load(Relaxed));
        let help = "Deliveries to webhooks that were duplicates.";
        rows.counter("webhook_duplicates", help, self.0.duplicates.load(Relaxed));
        let refused = Refused::REASONS.into_iter().zip(self.0.refused.iter().map(|count| count.load(Relaxed)));
        rows.counters("webhook_refusals", "Deliveries to webhooks that were rejected.", "reason", refused);
    }
}

// === impl Webhook ===

impl Webhook {
    fn new(name: &str, config: &WebhookConfig, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mapping = Mapping::new(config).map_err(|(key, error)| format!("`webhooks.{name}.{key}`: {error}"))?;
        Ok(Self { name: name.to_owned(), scheme: config.scheme, verifier: config.verifier(name, variable)?, mapping })
    }

    /// Reads the claim of the header fields, before the body is read; `now_ms` in Unix milliseconds.
    ///
    /// # Errors
    /// If the webhook is off, or the claim is invalid for any body.
    pub fn claim(&self, headers: Headers<'_>, now_ms: u64) -> Result<Claim, Refused> {
        let verifier = self.verifier.as_ref().ok_or(Refused::Off)?;
        Ok(verifier.claim(headers, now_ms)?)
    }

    /// Creates the event of a verified delivery.
    ///
    /// # Errors
    /// If the delivery cannot be mapped to an event.
    pub fn draft(&self, _: &Proven, headers: Headers<'_>, body: &[u8]) -> Result<Draft, Refused> {
        let id = self.scheme.id_header();
        let key = match headers(id).map(std::str::from_utf8) {
            None => None,
            Some(Ok(key)) if (1..=MAX_ID_BYTES).contains(&key.len()) => Some(key.to_owned()),
            Some(_) => return Err(Refused::Unmapped(format!("`{id}` must be a text of 1 to {MAX_ID_BYTES} bytes"))),
        };
        let draft = self.mapping.draft(headers, body)?;
        Ok(Draft { key, publisher: self.publisher(), ..draft })
    }

    /// The publisher of its events. Names of users contain no space, so no user can have this name.
    fn publisher(&self) -> String {
        format!("webhook {}", self.name)
    }
}
