//! The keys of an issuer (RFC 7517). They are fetched when a token needs them, and cached. They are fetched again when
//! they are old or a token names an unknown key: issuers change their keys without notice.
//!
//! A fetch has one total deadline, so a response that arrives very slowly cannot block the next fetch. When a response
//! is slow, a second request is sent in parallel.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::Refused;
use crate::upstream::{Chunks, Client, Method, Request, Response, StatusCode, Trust, describe};

/// Maximum size of a response in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Total deadline of a fetch, including connect and read.
const DEADLINE: Duration = Duration::from_secs(10);
/// Without a response after this time a second request is sent; the first response is used.
const SLOW: Duration = Duration::from_secs(3);

/// The keys of one issuer.
pub(super) struct Jwks(Arc<Inner>);

struct Inner {
    client: Client,
    url: String,
    refresh: Duration,
    pause: Duration,
    known: Mutex<Known>,
    /// Changes with each response.
    answers: watch::Sender<u64>,
}

/// Guard of a running fetch.
struct Asking(Arc<Inner>);

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    fetched: Option<Instant>,
    asked: Option<Instant>,
    asking: bool,
}

struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    key: Arc<DecodingKey>,
}

// === impl Jwks ===

impl Jwks {
    pub(super) fn new(client: Client, url: String, refresh: Duration, pause: Duration) -> Self {
        let (known, answers) = (Mutex::default(), watch::Sender::default());
        Self(Arc::new(Inner { client, url, refresh, pause, known, answers }))
    }

    /// The key that a token names. A known key is returned at once, even if the issuer is unavailable. Otherwise the
    /// caller waits for the running fetch. The fetch is a task of its own: a client that disconnects must not stop it
    /// for the others.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<DecodingKey>, Refused> {
        let mut answer = {
            let mut known = self.0.known();
            let found = known.find(id, algorithm);
            let old = known.fetched.is_none_or(|fetched| fetched.elapsed() >= self.0.refresh);
            let paused = known.asked.is_some_and(|asked| asked.elapsed() < self.0.pause);
            if (found.is_none() || old) && !paused && !known.asking {
                known.asking = true;
                known.asked = Some(Instant::now());
                tokio::spawn(self.0.clone().ask());
            }
            if let Some(key) = found {
                return Ok(key);
            }
            known.asking.then(|| self.0.answers.subscribe())
        };
        if let Some(answer) = &mut answer {
            // The deadline of the fetch ends the wait sooner; this timeout is only a safety net.
            drop(timeout(2 * DEADLINE, answer.changed()).await);
        }
        let known = self.0.known();
        match known.find(id, algorithm) {
            Some(key) => Ok(key),
            None if known.fetched.is_none() => {
                Err(Refused::Unavailable("the keys of its issuer cannot be fetched".into()))
            }
            None => Err(Refused::Unacceptable("its key (`kid`) is not among those of the issuer".into())),
        }
    }
}

// === impl Inner ===

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(self: Arc<Self>) {
        let asking = Asking(self.clone());
        let answer = self.fetch().await;
        {
            let mut known = self.known();
            match answer {
                Ok(keys) => {
                    known.keys = keys;
                    known.fetched = Some(Instant::now());
                }
                Err(error) => {
                    tracing::error!(url = self.url, error, "the keys of JWTs (access.jwt.jwks_url) cannot be fetched");
                }
            }
        }
        drop(asking);
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let late = |_| Err(format!("there is no whole answer within {DEADLINE:?}"));
        timeout(DEADLINE, self.insist()).await.unwrap_or_else(late)
    }

    /// Sends a request, and a second one if the first is slow. Fails only when both have failed.
    async fn insist(&self) -> Result<Vec<Key>, String> {
        let mut first = pin!(self.request());
        if let Ok(answer) = timeout(SLOW, first.as_mut()).await {
            return answer;
        }
        match select(first, pin!(self.request())).await {
            Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
            Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
        }
    }

    async fn request(&self) -> Result<Vec<Key>, String> {
        let mut request = Request::new(Method::GET, self.url.as_str(), Trust::Operator);
        request.head_timeout = DEADLINE;
        let Response { status, headers, body, .. } =
            self.client.send(request).await.map_err(|error| error.to_string())?;
        if status != StatusCode::OK {
            return Err(format!("the status is {}", describe(status)));
        }
        let body = Chunks::of(&headers, body.idle_timeout(DEADLINE))
            .map_err(|encoding| format!("it is encoded as `{encoding}`"))?
            .collect(MAX_BYTES)
            .await
            .map_err(|error| error.to_string())?;
        let set: JwkSet = serde_json::from_slice(&body).map_err(|error| format!("it is not a set of keys: {error}"))?;
        Ok(set.keys.iter().filter_map(Key::new).collect())
    }
}

// === impl Asking ===

impl Drop for Asking {
    /// Also runs after a panic: if `asking` stayed set, keys would never be fetched again and all users would be locked
    /// out.
    fn drop(&mut self) {
        self.0.known().asking = false;
        self.0.answers.send_modify(|count| *count += 1);
    }
}

// === impl Known ===

impl Known {
    /// A token without `kid` is accepted only if exactly one key fits (RFC 7515, 4.1.4 makes it optional).
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let name = format!("{algorithm:?}");
        let fits =
            |key: &&Key| key.key.family() == family(algorithm) && key.algorithm.as_ref().is_none_or(|own| *own == name);
        let mut fitting = self.keys.iter().filter(fits).filter(|key| id.is_none_or(|id| key.id.as_deref() == Some(id)));
        let first = fitting.next()?;
        (id.is_some() || fitting.next().is_none()).then(|| first.key.clone())
    }
}

// === impl Key ===

impl Key {
    /// `None` if the key is not a public key for signatures. A symmetric key in a published set is not secret.
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

/// The kind of key that an algorithm needs.
pub(super) fn family(algorithm: Algorithm) -> AlgorithmFamily {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => AlgorithmFamily::Hmac,
        Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
        Algorithm::EdDSA => AlgorithmFamily::Ed,
        _ => AlgorithmFamily::Rsa,
    }
}
