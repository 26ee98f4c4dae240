//! The keys of an issuer (RFC 7517), fetched when a token needs them, kept, and fetched again when they grow old or a
//! token names one that is not among them: issuers change their keys without a word.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse},
};
use tokio::{sync::Mutex, time::Instant};

use super::Refused;
use crate::upstream::{Client, Method, Request, StatusCode, Trust};

/// Largest answer in bytes.
const MAX_BYTES: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Jwks {
    client: Client,
    url: String,
    refresh: Duration,
    pause: Duration,
    /// Held while the keys are fetched: whoever needs one waits for the same answer.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    fetched: Option<Instant>,
    asked: Option<Instant>,
}

struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    key: Arc<DecodingKey>,
}

// === impl Jwks ===

impl Jwks {
    pub(super) fn new(client: Client, url: String, refresh: Duration, pause: Duration) -> Self {
        Self { client, url, refresh, pause, known: Mutex::default() }
    }

    /// The key that a token names.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<DecodingKey>, Refused> {
        let mut known = self.known.lock().await;
        let found = known.find(id, algorithm);
        let old = known.fetched.is_none_or(|fetched| fetched.elapsed() >= self.refresh);
        let paused = known.asked.is_some_and(|asked| asked.elapsed() < self.pause);
        if (found.is_none() || old) && !paused {
            known.asked = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => {
                    known.keys = keys;
                    known.fetched = Some(Instant::now());
                }
                Err(error) => {
                    tracing::error!(url = self.url, error, "the keys of JWTs (access.jwt.jwks_url) cannot be fetched");
                    if known.fetched.is_none() {
                        return Err(Refused::Unavailable("the keys of its issuer cannot be fetched".into()));
                    }
                }
            }
            return known.find(id, algorithm).ok_or_else(no_key);
        }
        match found {
            Some(key) => Ok(key),
            None if known.fetched.is_none() => {
                Err(Refused::Unavailable("the keys of its issuer could not be fetched a moment ago".into()))
            }
            None => Err(no_key()),
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let mut request = Request::new(Method::GET, self.url.as_str(), Trust::Operator);
        request.head_timeout = TIMEOUT;
        let answer = self.client.send(request).await.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("the status is {}", answer.status));
        }
        let body = answer.body.idle_timeout(TIMEOUT).collect(MAX_BYTES).await.map_err(|error| error.to_string())?;
        let set: JwkSet = serde_json::from_slice(&body).map_err(|error| format!("it is no set of keys: {error}"))?;
        Ok(set.keys.iter().filter_map(Key::new).collect())
    }
}

fn no_key() -> Refused {
    Refused::Unacceptable("its key (`kid`) is not among those of the issuer".into())
}

// === impl Known ===

impl Known {
    /// A token without `kid` is good where only one key can be meant (RFC 7515, 4.1.4 makes it optional).
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let name = format!("{algorithm:?}");
        let fits = |key: &&Key| {
            key.key.family() == super::jwt::family(algorithm) && key.algorithm.as_ref().is_none_or(|own| *own == name)
        };
        let mut fitting = self.keys.iter().filter(fits).filter(|key| id.is_none_or(|id| key.id.as_deref() == Some(id)));
        let first = fitting.next()?;
        (id.is_some() || fitting.next().is_none()).then(|| first.key.clone())
    }
}

// === impl Key ===

impl Key {
    /// `None` for what is no public key to check signatures with. A symmetric one in a published set is no secret.
    fn new(jwk: &Jwk) -> Option<Self> {
        let public = matches!(
            jwk.algorithm,
            AlgorithmParameters::RSA(_) | AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_)
        );
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        if !public || !signs {
            return None;
        }
        let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        let key = Arc::new(DecodingKey::from_jwk(jwk).ok()?);
        Some(Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}
