//! Sessions: a client that came with a ticket reconnects with its session.
//!
//! A session is a signed text in a cookie, and is not stored: it survives restarts, and every node of one journal
//! accepts it. A session is weaker than a token: it opens streams and reads. A session of a static token refers to that
//! token. So it has the present rights of the token, and revoking the token ends it.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::{Identity, Refused, Rights, identity::Origin};
use crate::{
    clock::Clock,
    event::Meta,
    journal::{AppendError, Batch, Expect, RecordWrite, Shared, Unavailable},
};

/// The record that holds the key.
const KEY: &str = "access/session-key";

/// Signs sessions.
pub(super) struct Seal {
    journal: Shared,
    life: Duration,
    clock: Clock,
    key: OnceCell<Bytes>,
}

/// The content of a session.
#[derive(Serialize, Deserialize)]
struct Session {
    /// Unix seconds.
    exp: u64,
    /// The tag of the tickets of this user.
    #[serde(rename = "mark")]
    user_tag: String,
    #[serde(flatten)]
    of: Of,
}

/// The credential behind the session.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Of {
    /// A static token; its present settings decide at each use.
    Static { token: String, digest: String },
    /// Claims of a JWT, which the node does not store.
    Claims { issuer: String, user: Option<String>, groups: Vec<String>, rights: Rights, meta: Option<Meta> },
}

// === impl Seal ===

impl Seal {
    pub(super) fn new(journal: Shared, life: Duration, clock: Clock) -> Self {
        Self { journal, life, clock, key: OnceCell::new() }
    }

    /// The text of a session and its lifetime.
    pub(super) async fn seal(
        &self,
        identity: &Identity,
        ticket: &str,
        issuer: &str,
    ) -> Result<(String, Duration), Unavailable> {
        let of = match &identity.origin {
            Origin::Static { name, digest, .. } => {
                Of::Static { token: name.to_string(), digest: URL_SAFE_NO_PAD.encode(digest) }
            }
            Origin::Claims | Origin::Open => Of::Claims {
                issuer: issuer.to_owned(),
                user: identity.user.clone(),
                groups: identity.groups.clone(),
                rights: (*identity.rights).clone(),
                meta: identity.meta.clone(),
            },
        };
        let now = self.clock.now_ms();
        let life = u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX);
        let until = identity.expires_at.unwrap_or(u64::MAX).min(now.saturating_add(life));
        let session = Session { exp: until / 1000, user_tag: tag_of(ticket).to_owned(), of };
        let key = EncodingKey::from_secret(self.key().await?);
        let text = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &session, &key).expect("plain data is signed");
        Ok((text, Duration::from_millis(until.saturating_sub(now))))
    }

    /// The caller of a session; `token` finds a static token in force.
    pub(super) async fn unseal(
        &self,
        text: &str,
        ticket: &str,
        issuer: &str,
        token: impl Fn(&str, &[u8; 32]) -> Option<Identity>,
    ) -> Result<Identity, Refused> {
        let key = self.key().await.map_err(|error| Refused::Unavailable(error.to_string()))?;
        let mut validation = Validation::new(Algorithm::HS256);
        // The calling function checks the expiry of the identity with the node's clock.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let session: Session = jsonwebtoken::decode(text, &DecodingKey::from_secret(key), &validation)
            .map_err(|error| super::jwt::refused(&error))?
            .claims;
        if session.user_tag != tag_of(ticket) {
            return Err(Refused::Ticket);
        }
        let expires_at = Some(session.exp.saturating_mul(1000));
        match session.of {
            Of::Static { token: name, digest } => {
                let digest = URL_SAFE_NO_PAD.decode(digest).ok().and_then(|digest| digest.try_into().ok());
                let identity = digest.and_then(|digest| token(&name, &digest)).ok_or(Refused::Expired)?;
                Ok(Identity { expires_at, ..identity })
            }
            Of::Claims { issuer: made_by, .. } if made_by != issuer => Err(Refused::Expired),
            Of::Claims { user, groups, rights, meta, .. } => {
                Ok(Identity { user, groups, rights: rights.into(), meta, expires_at, origin: Origin::Claims })
            }
        }
    }

    /// The key, which the first node of a journal creates.
    async fn key(&self) -> Result<&[u8], Unavailable> {
        let key = self.key.get_or_try_init(|| async {
            loop {
                if let Some(record) = self.journal.get(KEY.into()).await? {
                    return Ok(record.value);
                }
                let key: [u8; 32] = rand::random();
                let records = vec![RecordWrite { key: KEY.into(), value: Some(Bytes::copy_from_slice(&key)) }];
                let expect = vec![Expect { key: KEY.into(), revision: None }];
                match self.journal.append(Batch { records, expect, ..Batch::default() }).await {
                    // Another node was first, or the write succeeded: read it.
                    Ok(_) | Err(AppendError::Conflict(_)) => {}
                    Err(AppendError::Unavailable(error)) => return Err(error),
                    Err(error) => return Err(Unavailable::Failed(error.to_string())),
                }
            }
        });
        Ok(key.await?)
    }
}

/// The tag at the end of a ticket, which all tickets of one user share.
pub(super) fn tag_of(ticket: &str) -> &str {
    ticket.rsplit_once('.').map_or("", |(_, tag)| tag)
}

/// 256 random bits as text.
pub(super) fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
