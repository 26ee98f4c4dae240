//! Intake: what other systems hand in, each in its own way, until it is an event like any other.
//!
//! ```text
//!  a delivery ──> signature: is it who it says? ──> mapping: which event, for whom? ──> Draft ──> the journal
//! ```
//!
//! Owns the sections `[webhooks.NAME]`. It says what is to be published and leaves the publishing to who asks; it knows nothing
//! of HTTP but header fields by name.

mod webhooks;

pub use self::webhooks::{
    Claim, EnvNames, Headers, Refusal, Refused, Scheme, Target, ValuePath, Webhook, WebhookConfig, Webhooks,
};
