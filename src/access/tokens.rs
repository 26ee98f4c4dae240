//! Static tokens: the tokens of the settings, which are stored as hashes.

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

/// An entry of `[[access.tokens]]`. `millstream token make` prints such a section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenConfig {
    /// Names the token in logs; unique.
    pub name: String,
    /// SHA-256 of the token, in hexadecimal digits. The token itself is not stored.
    pub sha256: String,
    /// The user of the token; default is the name of the token.
    pub user: Option<String>,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// Topics that the caller may publish into, in addition to the user's own topic.
    pub publish: Vec<Pattern>,
    /// Topics that the caller may subscribe to, in addition to the topics of the user and its groups.
    pub subscribe: Vec<Pattern>,
    /// True if the caller may submit jobs.
    pub jobs: bool,
    /// Remotes that the caller may use; `*` for all.
    pub remotes: Vec<String>,
    /// True if the caller may do everything.
    pub admin: bool,
    /// Metadata of the user's emitters: scalars by name.
    pub meta: Meta,
}

/// Maximum number of tokens in the settings, since each request is compared with all of them.
const MAX_TOKENS: usize = 1000;

/// The tokens in force.
pub(super) struct Tokens(RwLock<Arc<Vec<Entry>>>);

struct Entry {
    config: TokenConfig,
    digest: [u8; 32],
    identity: Identity,
    revoked: CancellationToken,
}

/// SHA-256 of a token, in hexadecimal digits, in the form of the setting `sha256`.
pub fn digest(token: &str) -> String {
    Sha256::digest(token).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Checks rules that the types do not express.
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

    /// The caller of a token. It takes the same time for every known and unknown token.
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

    /// The token of this name, if it is still the same token.
    pub(super) fn named(&self, name: &str, digest: &[u8; 32]) -> Option<Identity> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry.config.name == name && entry.digest == *digest)?;
        Some(entry.identity.clone())
    }

    /// Replaces the tokens; cancels removed and changed tokens, and returns their names.
    pub(super) fn replace(&self, tokens: &[TokenConfig]) -> Vec<String> {
        let mut entries = self.0.write().expect("no code that holds the lock panics");
        let old = std::mem::take(&mut *entries);
        // An unchanged token keeps its callers.
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
    /// `None` if the settings were not checked.
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
