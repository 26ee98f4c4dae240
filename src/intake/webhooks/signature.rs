//! Signatures: checks that the sender of a delivery knows the secret. Pure, and without other modules: the fuzzer builds only
//! this file.
//!
//! The check has three steps, so that the body is read only for plausible deliveries, and is hashed while it arrives: the
//! header fields give a claim ([`Verifier::claim`]), the claim takes the raw body in pieces ([`Claim::update`]), and its
//! signature is compared at the end ([`Claim::prove`]). Secrets and signatures are compared in constant time. Only facts
//! that the sender knows (present fields, its delay) lead to an earlier decision.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// How deliveries are authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// A header field contains the secret.
    #[default]
    SecretHeader,
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
    /// GitHub: `X-Hub-Signature-256`.
    Github,
}

/// Why a delivery is not authentic. The sender does not get the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A required header field is missing, or present twice.
    Missing,
    /// A header field has another form.
    Malformed,
    /// The timestamp is outside of the window.
    Late,
    /// The secret or the signature is wrong.
    Wrong,
}

/// The unverified content of the header fields. [`prove`](Self::prove) checks it against the whole body.
#[derive(Debug)]
pub struct Claim {
    /// One for each secret that signs, over the signed bytes so far.
    macs: Vec<Hmac<Sha256>>,
    /// Signatures, of which one must be valid; `None` if the delivery has shown the secret itself.
    signatures: Option<Vec<[u8; 32]>>,
}

/// The proof that a delivery comes from its sender; only [`Claim::prove`] creates it.
#[derive(Debug)]
pub struct Proven(());

/// Verifies the deliveries of one webhook. Its debug output contains no secret.
pub(super) struct Verifier {
    scheme: Scheme,
    header: String,
    tolerance_ms: u64,
    /// Hashes of secrets that are sent themselves. Hashes have equal length.
    hashes: Vec<[u8; 32]>,
    /// Keys of secrets that sign.
    keys: Vec<Hmac<Sha256>>,
}

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";
const GITHUB_SIGNATURE: &str = "x-hub-signature-256";
const GITHUB_DELIVERY: &str = "x-github-delivery";

/// Prefix of a secret of Standard Webhooks; the rest is base64.
const SECRET_PREFIX: &str = "whsec_";
/// Minimum length of a secret of Standard Webhooks.
const LEAST_SECRET_BYTES: usize = 24;

// === impl Refusal ===

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Malformed, Self::Late, Self::Wrong];

    /// The reason in one word, for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Late => "late",
            Self::Wrong => "wrong",
        }
    }
}

// === impl Scheme ===

impl Scheme {
    /// The header field with the id of a delivery.
    pub fn id_header(self) -> &'static str {
        match self {
            Self::SecretHeader | Self::StandardWebhooks => ID,
            Self::Github => GITHUB_DELIVERY,
        }
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier that accepts any of these secrets. Several are needed while a secret is being replaced.
    ///
    /// `header` is the field with the secret, and `tolerance_ms` the maximum difference of a timestamp to now, for schemes
    /// that have them.
    ///
    /// # Errors
    /// Names the fault of a secret, without the secret.
    pub(super) fn new(scheme: Scheme, secrets: &[String], header: &str, tolerance_ms: u64) -> Result<Self, String> {
        let (mut hashes, mut keys) = (Vec::new(), Vec::new());
        for secret in secrets {
            if secret.is_empty() {
                return Err("it is empty".into());
            }
            match scheme {
                Scheme::SecretHeader if !secret.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
                    return Err("it has characters that a header field cannot have; use visible ASCII".into());
                }
                Scheme::SecretHeader => hashes.push(Sha256::digest(secret).into()),
                Scheme::StandardWebhooks => keys.push(key(&standard_secret(secret)?)),
                Scheme::Github => keys.push(key(secret.as_bytes())),
            }
        }
        Ok(Self { scheme, header: header.to_ascii_lowercase(), tolerance_ms, hashes, keys })
    }

    /// Reads the header fields; `header` returns the value of a field by its name in lower case, `None` if it is missing or
    /// present twice.
    ///
    /// # Errors
    /// If the claim is invalid for any body.
    pub(super) fn claim<'a>(&self, header: impl Fn(&str) -> Option<&'a [u8]>, now_ms: u64) -> Result<Claim, Refusal> {
        let field = |name: &str| header(name).ok_or(Refusal::Missing);
        match self.scheme {
            Scheme::SecretHeader => {
                let shown: [u8; 32] = Sha256::digest(field(&self.header)?).into();
                let right = one_of(&self.hashes, &[shown]);
                if right { Ok(Claim { macs: Vec::new(), signatures: None }) } else { Err(Refusal::Wrong) }
            }
            Scheme::StandardWebhooks => {
                let (id, timestamp, signatures) = (field(ID)?, field(TIMESTAMP)?, field(SIGNATURE)?);
                let sent_ms = seconds(timestamp).ok_or(Refusal::Malformed)?.saturating_mul(1000);
                // With a full stop in the id, the signed bytes could be divided in another way.
                if id.is_empty() || id.contains(&b'.') {
                    return Err(Refusal::Malformed);
                }
                let signatures: Vec<[u8; 32]> = standard_signatures(signatures).collect();
                if signatures.is_empty() {
                    return Err(Refusal::Malformed);
                }
                if now_ms.abs_diff(sent_ms) >= self.tolerance_ms {
                    return Err(Refusal::Late);
                }
                let mut claim = Claim { macs: self.keys.clone(), signatures: Some(signatures) };
                [id, b".", timestamp, b"."].into_iter().for_each(|signed| claim.update(signed));
                Ok(claim)
            }
            Scheme::Github => {
                let signature = github_signature(field(GITHUB_SIGNATURE)?).ok_or(Refusal::Malformed)?;
                Ok(Claim { macs: self.keys.clone(), signatures: Some(vec![signature]) })
            }
        }
    }
}

/// Hides the secrets.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

// === impl Claim ===

impl Claim {
    /// Takes the next piece of the raw body. The division into pieces makes no difference.
    pub fn update(&mut self, piece: &[u8]) {
        self.macs.iter_mut().for_each(|mac| mac.update(piece));
    }

    /// Compares the signatures after the last piece of the body.
    ///
    /// # Errors
    /// If no signature is valid for a secret of the webhook.
    pub fn prove(self) -> Result<Proven, Refusal> {
        let Some(signatures) = self.signatures else { return Ok(Proven(())) };
        let right: Vec<[u8; 32]> = self.macs.into_iter().map(|mac| mac.finalize().into_bytes().into()).collect();
        if one_of(&right, &signatures) { Ok(Proven(())) } else { Err(Refusal::Wrong) }
    }
}

/// True if one of `given` is one of `right`, in a time that depends only on their numbers.
fn one_of(right: &[[u8; 32]], given: &[[u8; 32]]) -> bool {
    let pairs = right.iter().flat_map(|right| given.iter().map(move |given| right.ct_eq(given)));
    pairs.fold(Choice::from(0), |any, same| any | same).into()
}

fn key(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

fn standard_secret(text: &str) -> Result<Vec<u8>, String> {
    let form = "it is not a secret of Standard Webhooks, `whsec_` and base64";
    let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(form)?;
    let secret = STANDARD.decode(encoded).map_err(|_| form)?;
    if secret.len() < LEAST_SECRET_BYTES {
        return Err(format!(
            "a secret of Standard Webhooks has at least {LEAST_SECRET_BYTES} bytes, this one has fewer"
        ));
    }
    Ok(secret)
}

/// Seconds since the Unix epoch, digits only.
fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The signatures of version `v1`. Other versions, such as `v1a`, are skipped, as the standard requires.
fn standard_signatures(text: &[u8]) -> impl Iterator<Item = [u8; 32]> {
    let signatures = text.split(|byte| *byte == b' ').filter_map(|part| part.strip_prefix(b"v1,"));
    signatures.filter_map(|encoded| STANDARD.decode(encoded).ok()?.try_into().ok())
}

fn github_signature(text: &[u8]) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(b"sha256=")?;
    if digits.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut signature = [0; 32];
    for (byte, pair) in signature.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(signature)
}
