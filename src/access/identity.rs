//! A caller.

use super::Rights;

/// Who is calling, and what they may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; `None` for somebody who gave no name.
    pub user: Option<String>,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// What the user may do.
    pub rights: Rights,
}

// === impl Identity ===

impl Identity {
    /// A known user who may do everything.
    pub fn user(id: impl Into<String>) -> Self {
        Self { user: Some(id.into()), ..Self::anybody() }
    }

    /// Somebody without a name who may do everything.
    pub fn anybody() -> Self {
        Self { rights: Rights::all(), ..Self::default() }
    }

    /// The scope of this caller's idempotency keys.
    pub(crate) fn publisher(&self) -> String {
        self.user.clone().unwrap_or_default()
    }
}
