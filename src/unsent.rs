//! Responses that wait for their clients: the slowest permitted client, and the bytes that may wait in the whole node.
//!
//! One rule holds for every response on every protocol. While its bytes wait, a client must read at least
//! [`LEAST_RATE`] bytes per second, averaged over the write deadline; otherwise the response ends. The waiting bytes of
//! all responses are counted. Above the bound, the response that has been blocked longest ends first; its bytes count
//! until they are freed. A response counts nothing before it is built, so large ones are built a few at a time, while
//! there is room ([`Unsent::make`]).
//!
//! Each writer of responses keeps an [`Account`]: the transport of HTTP/1.1 one per connection, HTTP/2 one per stream
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
use futures::task::AtomicWaker;
use slab::Slab;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until, timeout},
};

mod pace;
mod share;

pub use self::{
    pace::{Pace, least},
    share::Share,
};
use crate::metrics::Rows;

/// Minimum permitted rate of a client, in bytes per second. A modem of 1995 is three times as fast.
pub const LEAST_RATE: u64 = 512;
/// Permits to build responses, see [`Size`]. The bytes of a response are not counted before it is built.
const MAKING: u32 = 32;
/// The time of an account whose client reads all bytes that are there.
const NOT_STUCK: u64 = u64::MAX;

/// The waiting responses of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unsent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    deadline: Duration,
    /// Bytes that a client must read in each deadline.
    least: u64,
    max_bytes: usize,
    /// Origin of the times of accounts.
    began: Instant,
    bytes: AtomicUsize,
    /// Bytes of ended responses that are not freed yet.
    leaving: AtomicUsize,
    /// Notified when there is room again.
    freed: Notify,
    entries: Mutex<Slab<Arc<Entry>>>,
    ended: [AtomicU64; Why::ALL.len()],
    making: Arc<Semaphore>,
    /// Requests whose response is not built yet.
    begun: AtomicUsize,
}

/// Counts a request as being answered until it is dropped.
#[derive(Debug)]
pub struct Begun(Unsent);

/// The permit to build a large response; keep it until the response is built.
#[derive(Debug)]
pub struct Making(#[expect(dead_code, reason = "it is returned on drop")] OwnedSemaphorePermit);

/// The highest size of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Tens of kilobytes: up to 32 are built at the same time.
    Small,
    /// Megabytes: one is built at a time, with some small ones beside it.
    Large,
}

/// There is no room for another response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The part of an account that other accounts see.
#[derive(Debug)]
struct Entry {
    /// Start of the period in which the client has read too little, in milliseconds after the origin.
    stuck_since: AtomicU64,
    bytes: AtomicUsize,
    share: Mutex<Option<Arc<Share>>>,
    evicted: AtomicBool,
    /// Its bytes when it was ended.
    leaving: AtomicUsize,
    owner: AtomicWaker,
}

/// The reason why a response ends before its client has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The client reads more slowly than the least rate.
    WriteDeadline,
    /// Too many bytes wait in the node, and this response has been blocked longest.
    UnsentBytes,
}

/// The account of one response.
#[derive(Debug)]
pub struct Account {
    unsent: Unsent,
    entry: Arc<Entry>,
    key: usize,
    pace: Pace,
    /// The shared copy that it sends.
    shares: Option<usize>,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Why ===

impl Why {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::WriteDeadline, Self::UnsentBytes];

    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WriteDeadline => "write_deadline",
            Self::UnsentBytes => "unsent_bytes",
        }
    }
}

// === impl Unsent ===

impl Unsent {
    /// Limits: the write deadline, and the maximum number of waiting bytes.
    pub fn new(deadline: Duration, max_bytes: usize) -> Self {
        Self(Arc::new(Inner {
            deadline,
            least: least(deadline),
            max_bytes,
            began: Instant::now(),
            bytes: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            freed: Notify::new(),
            entries: Mutex::default(),
            ended: Default::default(),
            making: Arc::new(Semaphore::new(MAKING as usize)),
            begun: AtomicUsize::new(0),
        }))
    }

    /// The account of a new response.
    pub fn account(&self) -> Account {
        let entry = Arc::new(Entry {
            stuck_since: AtomicU64::new(NOT_STUCK),
            bytes: AtomicUsize::new(0),
            share: Mutex::default(),
            evicted: AtomicBool::new(false),
            leaving: AtomicUsize::new(0),
            owner: AtomicWaker::new(),
        });
        let key = self.entries().insert(entry.clone());
        Account { unsent: self.clone(), entry, key, pace: Pace::default(), shares: None, timer: None }
    }

    /// Waits for the turn and for room to build a large response.
    ///
    /// # Errors
    /// [`Full`] after half of the write deadline, so that the rejection is sent before blocked responses end.
    pub async fn make(&self, size: Size) -> Result<Making, Full> {
        timeout(self.0.deadline / 2, self.turn(size)).await.map_err(|_| Full)
    }

    /// Waits without a limit: for the next part of a response that has already begun.
    pub async fn turn(&self, size: Size) -> Making {
        let parts = match size {
            Size::Small => 1,
            Size::Large => MAKING / 4 * 3,
        };
        let permit = self.0.making.clone().acquire_many_owned(parts).await.expect("it is never closed");
        loop {
            let freed = self.0.freed.notified();
            if self.bytes() <= self.0.max_bytes {
                return Making(permit);
            }
            freed.await;
        }
    }

    /// Counts a request as being answered.
    pub fn begin(&self) -> Begun {
        self.0.begun.fetch_add(1, Relaxed);
        Begun(self.clone())
    }

    /// The number of requests that are being answered.
    pub fn begun(&self) -> usize {
        self.0.begun.load(Relaxed)
    }

    /// One copy of these bytes for all responses that send them.
    pub fn share(&self, bytes: Bytes) -> Arc<Share> {
        self.grow(bytes.len());
        Arc::new(Share::new(self.clone(), bytes))
    }

    /// The waiting bytes of all responses.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Relaxed)
    }

    /// Maximum number of waiting bytes.
    pub fn max_bytes(&self) -> usize {
        self.0.max_bytes
    }

    /// Time that a client may read too slowly.
    pub fn deadline(&self) -> Duration {
        self.0.deadline
    }

    /// Bytes that a client must read in each deadline.
    pub fn least(&self) -> u64 {
        self.0.least
    }

    /// Number of responses and connections that were ended for this reason.
    pub fn ended(&self, why: Why) -> u64 {
        self.0.ended[why as usize].load(Relaxed)
    }

    /// Adds the metrics of waiting and ended responses.
    pub fn metrics(&self, rows: &mut Rows) {
        rows.gauge("unsent_bytes", "Bytes of responses that wait for their clients.", self.bytes() as u64);
        rows.gauge("unsent_bytes_limit", "Maximum of these bytes (max_unsent_bytes).", self.max_bytes() as u64);
        let help = "2 of whose answer nothing is there yet./HTTP/2 requests whose response has not begun./2 of whose answer nothing is there yet.";
        rows.gauge("http2_requests_answering", help, self.begun() as u64);
        let ended = Why::ALL.map(|why| (why.as_str(), self.ended(why)));
        let help = "Responses and connections that ended because their clients read too slowly, by reason.";
        rows.counters("answers_ended", help, "reason", ended);
    }

    /// Counts a response that other code ended.
    pub fn count(&self, why: Why) {
        self.0.ended[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts more bytes, and ends responses if there are too many.
    pub fn grow(&self, bytes: usize) {
        let waiting = self.0.bytes.fetch_add(bytes, Relaxed) + bytes;
        if bytes > 0 && waiting.saturating_sub(self.0.leaving.load(Relaxed)) > self.0.max_bytes {
            self.evict();
        }
    }

    /// Counts fewer bytes.
    pub fn shrink(&self, bytes: usize) {
        let before = self.0.bytes.fetch_sub(bytes, Relaxed);
        if before > self.0.max_bytes && before - bytes <= self.0.max_bytes {
            self.0.freed.notify_waiters();
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Slab<Arc<Entry>>> {
        self.0.entries.lock().expect("no code that holds the lock panics")
    }

    /// Ends the responses that have been blocked longest until there is some room: one search ends several.
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
        for (_, key) in oldest {
            if self.bytes().saturating_sub(self.0.leaving.load(Relaxed)) <= enough {
                return;
            }
            let entry = &entries[key];
            entry.evicted.store(true, Release);
            let bytes = entry.bytes.load(Acquire);
            entry.leaving.store(bytes, Release);
            self.0.leaving.fetch_add(bytes, Relaxed);
            entry.leave();
            entry.owner.wake();
        }
    }
}

// === impl Begun ===

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.begun.fetch_sub(1, Relaxed);
    }
}

// === impl Entry ===

impl Entry {
    /// Releases the shared copy.
    fn leave(&self) {
        if let Some(share) = self.share.lock().expect("no code that holds the lock panics").take() {
            share.left();
        }
    }
}

// === impl Account ===

impl Account {
    /// Sets the number of waiting bytes, without those of a shared copy.
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

    /// The client reads nothing at the moment.
    pub fn blocked(&mut self, now: Instant) {
        if self.pace.blocked(now) {
            self.publish(now);
        }
    }

    /// The client has read this number of bytes.
    pub fn took(&mut self, bytes: usize, now: Instant) {
        if self.pace.took(bytes, self.unsent.0.least, now) {
            self.publish(now);
        }
    }

    /// The client has read everything.
    pub fn clear(&mut self) {
        if self.pace.clear() {
            self.entry.stuck_since.store(NOT_STUCK, Relaxed);
        }
    }

    /// Ready when the response must end.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Why> {
        self.entry.owner.register(cx.waker());
        if self.entry.evicted.load(Acquire) {
            self.unsent.count(Why::UnsentBytes);
            return Poll::Ready(Why::UnsentBytes);
        }
        let Some(since) = self.pace.since() else { return Poll::Pending };
        let due = since + self.unsent.0.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // A timer with an earlier time is set again when it fires, not each time that the client reads.
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
        // The lock was held before: no eviction is running.
        self.unsent.0.leaving.fetch_sub(self.entry.leaving.swap(0, AcqRel), Relaxed);
        self.unsent.shrink(self.entry.bytes.swap(0, AcqRel));
        self.entry.leave();
    }
}

#[cfg(test)]
mod tests;
