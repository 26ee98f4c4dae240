//! All subscribers of a measurement: some threads, each with its share of the sockets.
//!
//! A thread reads its sockets in turn into one buffer, and keeps its own figures. Figures that others need while it
//! runs are atomics. There is no lock and no timer per subscriber.

use std::{
    cell::RefCell,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    sync::Semaphore,
    task::LocalSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Clock, nanos, pause},
    report::{histogram, record},
    subscriber::{Subscriber, Subscription},
    target::Target,
    usage::thread_cpu,
};

/// Connections that one thread opens at the same time; more would only wait in the kernel.
const CONNECTING: usize = 64;

/// Limit for connecting all subscribers.
const CONNECT_TIME: Duration = Duration::from_mins(1);

/// Deliveries count as complete when none has come for this time.
const SILENCE: Duration = Duration::from_secs(5);

/// Running subscribers.
pub(crate) struct SubscriberPool {
    workers: Vec<JoinHandle<Results>>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    count: usize,
    clock: Clock,
}

/// Figures of all threads while they run.
#[derive(Debug, Default)]
struct Progress {
    established: AtomicUsize,
    /// The time of the last one that was established.
    established_at: AtomicU64,
    /// Events that arrived for the first time.
    delivered: AtomicU64,
    /// The time of the last of them.
    delivered_at: AtomicU64,
    /// Events with an earlier planned time do not count for latency and rate.
    measure_from: AtomicU64,
    /// The first error.
    error: Mutex<Option<String>>,
}

/// The figures of a thread, or of all threads.
#[derive(Debug)]
pub(crate) struct Results {
    /// The subscribers, with their numbers.
    pub subscribers: Vec<(usize, Subscriber)>,
    /// From the planned time to the reading, in microseconds, of events that count.
    pub latency: Histogram<u64>,
    /// CPU time of the thread, or of the busiest one.
    pub cpu: Duration,
}

/// A thread that reads for its subscribers.
struct Worker {
    addr: SocketAddr,
    clock: Clock,
    progress: Arc<Progress>,
    connecting: Semaphore,
    state: RefCell<State>,
}

/// The state that the tasks of a worker share.
struct State {
    results: Results,
    buffer: Box<[u8]>,
}

// === impl SubscriberPool ===

impl SubscriberPool {
    /// Starts to connect `count` subscribers; `subscription` gives the request of each by its number.
    ///
    /// # Errors
    /// When a thread cannot start.
    pub(crate) fn start(
        target: &Target,
        count: usize,
        clock: Clock,
        subscription: impl Fn(usize) -> Subscription + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let subscription = Arc::new(subscription);
        let (progress, stop) = (Arc::<Progress>::default(), CancellationToken::new());
        let (addr, threads) = (target.addr, target.readers);
        let start = |thread: usize| {
            let (subscription, progress, stop) = (subscription.clone(), progress.clone(), stop.clone());
            let run = move || {
                let subscriptions = (thread..count).step_by(threads).map(|number| (number, subscription(number)));
                Worker::new(addr, clock, progress).run(subscriptions, &stop)
            };
            let started = std::thread::Builder::new().name(format!("reader-{thread}")).spawn(run);
            started.map_err(|error| format!("a thread for subscribers cannot start: {error}"))
        };
        let workers = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Self { workers, progress, stop, count, clock })
    }

    /// Waits until all are established; gives the time of the last one.
    ///
    /// # Errors
    /// When one cannot connect, or it takes too long.
    pub(crate) fn wait_established(&self) -> Result<u64, String> {
        let until = self.clock.now() + nanos(CONNECT_TIME);
        loop {
            self.check()?;
            let established = self.progress.established.load(Relaxed);
            if established == self.count {
                return Ok(self.progress.established_at.load(Relaxed));
            }
            if self.clock.now() > until {
                return Err(format!(
                    "only {established} of {} subscribers were connected in {CONNECT_TIME:?}",
                    self.count
                ));
            }
            pause(Duration::from_millis(2));
        }
    }

    /// Waits for this number of first deliveries, at most until `limit`, and not longer than [`SILENCE`] without any.
    ///
    /// # Errors
    /// The first error of a subscriber.
    pub(crate) fn wait_delivered(&self, count: u64, limit: Duration) -> Result<(), String> {
        let begun = self.clock.now();
        while self.delivered() < count && self.clock.now() < begun + nanos(limit) {
            self.check()?;
            if self.clock.now() > self.delivered_at().max(begun) + nanos(SILENCE) {
                break;
            }
            pause(Duration::from_millis(2));
        }
        self.check()
    }

    /// Events that arrived for the first time, so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.progress.delivered.load(Relaxed)
    }

    /// The time of the last of them.
    pub(crate) fn delivered_at(&self) -> u64 {
        self.progress.delivered_at.load(Relaxed)
    }

    /// Events with a planned time from this one on count.
    pub(crate) fn measure_from(&self, at: u64) {
        self.progress.measure_from.store(at, Relaxed);
    }

    /// # Errors
    /// The first error of a subscriber.
    pub(crate) fn check(&self) -> Result<(), String> {
        let error = self.progress.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone().map_or(Ok(()), Err)
    }

    /// Ends all subscribers.
    ///
    /// # Errors
    /// When a thread panicked.
    pub(crate) fn finish(self) -> Result<Results, String> {
        self.stop.cancel();
        let mut all = Results::new();
        for worker in self.workers {
            let Results { subscribers, latency, cpu } =
                worker.join().map_err(|_| "a thread of subscribers panicked".to_owned())?;
            all.subscribers.extend(subscribers);
            all.latency += latency;
            all.cpu = all.cpu.max(cpu);
        }
        Ok(all)
    }
}

// === impl Results ===

impl Results {
    fn new() -> Self {
        Self { subscribers: Vec::new(), latency: histogram(), cpu: Duration::ZERO }
    }

    /// `gap` frames of all subscribers.
    pub(crate) fn gaps(&self) -> u64 {
        self.subscribers.iter().map(|(_, subscriber)| subscriber.gaps).sum()
    }

    /// Subscribers whose connection the server closed.
    pub(crate) fn closed(&self) -> usize {
        self.subscribers.iter().filter(|(_, subscriber)| subscriber.closed).count()
    }
}

// === impl Worker ===

impl Worker {
    fn new(addr: SocketAddr, clock: Clock, progress: Arc<Progress>) -> Self {
        let state = RefCell::new(State { results: Results::new(), buffer: vec![0; 64 << 10].into() });
        Self { addr, clock, progress, connecting: Semaphore::new(CONNECTING), state }
    }

    /// Runs a task for each subscription until the stop.
    fn run(self, subscriptions: impl Iterator<Item = (usize, Subscription)>, stop: &CancellationToken) -> Results {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime of one thread needs only a few descriptors");
        let (worker, tasks) = (Rc::new(self), LocalSet::new());
        for (number, subscription) in subscriptions {
            let worker = worker.clone();
            tasks.spawn_local(async move {
                if let Err(error) = worker.run_subscriber(number, subscription).await {
                    worker.progress.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
        tasks.block_on(&runtime, stop.cancelled());
        drop(tasks);
        let worker = Rc::into_inner(worker).expect("all tasks are dropped");
        Results { cpu: thread_cpu(), ..worker.state.into_inner().results }
    }

    /// Connects and reads until the server closes the connection.
    async fn run_subscriber(&self, number: usize, subscription: Subscription) -> Result<(), String> {
        let slot = {
            let subscribers = &mut self.state.borrow_mut().results.subscribers;
            subscribers.push((number, Subscriber::new(&subscription)));
            subscribers.len() - 1
        };
        let permit = self.connecting.acquire().await.map_err(|error| error.to_string())?;
        let opened = tokio::time::timeout(CONNECT_TIME, subscription.open(self.addr)).await;
        let opened = opened.map_err(|_| format!("a subscriber did not connect in {CONNECT_TIME:?}"))?;
        let mut socket = opened.map_err(|error| format!("a subscriber cannot connect: {error}"))?;
        let mut permit = Some(permit);
        while poll_fn(|cx| self.poll_read(cx, &mut socket, slot)).await? {
            if permit.is_some() && self.state.borrow().results.subscribers[slot].1.established {
                drop(permit.take());
            }
        }
        Ok(())
    }

    /// Reads the available bytes of a socket; false when it has ended. This is a poll, so that all sockets of the
    /// thread share one buffer. `try_read` would need another system call after each event.
    fn poll_read(&self, cx: &mut Context<'_>, socket: &mut TcpStream, slot: usize) -> Poll<Result<bool, String>> {
        let State { results, buffer } = &mut *self.state.borrow_mut();
        let mut buffer = ReadBuf::new(buffer);
        if let Err(error) = ready!(Pin::new(socket).poll_read(cx, &mut buffer)) {
            return Poll::Ready(Err(format!("a subscriber lost its connection: {error}")));
        }
        Poll::Ready(self.take(results, slot, buffer.filled()))
    }

    fn take(&self, results: &mut Results, slot: usize, bytes: &[u8]) -> Result<bool, String> {
        let Results { subscribers, latency, .. } = results;
        let subscriber = &mut subscribers[slot].1;
        if bytes.is_empty() {
            subscriber.closed = true;
            return Ok(false);
        }
        let was_established = subscriber.established;
        let (now, from) = (self.clock.now(), self.progress.measure_from.load(Relaxed));
        let mut count = 0;
        subscriber.take(bytes, |delivery| {
            count += 1;
            if delivery.at >= from {
                record(latency, now.saturating_sub(delivery.at));
            }
        })?;
        if subscriber.established && !was_established {
            self.progress.established_at.fetch_max(now, Relaxed);
            self.progress.established.fetch_add(1, Relaxed);
        }
        if count > 0 {
            self.progress.delivered.fetch_add(count, Relaxed);
            self.progress.delivered_at.fetch_max(now, Relaxed);
        }
        Ok(true)
    }
}
