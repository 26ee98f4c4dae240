//! Webhooks: deliveries of other services, each to an address of its own with a secret of its own.
//!
//! ```text
//!  header fields ──> claim ──> the body is read ──> draft: signature, then mapping ──> the journal
//!                      └─ 401, whatever is wrong ──────┘          └─ 422, says what is missing where
//! ```
//!
//! A delivery that comes again is known by its id: that is the event's idempotency key, and the webhook is the publisher.

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
    signature::{Claim, Refusal, Scheme},
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
    /// `None` where it is off.
    verifier: Option<Verifier>,
    mapping: Mapping,
}

/// Why a delivery was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no webhook of this name.
    Unknown,
    /// It has no secret.
    Off,
    /// It does not come from who knows the secret.
    Unproven(Refusal),
    /// No event can be made out of it; says what is missing where.
    Unmapped(String),
}

/// Longest id of a delivery in bytes: it is kept with the event.
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
    /// Makes all webhooks of the settings, with the secrets of the environment; says which of them are off.
    ///
    /// # Errors
    /// Names the key and what is wrong with it, or with the environment variable that it names; shows no secret.
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

    /// Finds a webhook.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<&Webhook, Refused> {
        self.0.webhooks.get(name).ok_or(Refused::Unknown)
    }

    /// Counts a delivery whose event the journal has.
    pub fn count_accepted(&self, duplicate: bool) {
        let counter = if duplicate { &self.0.duplicates } else { &self.0.accepted };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a delivery that was refused.
    pub fn count_refused(&self, refused: &Refused) {
        let reason = Refused::REASONS.iter().position(|reason| *reason == refused.as_str());
        self.0.refused[reason.expect("all reasons are listed")].fetch_add(1, Relaxed);
    }

    /// Adds the figures of deliveries.
    pub fn metrics(&self, rows: &mut Rows) {
        let help = "Deliveries to webhooks that became events.";
        rows.counter("webhook_deliveries", help, self.0.accepted.load(Relaxed));
        let help = "Deliveries to webhooks that had come before.";
        rows.counter("webhook_duplicates", help, self.0.duplicates.load(Relaxed));
        let refused = Refused::REASONS.into_iter().zip(self.0.refused.iter().map(|count| count.load(Relaxed)));
        rows.counters("webhook_refusals", "Deliveries to webhooks that were refused.", "reason", refused);
    }
}

// === impl Webhook ===

impl Webhook {
    fn new(name: &str, config: &WebhookConfig, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mapping = Mapping::new(config).map_err(|(key, error)| format!("`webhooks.{name}.{key}`: {error}"))?;
        Ok(Self { name: name.to_owned(), scheme: config.scheme, verifier: config.verifier(name, variable)?, mapping })
    }

    /// What the header fields of a delivery claim, before its body is read; `now_ms` in Unix milliseconds.
    ///
    /// # Errors
    /// When the webhook is off, or the claim cannot be right, whatever the body.
    pub fn claim(&self, headers: Headers<'_>, now_ms: u64) -> Result<Claim, Refused> {
        let verifier = self.verifier.as_ref().ok_or(Refused::Off)?;
        Ok(verifier.claim(headers, now_ms)?)
    }

    /// The event that a delivery becomes, if the raw body bears out what it claims.
    ///
    /// # Errors
    /// When the signature is wrong, or no event can be made out of it.
    pub fn draft(&self, claim: &Claim, headers: Headers<'_>, body: &[u8]) -> Result<Draft, Refused> {
        self.verifier.as_ref().ok_or(Refused::Off)?.verify(claim, body)?;
        let id = self.scheme.id_header();
        let key = match headers(id).map(std::str::from_utf8) {
            None => None,
            Some(Ok(key)) if (1..=MAX_ID_BYTES).contains(&key.len()) => Some(key.to_owned()),
            Some(_) => return Err(Refused::Unmapped(format!("`{id}` must be a text of 1 to {MAX_ID_BYTES} bytes"))),
        };
        let draft = self.mapping.draft(headers, body)?;
        Ok(Draft { key, publisher: self.publisher(), ..draft })
    }

    /// The scope of its ids. No user's name has a space, so nobody can be called so as to share it.
    fn publisher(&self) -> String {
        format!("webhook {}", self.name)
    }
}
