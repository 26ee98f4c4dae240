//! Answers that wait for their clients: how slow a client may be, and how many bytes may wait in the whole node.
//!
//! One rule for every answer on every protocol. While bytes of an answer wait, its client takes at least
//! [`LEAST_RATE`] bytes per second, averaged over the write deadline; otherwise the answer ends. The bytes that wait are
//! counted over all answers. Above the bound, the answer that has been stuck for the longest time ends first.
//!
//! Whatever writes an answer keeps an [`Account`]: the transport of HTTP/1.1 one per connection, HTTP/2 one per stream
//! and one for the socket below. The owner of an account ends its answer when [`Account::poll_end`] is ready. Streams
//! of the hub apply the same [`Pace`] in their shard.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, Sleep, sleep_until},
};

mod pace;
mod share;

pub use self::{
    pace::{Pace, least},
    share::Share,
};

/// A client that is slower than this is stuck, in bytes per second. A modem of 1995 takes three times as much.
pub const LEAST_RATE: u64 = 512;
/// Large answers that are made at the same time. Until an answer is made, its bytes are not counted.
const MAKING: usize = 2;
/// The time of an account whose client takes what there is.
const NOT_STUCK: u64 = u64::MAX;

/// The answers of a node that wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unsent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    deadline: Duration,
    /// Bytes that a client takes in each deadline.
    least: u64,
    max_bytes: usize,
    /// Times of accounts count from here.
    began: Instant,
    bytes: AtomicUsize,
    entries: Mutex<Slab<Arc<Entry>>>,
    ended: [AtomicU64; Why::ALL.len()],
    making: Semaphore,
}

/// What other accounts see of one.
#[derive(Debug)]
struct Entry {
    /// Milliseconds after the beginning since when the client has not taken enough.
    stuck_since: AtomicU64,
    bytes: AtomicUsize,
    share: Mutex<Option<Arc<Share>>>,
    evicted: AtomicBool,
    owner: AtomicWaker,
}

/// Why an answer ends before its client has taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The client takes less than the least rate.
    WriteDeadline,
    /// Too many bytes wait in the node, and this answer is stuck for the longest time.
    UnsentBytes,
}

/// The part of one answer.
#[derive(Debug)]
pub struct Account {
    unsent: Unsent,
    entry: Arc<Entry>,
    key: usize,
    pace: Pace,
    /// Which copy it shares.
    shares: Option<usize>,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Why ===

impl Why {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::WriteDeadline, Self::UnsentBytes];

    /// Its word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WriteDeadline => "write_deadline",
            Self::UnsentBytes => "unsent_bytes",
        }
    }
}

// === impl Unsent ===

impl Unsent {
    /// With this write deadline, and with so many bytes that may wait.
    pub fn new(deadline: Duration, max_bytes: usize) -> Self {
        Self(Arc::new(Inner {
            deadline,
            least: least(deadline),
            max_bytes,
            began: Instant::now(),
            bytes: AtomicUsize::new(0),
            entries: Mutex::default(),
            ended: Default::default(),
            making: Semaphore::new(MAKING),
        }))
    }

    /// The part of an answer that begins to wait.
    pub fn account(&self) -> Account {
        let entry = Arc::new(Entry {
            stuck_since: AtomicU64::new(NOT_STUCK),
            bytes: AtomicUsize::new(0),
            share: Mutex::default(),
            evicted: AtomicBool::new(false),
            owner: AtomicWaker::new(),
        });
        let key = self.entries().insert(entry.clone());
        Account { unsent: self.clone(), entry, key, pace: Pace::default(), shares: None, timer: None }
    }

    /// Permission to make a large answer, to be kept until it is made.
    pub async fn make(&self) -> SemaphorePermit<'_> {
        self.0.making.acquire().await.expect("nobody closes it")
    }

    /// One copy of these bytes for all answers that send them.
    pub fn share(&self, bytes: Bytes) -> Arc<Share> {
        self.grow(bytes.len());
        Arc::new(Share::new(self.clone(), bytes))
    }

    /// Bytes that wait in all answers.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }

    /// Most bytes that may wait.
    pub fn max_bytes(&self) -> usize {
        self.0.max_bytes
    }

    /// How long a client may take too little.
    pub fn deadline(&self) -> Duration {
        self.0.deadline
    }

    /// Bytes that a client takes in each deadline, at the least.
    pub fn least(&self) -> u64 {
        self.0.least
    }

    /// Answers and connections that were ended for this reason.
    pub fn ended(&self, why: Why) -> u64 {
        self.0.ended[why as usize].load(Relaxed)
    }

    /// Counts an answer that was ended elsewhere.
    pub fn count(&self, why: Why) {
        self.0.ended[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts more bytes, and ends answers where these are too many.
    pub fn grow(&self, bytes: usize) {
        let waiting = self.0.bytes.fetch_add(bytes, Relaxed) + bytes;
        if bytes > 0 && waiting > self.0.max_bytes {
            self.evict();
        }
    }

    /// Counts fewer bytes.
    pub fn shrink(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Relaxed);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Slab<Arc<Entry>>> {
        self.0.entries.lock().expect("no code that holds the lock panics")
    }

    /// Ends the answers that are stuck for the longest time until there is some room again: one search for several.
    fn evict(&self) {
        let enough = self.0.max_bytes - self.0.max_bytes / 8;
        let entries = self.entries();
        let stuck = |(key, entry): (usize, &Arc<Entry>)| {
            let since = entry.stuck_since.load(Relaxed);
            let evictable = since != NOT_STUCK && entry.bytes.load(Relaxed) > 0 && !entry.evicted.load(Relaxed);
            evictable.then_some((since, key))
        };
        let mut oldest: Vec<(u64, usize)> = entries.iter().filter_map(stuck).collect();
        oldest.sort_unstable();
        // A shared copy is counted until the last answer that sends it is gone, which takes a moment.
        let mut leaving = 0;
        for (_, key) in oldest {
            if self.bytes().saturating_sub(leaving) <= enough {
                return;
            }
            let entry = &entries[key];
            entry.evicted.store(true, Release);
            self.shrink(entry.bytes.swap(0, AcqRel));
            leaving += entry.leave();
            entry.owner.wake();
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Gives the shared copy back; how many bytes that makes free.
    fn leave(&self) -> usize {
        let share = self.share.lock().expect("no code that holds the lock panics").take();
        share.map_or(0, |share| share.left())
    }
}

// === impl Account ===

impl Account {
    /// So many bytes wait from now on, beside those of a shared copy.
    pub fn set(&mut self, bytes: usize, share: Option<Arc<Share>>) {
        if self.entry.evicted.load(Acquire) {
            return;
        }
        if self.shares != share.as_ref().map(|share| Arc::as_ptr(share) as usize) {
            self.shares = share.as_ref().map(|share| Arc::as_ptr(share) as usize);
            self.entry.leave();
            if let Some(share) = share {
                share.joined();
                *self.entry.share.lock().expect("no code that holds the lock panics") = Some(share);
            }
        }
        let before = self.entry.bytes.swap(bytes, AcqRel);
        if bytes > before {
            self.unsent.grow(bytes - before);
        } else {
            self.unsent.shrink(before - bytes);
        }
    }

    /// The client does not take what there is for it.
    pub fn blocked(&mut self, now: Instant) {
        if self.pace.blocked(now) {
            self.publish(now);
        }
    }

    /// The client has taken so many bytes.
    pub fn took(&mut self, bytes: usize, now: Instant) {
        if self.pace.took(bytes, self.unsent.0.least, now) {
            self.publish(now);
        }
    }

    /// The client has taken all that there was.
    pub fn clear(&mut self) {
        if self.pace.clear() {
            self.entry.stuck_since.store(NOT_STUCK, Relaxed);
        }
    }

    /// Ready when the answer is to end.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Why> {
        self.entry.owner.register(cx.waker());
        if self.entry.evicted.load(Acquire) {
            self.unsent.count(Why::UnsentBytes);
            return Poll::Ready(Why::UnsentBytes);
        }
        let Some(since) = self.pace.since() else { return Poll::Pending };
        let due = since + self.unsent.0.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // A timer that was set for an earlier time is set again when it has come, not each time that bytes were taken.
        ready!(timer.as_mut().poll(cx));
        while Instant::now() < due {
            timer.as_mut().reset(due);
            ready!(timer.as_mut().poll(cx));
        }
        self.unsent.count(Why::WriteDeadline);
        Poll::Ready(Why::WriteDeadline)
    }

    fn publish(&self, since: Instant) {
        let since = since.saturating_duration_since(self.unsent.0.began).as_millis();
        self.entry.stuck_since.store(u64::try_from(since).unwrap_or(NOT_STUCK - 1), Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.unsent.entries().remove(self.key);
        self.unsent.shrink(self.entry.bytes.swap(0, AcqRel));
        self.entry.leave();
    }
}

#[cfg(test)]
mod tests;
