//! Signatures: whether a delivery comes from who knows the secret. Pure, and on its own: the fuzzer builds this file alone.
//!
//! It goes in two steps, so that a body is read only for who may be right: what the header fields claim
//! ([`Verifier::claim`]), then whether the raw body bears it out ([`Verifier::verify`]). Secrets and signatures are compared
//! in constant time; only what the sender knows anyway (which fields there are, how late it is) decides earlier.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// How a delivery proves where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// A header field holds the secret itself.
    #[default]
    SecretHeader,
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
    /// GitHub: `X-Hub-Signature-256`.
    Github,
}

/// Why a delivery is not believed. Who sent it is told none of these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A header field that the scheme needs is not there, or is there twice.
    Missing,
    /// A header field is not in its form.
    Malformed,
    /// The timestamp is outside of the window.
    Late,
    /// The secret or the signature is another one.
    Wrong,
}

/// What a delivery says of itself: worth nothing until `Verifier::verify` has seen the body.
#[derive(Debug)]
pub struct Claim {
    /// What is signed before the body.
    prefix: Vec<u8>,
    /// Signatures, of which one must be right; `None` where the secret itself was shown, and was right.
    signatures: Option<Vec<[u8; 32]>>,
}

/// What deliveries to one webhook are checked with. Shows no secret.
pub(super) struct Verifier {
    scheme: Scheme,
    header: String,
    tolerance_ms: u64,
    /// Of secrets that are shown: their hashes, which are equally long.
    hashes: Vec<[u8; 32]>,
    /// Of secrets that sign.
    keys: Vec<Hmac<Sha256>>,
}

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";
const GITHUB_SIGNATURE: &str = "x-hub-signature-256";
const GITHUB_DELIVERY: &str = "x-github-delivery";

/// Begins a secret of Standard Webhooks; the rest is base64.
const SECRET_PREFIX: &str = "whsec_";
/// Standard Webhooks wants secrets at least this long.
const LEAST_SECRET_BYTES: usize = 24;

// === impl Refusal ===

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Malformed, Self::Late, Self::Wrong];

    /// Its word in logs and metrics.
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
    /// The header field by which a repeated delivery is known.
    pub fn id_header(self) -> &'static str {
        match self {
            Self::SecretHeader | Self::StandardWebhooks => ID,
            Self::Github => GITHUB_DELIVERY,
        }
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier of these secrets, of which a delivery needs one; several are for the time in which a secret changes.
    ///
    /// `header` names the field that holds the secret, where one does; `tolerance_ms` is how far a timestamp may be from
    /// now, where there is one.
    ///
    /// # Errors
    /// Says what is wrong with a secret, without showing it.
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

    /// Reads what the header fields claim; `header` gives the value of a field by its name in lower case, `None` where it
    /// is not there exactly once.
    ///
    /// # Errors
    /// When that cannot be right, whatever the body.
    pub(super) fn claim<'a>(&self, header: impl Fn(&str) -> Option<&'a [u8]>, now_ms: u64) -> Result<Claim, Refusal> {
        let field = |name: &str| header(name).ok_or(Refusal::Missing);
        match self.scheme {
            Scheme::SecretHeader => {
                let shown: [u8; 32] = Sha256::digest(field(&self.header)?).into();
                let right = one_of(&self.hashes, &[shown]);
                if right { Ok(Claim { prefix: Vec::new(), signatures: None }) } else { Err(Refusal::Wrong) }
            }
            Scheme::StandardWebhooks => {
                let (id, timestamp, signatures) = (field(ID)?, field(TIMESTAMP)?, field(SIGNATURE)?);
                let sent_ms = seconds(timestamp).ok_or(Refusal::Malformed)?.saturating_mul(1000);
                // A full stop in an id would let the parts of what is signed be divided in another way.
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
                let prefix = [id, b".", timestamp, b"."].concat();
                Ok(Claim { prefix, signatures: Some(signatures) })
            }
            Scheme::Github => {
                let signature = github_signature(field(GITHUB_SIGNATURE)?).ok_or(Refusal::Malformed)?;
                Ok(Claim { prefix: Vec::new(), signatures: Some(vec![signature]) })
            }
        }
    }

    /// Checks what was claimed against the raw body.
    ///
    /// # Errors
    /// When no signature is one that who knows a secret would have made.
    pub(super) fn verify(&self, claim: &Claim, body: &[u8]) -> Result<(), Refusal> {
        let Some(signatures) = &claim.signatures else { return Ok(()) };
        let sign = |key: &Hmac<Sha256>| {
            let mac = key.clone().chain_update(&claim.prefix).chain_update(body);
            mac.finalize().into_bytes().into()
        };
        let right: Vec<[u8; 32]> = self.keys.iter().map(sign).collect();
        if one_of(&right, signatures) { Ok(()) } else { Err(Refusal::Wrong) }
    }
}

/// Without secrets.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// Whether one of these is one of those, in a time that depends on how many there are alone.
fn one_of(right: &[[u8; 32]], given: &[[u8; 32]]) -> bool {
    let pairs = right.iter().flat_map(|right| given.iter().map(move |given| right.ct_eq(given)));
    pairs.fold(Choice::from(0), |any, same| any | same).into()
}

fn key(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

fn standard_secret(text: &str) -> Result<Vec<u8>, String> {
    let form = "it is no secret of Standard Webhooks, `whsec_` and base64";
    let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(form)?;
    let secret = STANDARD.decode(encoded).map_err(|_| form)?;
    if secret.len() < LEAST_SECRET_BYTES {
        return Err(format!(
            "a secret of Standard Webhooks has at least {LEAST_SECRET_BYTES} bytes, this one has fewer"
        ));
    }
    Ok(secret)
}

/// Seconds since the Unix epoch: digits and nothing else.
fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The signatures of version `v1`; others, such as `v1a`, are passed over, as the standard wants it.
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
