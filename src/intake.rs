//! Intake: turns requests of other systems into events.
//!
//! ```text
//!  delivery ──> signature: is the sender authentic? ──> mapping: event, topic and data ──> Draft ──> the journal
//! ```
//!
//! Owns the sections `[webhooks.NAME]`. It creates drafts, and the caller publishes them. Of HTTP it knows only header fields
//! by name.

mod webhooks;

pub use self::webhooks::{
    Claim, EnvNames, Headers, Proven, Refusal, Refused, Scheme, Target, ValuePath, Webhook, WebhookConfig, Webhooks,
};
