//! A caller.

use std::sync::{Arc, LazyLock};

use tokio_util::sync::CancellationToken;

use super::Rights;
use crate::{
    clock::Clock,
    event::Meta,
    topic::{Pattern, Topic},
};

/// The caller of a request, and its rights. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user; `None` for a caller without a name, which only open mode permits.
    pub user: Option<String>,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// Rights of the user.
    pub rights: Arc<Rights>,
    /// Metadata of the user; `None` if the client may set them itself.
    pub meta: Option<Meta>,
    /// Time when the identity expires, in Unix milliseconds.
    pub expires_at: Option<u64>,
    pub(super) origin: Origin,
}

/// How the caller was authenticated.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Open mode, without a check.
    Open,
    /// A static token; fires when it is revoked.
    Static { name: Arc<str>, digest: [u8; 32], revoked: CancellationToken },
    /// Claims that another issuer has signed.
    Claims,
}

static ALL: LazyLock<Arc<Rights>> = LazyLock::new(|| Arc::new(Rights::all()));

// === impl Identity ===

impl Identity {
    /// A named user with all rights.
    pub fn user(id: impl Into<String>) -> Self {
        Self { user: Some(id.into()), ..Self::anonymous() }
    }

    /// A caller without a name, with all rights.
    pub fn anonymous() -> Self {
        Self { user: None, groups: Vec::new(), rights: ALL.clone(), meta: None, expires_at: None, origin: Origin::Open }
    }

    /// A caller without a name and without rights.
    pub fn without_rights() -> Self {
        Self::anonymous().with_rights(Rights::default())
    }

    /// Replaces the rights.
    #[must_use]
    pub fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = Arc::new(rights);
        self
    }

    /// Replaces the groups.
    #[must_use]
    pub fn with_groups(mut self, groups: impl IntoIterator<Item = String>) -> Self {
        self.groups = groups.into_iter().collect();
        self
    }

    /// True if the caller may do everything.
    pub fn is_admin(&self) -> bool {
        self.rights.admin
    }

    /// True if the caller may subscribe to all topics of this pattern: its own topic, those of its groups, and those of
    /// its rights.
    pub fn may_subscribe(&self, asked: &Pattern) -> bool {
        self.rights.may_subscribe(asked) || self.own_topics().any(|own| own.covers(asked))
    }

    /// True if the caller may receive the events of this topic.
    pub fn may_receive(&self, topic: &Topic) -> bool {
        self.may_subscribe(&Pattern::Exact(topic.clone()))
    }

    /// True if the caller may publish into this topic: its own topic, and those of its rights.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.rights.may_publish(topic) || self.own_topic().is_some_and(|own| own == *topic)
    }

    /// True if the caller may see the connections of a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.is_admin() || self.groups.iter().any(|own| own == group)
    }

    /// True for this user, and for an admin.
    pub fn is(&self, user: Option<&str>) -> bool {
        self.is_admin() || (self.user.is_some() && self.user.as_deref() == user)
    }

    /// All patterns that the caller may subscribe to: the default of a stream without topics.
    pub fn readable(&self) -> Vec<Pattern> {
        if self.is_admin() {
            return vec![Pattern::any()];
        }
        self.rights.subscribe.iter().cloned().chain(self.own_topics()).collect()
    }

    /// True if the identity has expired or its token was revoked.
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

    /// The name of the static token of the caller, which it used directly or through a ticket.
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

    fn own_topics(&self) -> impl Iterator<Item = Pattern> {
        let groups = self.groups.iter().filter_map(|group| Topic::group(group).ok());
        self.own_topic().into_iter().chain(groups).map(Pattern::Exact)
    }
}
