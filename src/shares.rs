//! Limits how much of a pool one owner may hold, so that one user cannot take everything.
//!
//! A pool is a limited resource of the node: task slots, streams to remotes, relays, bytes. An owner is a user; all
//! requests without a user belong to one owner. The rule ([`Share`]) is the same for every pool:
//!
//! - while other owners hold or request a part of a pool, one owner holds at most its share;
//! - a single owner may also hold half of the rest. The remainder is a reserve: an owner's part is never taken back, so
//!   without a reserve the next owner would wait until the first owner's work ends.
//!
//! [`Pool`] counts a pool by owner. [`Pool::take`] returns immediately, [`Pool::acquire`] waits for its turn.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::oneshot;

use crate::metrics::Rows;

#[cfg(test)]
mod tests;

/// A user; `None` means all requests without a user.
pub type Owner = Option<Arc<str>>;

/// The percentage of each pool that one owner may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

/// A limited amount of a resource, counted by owner. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    total: u64,
    state: Mutex<State>,
    /// Requests that were denied or delayed because the owner had its share.
    refused: AtomicU64,
}

#[derive(Default)]
struct State {
    held: HashMap<Owner, u64>,
    sum: u64,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    owner: Owner,
    share: Share,
    amount: u64,
    granted: oneshot::Sender<Held>,
}

/// A part of a pool; returned to the pool on drop.
pub struct Held {
    pool: Pool,
    owner: Owner,
    amount: u64,
}

/// Why a request to a pool was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The pool is used up.
    Pool,
    /// The owner already has its share.
    Share,
}

/// The current figures of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Total amount.
    pub total: u64,
    /// Amount that is held.
    pub held: u64,
    /// Number of owners that hold a part.
    pub owners: u64,
    /// Requests that wait for a part.
    pub waiting: u64,
    /// Requests that were denied or delayed because the owner had its share.
    pub refused: u64,
}

/// Adds the number of times that an owner had its share of a pool.
pub fn count_refused(rows: &mut Rows, pool: &'static str, count: u64) {
    rows.counters(
        "shares_refused",
        "Times that a user had its share (share_percent), by pool.",
        "pool",
        [(pool, count)],
    );
}

// === impl Share ===

impl Share {
    /// One owner may hold everything.
    pub const WHOLE: Self = Self(100);

    /// A share in percent, from 1 to 100.
    pub fn percent(percent: u8) -> Self {
        Self(percent.clamp(1, 100))
    }

    /// Maximum amount of `total` that one owner may hold; `alone` is true if no other owner holds or requests a part.
    pub fn most(self, total: u64, alone: bool) -> u64 {
        let percent = u64::from(self.0);
        let percent = if alone { u64::midpoint(percent, 100) } else { percent };
        if percent >= 100 {
            return total;
        }
        // Divide first if the product would overflow.
        let most = total.checked_mul(percent).map_or(total / 100 * percent, |product| product / 100);
        most.max(1).min(total)
    }
}

// === impl Pool ===

impl Pool {
    /// A pool with this total amount.
    pub fn new(total: u64) -> Self {
        Self(Arc::new(Inner { total, state: Mutex::default(), refused: AtomicU64::new(0) }))
    }

    /// Takes an amount without waiting.
    ///
    /// # Errors
    /// When the pool or the owner's share of it is used up.
    pub fn take(&self, share: Share, owner: &Owner, amount: u64) -> Result<Held, Denied> {
        let mut state = self.state();
        match state.permits(self.0.total, share, owner, amount) {
            Ok(()) => Ok(self.grant(&mut state, owner.clone(), amount)),
            Err(denied) => {
                if denied == Denied::Share {
                    self.0.refused.fetch_add(1, Relaxed);
                }
                Err(denied)
            }
        }
    }

    /// Waits until the amount is available and takes it. Requests are served in order, except that a request whose
    /// owner has its share does not block other owners. An amount above the owner's share is reduced to that share.
    ///
    /// Cancel safe: an amount that was granted meanwhile is returned to the pool.
    pub async fn acquire(&self, share: Share, owner: &Owner, amount: u64) -> Held {
        let granted = {
            let mut state = self.state();
            let amount = amount.min(share.most(self.0.total, false));
            let first = state.waiting.is_empty();
            match state.permits(self.0.total, share, owner, amount) {
                Ok(()) if first => return self.grant(&mut state, owner.clone(), amount),
                Err(Denied::Share) => drop(self.0.refused.fetch_add(1, Relaxed)),
                _ => {}
            }
            let (granted, wait) = oneshot::channel();
            state.waiting.push_back(Waiting { owner: owner.clone(), share, amount, granted });
            self.serve(&mut state);
            wait
        };
        granted.await.expect("the pool lives as long as this borrow of it, and drops no request")
    }

    /// The current figures.
    pub fn figures(&self) -> Figures {
        let state = self.state();
        Figures {
            total: self.0.total,
            held: state.sum,
            owners: state.held.len() as u64,
            waiting: state.waiting.len() as u64,
            refused: self.0.refused.load(Relaxed),
        }
    }

    fn grant(&self, state: &mut State, owner: Owner, amount: u64) -> Held {
        *state.held.entry(owner.clone()).or_insert(0) += amount;
        state.sum += amount;
        Held { pool: self.clone(), owner, amount }
    }

    /// Grants waiting requests as far as the pool permits.
    fn serve(&self, state: &mut State) {
        let mut at = 0;
        while at < state.waiting.len() {
            let Waiting { owner, share, amount, granted } = &state.waiting[at];
            if granted.is_closed() {
                state.waiting.remove(at);
                continue;
            }
            match state.permits(self.0.total, *share, owner, *amount) {
                Ok(()) => {
                    let Some(waiting) = state.waiting.remove(at) else { return };
                    let held = self.grant(state, waiting.owner, waiting.amount);
                    if let Err(mut unwanted) = waiting.granted.send(held) {
                        // Return the amount here: dropping `Held` would take the lock again.
                        state.return_amount(&unwanted.owner, std::mem::take(&mut unwanted.amount));
                    }
                }
                // Stop here, so that later small requests cannot starve a large one.
                Err(Denied::Pool) => return,
                Err(Denied::Share) => at += 1,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.figures()).finish()
    }
}

// === impl State ===

impl State {
    fn permits(&self, total: u64, share: Share, owner: &Owner, amount: u64) -> Result<(), Denied> {
        if self.sum.saturating_add(amount) > total {
            return Err(Denied::Pool);
        }
        let own = self.held.get(owner).copied().unwrap_or(0);
        let alone = self.sum == own && self.waiting.iter().all(|waiting| waiting.owner == *owner);
        if own.saturating_add(amount) > share.most(total, alone) { Err(Denied::Share) } else { Ok(()) }
    }

    fn return_amount(&mut self, owner: &Owner, amount: u64) {
        self.sum -= amount;
        if let Some(held) = self.held.get_mut(owner) {
            *held -= amount;
            if *held == 0 {
                self.held.remove(owner);
            }
        }
    }
}

// === impl Held ===

impl Held {
    /// Keeps at most `amount` and returns the rest to the pool.
    pub fn shrink(&mut self, amount: u64) {
        let back = self.amount.saturating_sub(amount);
        if back > 0 {
            self.amount -= back;
            let pool = self.pool.clone();
            let mut state = pool.state();
            state.return_amount(&self.owner, back);
            pool.serve(&mut state);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("owner", &self.owner).field("amount", &self.amount).finish_non_exhaustive()
    }
}
