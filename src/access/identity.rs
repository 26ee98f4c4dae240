//! A caller.

use std::sync::{Arc, LazyLock};

use tokio_util::sync::CancellationToken;

use super::Rights;
use crate::{
    clock::Clock,
    event::Meta,
    topic::{Pattern, Topic},
};

/// Who is calling, and what they may do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user; `None` for somebody who gave no name, which only open mode permits.
    pub user: Option<String>,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// What the user may do.
    pub rights: Arc<Rights>,
    /// What is known of the user; `None` where it may say so itself.
    pub meta: Option<Meta>,
    /// From when on it is no caller any more, in Unix milliseconds.
    pub expires_at: Option<u64>,
    pub(super) origin: Origin,
}

/// Where the knowledge comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Nobody asked.
    Open,
    /// A static token; fires when it is revoked.
    Static { name: Arc<str>, digest: [u8; 32], revoked: CancellationToken },
    /// Claims that somebody else has signed.
    Claims,
}

static ALL: LazyLock<Arc<Rights>> = LazyLock::new(|| Arc::new(Rights::all()));

// === impl Identity ===

impl Identity {
    /// A known user who may do everything.
    pub fn user(id: impl Into<String>) -> Self {
        Self { user: Some(id.into()), ..Self::anybody() }
    }

    /// Somebody without a name who may do everything.
    pub fn anybody() -> Self {
        Self { user: None, groups: Vec::new(), rights: ALL.clone(), meta: None, expires_at: None, origin: Origin::Open }
    }

    /// Somebody without a name who may do nothing.
    pub fn nobody() -> Self {
        Self::anybody().with_rights(Rights::default())
    }

    /// The same with these rights.
    #[must_use]
    pub fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = Arc::new(rights);
        self
    }

    /// The same in these groups.
    #[must_use]
    pub fn with_groups(mut self, groups: impl IntoIterator<Item = String>) -> Self {
        self.groups = groups.into_iter().collect();
        self
    }

    /// True for one who may do everything.
    pub fn is_admin(&self) -> bool {
        self.rights.admin
    }

    /// Whether it may hear all that this pattern names: its own topic, those of its groups, and what its rights say.
    pub fn may_subscribe(&self, asked: &Pattern) -> bool {
        self.rights.may_subscribe(asked) || self.heard().any(|own| own.covers(asked))
    }

    /// Whether it may hear this topic.
    pub fn may_hear(&self, topic: &Topic) -> bool {
        self.may_subscribe(&Pattern::Exact(topic.clone()))
    }

    /// Whether it may publish into this topic: its own one, and what its rights say.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.rights.may_publish(topic) || self.own_topic().is_some_and(|own| own == *topic)
    }

    /// Whether it may know of the connections of a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.is_admin() || self.groups.iter().any(|own| own == group)
    }

    /// True for this user, and for an admin.
    pub fn is(&self, user: Option<&str>) -> bool {
        self.is_admin() || (self.user.is_some() && self.user.as_deref() == user)
    }

    /// All that it may hear: what a stream hears that names nothing.
    pub fn readable(&self) -> Vec<Pattern> {
        if self.is_admin() {
            return vec![Pattern::any()];
        }
        self.rights.subscribe.iter().cloned().chain(self.heard()).collect()
    }

    /// True once it is no caller any more: expired, or its token revoked.
    pub fn ended(&self, clock: &Clock) -> bool {
        let revoked = matches!(&self.origin, Origin::Static { revoked, .. } if revoked.is_cancelled());
        revoked || self.expires_at.is_some_and(|at| at <= clock.now_ms())
    }

    /// Time until the identity expires; `None` if it does not expire.
    pub fn left(&self, clock: &Clock) -> Option<std::time::Duration> {
        self.expires_at.map(|at| clock.until(at))
    }

    /// Resolves when the identity expires or its token is revoked, also after a jump of the wall clock.
    pub fn end(&self, clock: &Clock) -> impl Future<Output = ()> + Send + use<> {
        let revoked = match &self.origin {
            Origin::Static { revoked, .. } => Some(revoked.clone()),
            Origin::Open | Origin::Claims => None,
        };
        let expiry = self.expires_at.map(|at| clock.reached(at));
        async move {
            let revoked = async {
                match revoked {
                    Some(revoked) => revoked.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let expired = async {
                match expiry {
                    Some(expiry) => expiry.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { () = revoked => {} () = expired => {} }
        }
    }

    /// The name of the static token that it came with, directly or by way of a ticket.
    pub fn token_name(&self) -> Option<&Arc<str>> {
        match &self.origin {
            Origin::Static { name, .. } => Some(name),
            Origin::Open | Origin::Claims => None,
        }
    }

    /// The scope of the caller's idempotency keys: the user, else the token. Callers with neither share one scope.
    /// User names have no white space, so a user cannot collide with `token NAME`.
    pub(crate) fn publisher(&self) -> String {
        match (&self.user, self.token_name()) {
            (Some(user), _) => user.clone(),
            (None, Some(token)) => format!("token {token}"),
            (None, None) => String::new(),
        }
    }

    fn own_topic(&self) -> Option<Topic> {
        self.user.as_deref().and_then(|user| Topic::user(user).ok())
    }

    fn heard(&self) -> impl Iterator<Item = Pattern> {
        let groups = self.groups.iter().filter_map(|group| Topic::group(group).ok());
        self.own_topic().into_iter().chain(groups).map(Pattern::Exact)
    }
}
