//! Static tokens: those that the settings list, by their hashes.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write,
    sync::{Arc, RwLock},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::{Identity, Rights, identity::Origin};
use crate::{
    event::Meta,
    topic::{Pattern, Topic},
};

/// One of `[[access.tokens]]`. `millstream token make` prints such a section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenConfig {
    /// Names the token in logs; unique.
    pub name: String,
    /// SHA-256 of the token, in hexadecimal digits. The token itself is nowhere.
    pub sha256: String,
    /// The user that it stands for; the token's name where it is missing.
    pub user: Option<String>,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// Topics that it may publish into, beside the user's own.
    pub publish: Vec<Pattern>,
    /// Topics that it may hear, beside the user's own and the groups'.
    pub subscribe: Vec<Pattern>,
    /// It may submit jobs.
    pub jobs: bool,
    /// Remotes that it may use; `*` for all.
    pub remotes: Vec<String>,
    /// It may do everything.
    pub admin: bool,
    /// Metadata of the user's emitters: scalars by name.
    pub meta: Meta,
}

/// Most tokens in the settings: each request is compared with all of them.
const MAX_TOKENS: usize = 1000;

/// The tokens in force.
pub(super) struct Tokens(RwLock<Arc<Vec<Entry>>>);

struct Entry {
    config: TokenConfig,
    digest: [u8; 32],
    identity: Identity,
    revoked: CancellationToken,
}

/// SHA-256 of a token, in hexadecimal digits, as `sha256` wants it.
pub fn digest(token: &str) -> String {
    Sha256::digest(token).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Checks what the types do not.
pub(super) fn check(tokens: &[TokenConfig]) -> Result<(), String> {
    if tokens.len() > MAX_TOKENS {
        return Err(format!("`access.tokens` has {} entries, at most {MAX_TOKENS}; use `[access.jwt]`", tokens.len()));
    }
    let mut seen = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let key = |field: &str| format!("`access.tokens[{index}].{field}`");
        if token.name.is_empty() || token.name.len() > 100 || token.name.contains(char::is_control) {
            return Err(format!("{} must have 1 to 100 characters", key("name")));
        }
        if read(&token.sha256).is_none() {
            return Err(format!(
                "{} of `{}` must be the token's SHA-256 in 64 hexadecimal digits; `millstream token make` prints it",
                key("sha256"),
                token.name
            ));
        }
        if token.sha256.eq_ignore_ascii_case(&digest("")) {
            return Err(format!(
                "{} of `{}` is that of an empty text: the token was lost on the way",
                key("sha256"),
                token.name
            ));
        }
        let same_token = !seen.insert(("sha256", token.sha256.to_ascii_lowercase()));
        if !seen.insert(("name", token.name.clone())) || same_token {
            return Err(format!("{} `{}`: another token has the same name or the same hash", key("name"), token.name));
        }
        if let Err(invalid) = Topic::user(user_of(token)) {
            return Err(format!("{} = `{}` cannot name a user: {invalid}", key("user"), user_of(token)));
        }
        for group in &token.groups {
            Topic::group(group).map_err(|invalid| format!("{}: `{group}`: {invalid}", key("groups")))?;
        }
        if !token.meta.is_small() {
            return Err(format!("{} must be scalars, at most 32 keys and 4096 bytes", key("meta")));
        }
    }
    Ok(())
}

fn user_of(token: &TokenConfig) -> &str {
    token.user.as_deref().unwrap_or(&token.name)
}

/// Reads 64 hexadecimal digits.
fn read(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

// === impl Tokens ===

impl Tokens {
    pub(super) fn new(tokens: &[TokenConfig]) -> Self {
        Self(RwLock::new(Arc::new(tokens.iter().filter_map(Entry::new).collect())))
    }

    /// Whose token it is. Takes the same time whichever it is, and for a stranger's.
    pub(super) fn find(&self, token: &str) -> Option<Identity> {
        let entries = self.entries();
        if entries.is_empty() {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for entry in entries.iter() {
            if bool::from(entry.digest.ct_eq(&digest)) {
                found = Some(entry);
            }
        }
        found.map(|entry| entry.identity.clone())
    }

    /// The token of this name, as long as it is the same one.
    pub(super) fn named(&self, name: &str, digest: &[u8; 32]) -> Option<Identity> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry.config.name == name && entry.digest == *digest)?;
        Some(entry.identity.clone())
    }

    /// Puts others in force; answers the names of those that are gone or changed, whose callers are told.
    pub(super) fn replace(&self, tokens: &[TokenConfig]) -> Vec<String> {
        let mut entries = self.0.write().expect("no code that holds the lock panics");
        let old = std::mem::take(&mut *entries);
        // One that stays as it was keeps its callers.
        let kept = |token: &TokenConfig| old.iter().find(|entry| entry.config == *token).map(Entry::same);
        let new: Vec<Entry> = tokens.iter().filter_map(|token| kept(token).or_else(|| Entry::new(token))).collect();
        let names: HashSet<&str> =
            new.iter().filter(|entry| old.iter().any(|old| old.config == entry.config)).map(Entry::name).collect();
        let gone: Vec<&Entry> = old.iter().filter(|entry| !names.contains(entry.name())).collect();
        gone.iter().for_each(|entry| entry.revoked.cancel());
        let gone = gone.iter().map(|entry| entry.config.name.clone()).collect();
        *entries = Arc::new(new);
        gone
    }

    fn entries(&self) -> Arc<Vec<Entry>> {
        self.0.read().expect("no code that holds the lock panics").clone()
    }
}

// === impl Entry ===

impl Entry {
    /// `None` where the settings were not checked.
    fn new(config: &TokenConfig) -> Option<Self> {
        let digest = read(&config.sha256)?;
        let revoked = CancellationToken::new();
        let rights = Rights {
            publish: config.publish.clone(),
            subscribe: config.subscribe.clone(),
            jobs: config.jobs,
            remotes: config.remotes.clone(),
            admin: config.admin,
        };
        let identity = Identity {
            user: Some(user_of(config).to_owned()),
            groups: config.groups.clone(),
            rights: Arc::new(rights),
            meta: Some(config.meta.clone()),
            expires_at: None,
            origin: Origin::Static { name: config.name.as_str().into(), digest, revoked: revoked.clone() },
        };
        Some(Self { config: config.clone(), digest, identity, revoked })
    }

    fn same(&self) -> Self {
        let (config, identity) = (self.config.clone(), self.identity.clone());
        Self { config, digest: self.digest, identity, revoked: self.revoked.clone() }
    }

    fn name(&self) -> &str {
        &self.config.name
    }
}
