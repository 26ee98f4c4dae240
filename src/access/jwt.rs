//! JSON Web Tokens (RFC 7519) of another issuer: their validation and their claims.
//!
//! The algorithm is chosen from the settings' list and must fit the key: the token's own statement is only compared
//! (RFC 8725, 3.1). `exp` and `sub` are required. `sub` is the user, and the claim `millstream` gives rights:
//!
//! ```json
//! {"sub": "42", "exp": 1790000000, "millstream": {"groups": ["ops"], "subscribe": ["order:*"], "jobs": true}}
//! ```
//!
//! Without that claim the caller may only use its own topic.

use std::{fmt, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, Deserializer, Serialize, de::Visitor};
use sha2::{Digest, Sha256};

use super::{
    Identity, Refused, Rights,
    identity::Origin,
    jwks::{Jwks, family},
};
use crate::{
    clock::Clock,
    event::Meta,
    json::Objects,
    topic::{Pattern, Topic},
    upstream,
};

mod header;
#[cfg(test)]
mod tests;

pub use self::header::{has_jwt_form, peek};

/// `[access.jwt]`: exactly one of `secret_env`, `public_key_file` and `jwks_url`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The environment variable with the secret of HS256, at least 32 bytes.
    pub secret_env: Option<String>,
    /// A file with the public key of RS256, ES256 or `EdDSA`, in PEM.
    pub public_key_file: Option<PathBuf>,
    /// URL of the public keys. It is fetched when a token names an unknown key, and again after `jwks_refresh_ms`.
    pub jwks_url: Option<String>,
    /// Maximum age in milliseconds of the keys of `jwks_url`; then they are fetched again.
    pub jwks_refresh_ms: u64,
    /// Minimum time between two fetches in milliseconds, also when tokens name unknown keys.
    pub jwks_pause_ms: u64,
    /// Accepted algorithms, of `HS256`, `RS256`, `ES256` and `EdDSA`; empty: all that fit the key.
    pub algorithms: Vec<String>,
    /// The required audience of a token (`aud`).
    pub audience: Option<String>,
    /// The required issuer of a token (`iss`).
    pub issuer: Option<String>,
    /// Maximum difference between the clocks of issuer and node, in milliseconds.
    pub leeway_ms: u64,
}

/// Checks tokens.
pub(super) struct Verifier {
    /// A hash of everything that decides which tokens are valid. A session of a JWT is bound to it.
    fingerprint: String,
    keys: Keys,
    allowed: Vec<Algorithm>,
    audience: Option<String>,
    issuer: Option<String>,
    leeway: u64,
    clock: Clock,
}

enum Keys {
    One(Box<DecodingKey>),
    Fetched(Box<Jwks>),
}

/// The claims of a token. The library's validation requires `sub`, `aud` and `iss`. The dates are checked here, because
/// the library rejects some valid dates and panics when the clock is before 1970.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    #[serde(default)]
    millstream: Granted,
}

/// Seconds since 1970, with optional fractions (RFC 7519, section 2). Rounded down, so that a token never outlives its
/// `exp`; a date before 1970 is 0.
#[derive(Clone, Copy)]
struct NumericDate(u64);

/// The content of the claim `millstream`. An unknown field is an error, so that a misspelt right is noticed.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Granted {
    groups: Vec<String>,
    publish: Vec<Pattern>,
    subscribe: Vec<Pattern>,
    jobs: bool,
    remotes: Vec<String>,
    admin: bool,
    meta: Meta,
}

/// Shortest secret of HS256 in bytes (RFC 7518, 3.2).
const MIN_SECRET: usize = 32;
const KNOWN: [Algorithm; 4] = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            secret_env: None,
            public_key_file: None,
            jwks_url: None,
            jwks_refresh_ms: 5 * 60 * 1000,
            jwks_pause_ms: 10_000,
            algorithms: Vec::new(),
            audience: None,
            issuer: None,
            leeway_ms: 5000,
        }
    }
}

impl Config {
    /// Checks rules that the types do not express.
    pub(super) fn check(&self) -> Result<(), String> {
        let sources =
            [self.secret_env.is_some(), self.public_key_file.is_some(), self.jwks_url.is_some()].map(usize::from);
        if sources.iter().sum::<usize>() != 1 {
            return Err("`access.jwt` needs exactly one of `secret_env`, `public_key_file` and `jwks_url`".into());
        }
        for name in &self.algorithms {
            let algorithm = read(name)
                .ok_or_else(|| format!("`access.jwt.algorithms`: `{name}` must be HS256, RS256, ES256 or EdDSA"))?;
            if (algorithm == Algorithm::HS256) != self.secret_env.is_some() {
                return Err(format!("`access.jwt.algorithms`: `{name}` does not fit the kind of the key"));
            }
        }
        if let Some(url) = &self.jwks_url {
            upstream::parse_url(url).map_err(|error| format!("`access.jwt.jwks_url` = `{url}`: {error}"))?;
        }
        if self.jwks_refresh_ms < 1000 || self.jwks_pause_ms < 100 {
            return Err("`access.jwt.jwks_refresh_ms` must be at least 1000 and `jwks_pause_ms` at least 100".into());
        }
        Ok(())
    }
}

fn read(name: &str) -> Option<Algorithm> {
    name.parse().ok().filter(|algorithm| KNOWN.contains(algorithm))
}

/// Why a token was refused, in words that reveal only facts that its holder can know.
pub(super) fn refused(error: &jsonwebtoken::errors::Error) -> Refused {
    match error.kind() {
        ErrorKind::InvalidAudience => Refused::Unacceptable("it has another audience (`aud`)".into()),
        ErrorKind::InvalidIssuer => Refused::Unacceptable("it has another issuer (`iss`)".into()),
        ErrorKind::MissingRequiredClaim(claim) => Refused::Unacceptable(format!("it has no `{claim}`")),
        ErrorKind::Json(error) => Refused::Unacceptable(format!("its claims cannot be read: {error}")),
        _ => Refused::Unacceptable("its signature is not that of a key that is known here".into()),
    }
}

// === impl Verifier ===

impl Verifier {
    /// Reads the key, or prepares to fetch it.
    pub(super) fn new(config: &Config, client: upstream::Client, clock: Clock) -> Result<Self, String> {
        let keys = if let Some(variable) = &config.secret_env {
            let secret = std::env::var(variable).unwrap_or_default();
            if secret.len() < MIN_SECRET {
                return Err(format!(
                    "`access.jwt.secret_env` = `{variable}`: the variable has {} bytes, HS256 needs at least {MIN_SECRET}",
                    secret.len()
                ));
            }
            Keys::One(Box::new(DecodingKey::from_secret(secret.as_bytes())))
        } else if let Some(file) = &config.public_key_file {
            let wrong = |why: &str| format!("`access.jwt.public_key_file` = `{}`: {why}", file.display());
            let pem = std::fs::read(file).map_err(|error| wrong(&error.to_string()))?;
            let key = DecodingKey::from_rsa_pem(&pem)
                .or_else(|_| DecodingKey::from_ec_pem(&pem))
                .or_else(|_| DecodingKey::from_ed_pem(&pem))
                .map_err(|_| wrong("it has no public key of RSA, P-256 or Ed25519 in PEM"))?;
            Keys::One(Box::new(key))
        } else if let Some(url) = &config.jwks_url {
            let [refresh, pause] = [config.jwks_refresh_ms, config.jwks_pause_ms].map(Duration::from_millis);
            Keys::Fetched(Box::new(Jwks::new(client, url.clone(), refresh, pause)))
        } else {
            return Err("`access.jwt` names no key".into());
        };
        let named: Vec<Algorithm> = config.algorithms.iter().filter_map(|name| read(name)).collect();
        let symmetric = config.secret_env.is_some();
        let fits = |algorithm: &Algorithm| {
            (*algorithm == Algorithm::HS256) == symmetric && (named.is_empty() || named.contains(algorithm))
        };
        let material = match &keys {
            Keys::One(key) => key.try_get_as_bytes().map(<[u8]>::to_vec).unwrap_or_default(),
            Keys::Fetched(_) => Vec::new(),
        };
        let mut fingerprint = Sha256::new();
        fingerprint.update(serde_json::to_vec(config).unwrap_or_default());
        fingerprint.update(material);
        Ok(Self {
            fingerprint: URL_SAFE_NO_PAD.encode(fingerprint.finalize()),
            keys,
            allowed: KNOWN.into_iter().filter(fits).collect(),
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
            leeway: config.leeway_ms.div_ceil(1000),
            clock,
        })
    }

    /// Changes with the settings and the key.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The caller of a token.
    pub(super) async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        let header = peek(token).map_err(|why| Refused::Unacceptable(why.into()))?;
        if !self.allowed.contains(&header.alg) {
            return Err(Refused::Unacceptable(format!("its algorithm {:?} is not accepted here", header.alg)));
        }
        let fetched;
        let key = match &self.keys {
            Keys::One(key) => key,
            Keys::Fetched(keys) => {
                fetched = keys.find(header.kid.as_deref(), header.alg).await?;
                &*fetched
            }
        };
        if key.family() != family(header.alg) {
            return Err(Refused::Unacceptable("its algorithm does not fit the key".into()));
        }
        let claims = jsonwebtoken::decode::<Objects<Claims>>(token, key, &self.validation(header.alg))
            .map_err(|error| refused(&error))?
            .claims;
        self.identity(claims.0)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.required_spec_claims = ["sub".to_owned()].into();
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation
    }

    fn identity(&self, claims: Claims) -> Result<Identity, Refused> {
        let Claims { sub, exp, nbf, millstream: granted } = claims;
        let NumericDate(exp) = exp.ok_or_else(|| Refused::Unacceptable("it has no `exp`".into()))?;
        let now = self.clock.now_ms() / 1000;
        if exp.saturating_add(self.leeway) < now {
            return Err(Refused::Expired);
        }
        if nbf.is_some_and(|NumericDate(nbf)| nbf > now.saturating_add(self.leeway)) {
            return Err(Refused::NotYet);
        }
        Topic::user(&sub)
            .map_err(|invalid| Refused::Unacceptable(format!("its `sub` cannot name a user: {invalid}")))?;
        for group in &granted.groups {
            Topic::group(group)
                .map_err(|invalid| Refused::Unacceptable(format!("its group `{group}` cannot be one: {invalid}")))?;
        }
        if !granted.meta.is_small() {
            return Err(Refused::Unacceptable(
                "its metadata are too many or too large, or contain a value that is not a scalar".into(),
            ));
        }
        let Granted { groups, publish, subscribe, jobs, remotes, admin, meta } = granted;
        Ok(Identity {
            user: Some(sub),
            groups,
            rights: Rights { publish, subscribe, jobs, remotes, admin }.into(),
            meta: Some(meta),
            expires_at: Some(exp.saturating_add(self.leeway).saturating_mul(1000)),
            origin: Origin::Claims,
        })
    }
}

// === impl NumericDate ===

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds since 1970")
            }

            fn visit_u64<E>(self, seconds: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds))
            }

            fn visit_i64<E>(self, seconds: i64) -> Result<NumericDate, E> {
                Ok(NumericDate(u64::try_from(seconds).unwrap_or(0)))
            }

            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
            fn visit_f64<E>(self, seconds: f64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds as u64))
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}
