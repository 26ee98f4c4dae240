//! The errors of relays, by what the caller can do about them.

use crate::{durable::Refused, journal::Unavailable, json::FieldError};

/// Why a relay was not created, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fix the spec.
    #[error("the relay has {} mistakes, the first: {}", .0.len(), FieldError::first(.0))]
    Invalid(Vec<FieldError>),
    /// There is no such relay any more.
    #[error("no relay `{0}`; it may have been deleted, or has left after its end (`relay.retention_ms`)")]
    Unknown(String),
    /// Try again later.
    #[error(
        "as many relays are running as this node permits ({0}, `relay.max_relays`), or their specs fill the room for them; delete \
         some, or try again later"
    )]
    Full(usize),
    /// The user already has its share of the relays; delete some.
    #[error("your relays are as many, or as large, as those of one user may be (`limits.share_percent`); delete some")]
    Share,
    /// Try again soon.
    #[error("the node has just started and still reads the relays that it kept; try again soon")]
    Starting,
    /// Try another node, or this one after its restart.
    #[error("the node is stopping")]
    Stopping,
    /// Try again later.
    #[error(transparent)]
    Journal(#[from] Unavailable),
}

// === impl Error ===

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Starting => Self::Starting,
            Refused::Stopping => Self::Stopping,
        }
    }
}
