//! All subscribers of a measurement: some threads, each with its share of the sockets.
//!
//! A thread reads its sockets one after another into one buffer and keeps its figures for itself; what others must know
//! while it runs stands in a few atomics. No lock, no timer per subscriber.

use std::{
    cell::RefCell,
    future::poll_fn,
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
    subscriber::{self, Subscriber, Subscription},
    target::Target,
    usage::thread_cpu,
};

/// Connections that one thread opens at the same time; more would only wait in the kernel.
const CONNECTING: usize = 64;

/// How long all connections together may take.
const CONNECT_TIME: Duration = Duration::from_mins(1);

/// Subscribers at work.
pub struct Crew {
    threads: Vec<JoinHandle<Share>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    count: usize,
    clock: Clock,
}

/// What all threads tell while they run.
#[derive(Debug)]
pub struct Shared {
    established: AtomicUsize,
    /// When the last one was established.
    established_at: AtomicU64,
    /// Events that came for the first time.
    delivered: AtomicU64,
    /// When the last of them came.
    delivered_at: AtomicU64,
    /// Events that were planned before this moment do not count for latency and rate.
    measure_from: AtomicU64,
    error: Mutex<Option<String>>,
}

/// What a thread brings home.
#[derive(Debug)]
pub struct Share {
    /// Its subscribers, with their numbers.
    pub subscribers: Vec<(usize, Subscriber)>,
    /// From the planned time to the reading, in microseconds, of events that count.
    pub latency: Histogram<u64>,
    /// CPU time of the thread.
    pub cpu: Duration,
}

struct Desk {
    share: Share,
    buffer: Box<[u8]>,
}

// === impl Crew ===

impl Crew {
    /// Starts to connect `count` subscribers; `ask` says what each of them wants.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn start(
        target: &Target,
        count: usize,
        clock: Clock,
        ask: impl Fn(usize) -> Subscription + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            established: AtomicUsize::new(0),
            established_at: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivered_at: AtomicU64::new(0),
            measure_from: AtomicU64::new(0),
            error: Mutex::new(None),
        });
        let (stop, ask) = (CancellationToken::new(), Arc::new(ask));
        let mut crew = Self { threads: Vec::new(), shared: shared.clone(), stop: stop.clone(), count, clock };
        for thread in 0..target.readers {
            let (addr, readers, shared, stop, ask) =
                (target.addr, target.readers, shared.clone(), stop.clone(), ask.clone());
            let run = move || {
                let numbers = (thread..count).step_by(readers);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime of one thread needs nothing but a few descriptors");
                let desk = Rc::new(RefCell::new(Desk::new()));
                let local = LocalSet::new();
                let connecting = Rc::new(Semaphore::new(CONNECTING));
                for number in numbers {
                    let (ask, shared) = (ask(number), shared.clone());
                    let (desk, connecting) = (desk.clone(), connecting.clone());
                    local.spawn_local(async move {
                        if let Err(error) = attend(addr, number, ask, &desk, &shared, &connecting, clock).await {
                            shared.fail(error);
                        }
                    });
                }
                local.block_on(&runtime, stop.cancelled());
                drop(local);
                let desk = Rc::into_inner(desk).expect("all tasks are gone").into_inner();
                Share { cpu: thread_cpu(), ..desk.share }
            };
            let thread = std::thread::Builder::new().name(format!("reader-{thread}")).spawn(run);
            crew.threads.push(thread.map_err(|error| format!("no thread for a reader: {error}"))?);
        }
        Ok(crew)
    }

    /// Waits until all are connected; gives the moment of the last one.
    ///
    /// # Errors
    /// When one could not connect, or it takes too long.
    pub fn wait_established(&self) -> Result<u64, String> {
        let until = self.clock.now() + nanos(CONNECT_TIME);
        loop {
            self.check()?;
            let established = self.shared.established.load(Relaxed);
            if established == self.count {
                return Ok(self.shared.established_at.load(Relaxed));
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

    /// Waits until so many events have come for the first time, until `limit` is over, or nothing comes for 5 s.
    pub fn wait_delivered(&self, count: u64, limit: Duration) {
        let until = self.clock.now() + nanos(limit);
        let silence = nanos(Duration::from_secs(5));
        let begun = self.clock.now();
        while self.delivered() < count && self.clock.now() < until && self.check().is_ok() {
            let last = self.shared.delivered_at.load(Relaxed).max(begun);
            if self.clock.now() > last + silence {
                break;
            }
            pause(Duration::from_millis(2));
        }
    }

    /// Events that came for the first time, by now.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Relaxed)
    }

    /// When the last of them came.
    pub fn delivered_at(&self) -> u64 {
        self.shared.delivered_at.load(Relaxed)
    }

    /// Events planned from this moment on count.
    pub fn measure_from(&self, at: u64) {
        self.shared.measure_from.store(at, Relaxed);
    }

    /// # Errors
    /// What went wrong first.
    pub fn check(&self) -> Result<(), String> {
        let error = self.shared.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone().map_or(Ok(()), Err)
    }

    /// Ends all subscribers.
    ///
    /// # Errors
    /// When a thread panicked.
    pub fn finish(self) -> Result<Vec<Share>, String> {
        self.stop.cancel();
        self.threads.into_iter().map(|thread| thread.join().map_err(|_| "a reader panicked".to_owned())).collect()
    }
}

// === impl Shared ===

impl Shared {
    fn fail(&self, error: String) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

// === impl Desk ===

impl Desk {
    fn new() -> Self {
        let share = Share { subscribers: Vec::new(), latency: histogram(), cpu: Duration::ZERO };
        Self { share, buffer: vec![0; 64 << 10].into() }
    }

    /// Reads what a socket has; true when it has ended. A poll, so that all sockets of the thread share one buffer; and
    /// not `try_read`, which would ask the kernel once more after each event whether there is another.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        slot: usize,
        shared: &Shared,
        clock: Clock,
    ) -> Poll<Result<bool, String>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        if let Err(error) = ready!(Pin::new(socket).poll_read(cx, &mut buffer)) {
            return Poll::Ready(Err(format!("a subscriber lost its connection: {error}")));
        }
        let read = buffer.filled().len();
        Poll::Ready(self.take(read, slot, shared, clock))
    }

    /// Takes the bytes that are in the buffer now.
    fn take(&mut self, read: usize, slot: usize, shared: &Shared, clock: Clock) -> Result<bool, String> {
        let Self { share, buffer } = self;
        let subscriber = &mut share.subscribers[slot].1;
        if read == 0 {
            subscriber.closed = true;
            return Ok(true);
        }
        let was_established = subscriber.established;
        let (now, from) = (clock.now(), shared.measure_from.load(Relaxed));
        let mut count = 0;
        subscriber.take(&buffer[..read], |delivery| {
            count += 1;
            if delivery.at >= from {
                record(&mut share.latency, now.saturating_sub(delivery.at));
            }
        })?;
        if subscriber.established && !was_established {
            shared.established_at.fetch_max(now, Relaxed);
            shared.established.fetch_add(1, Relaxed);
        }
        if count > 0 {
            shared.delivered.fetch_add(count, Relaxed);
            shared.delivered_at.fetch_max(now, Relaxed);
        }
        Ok(false)
    }
}

/// The life of a subscriber; it ends with its connection, or when it is dropped.
async fn attend(
    addr: std::net::SocketAddr,
    number: usize,
    ask: Subscription,
    desk: &RefCell<Desk>,
    shared: &Shared,
    connecting: &Semaphore,
    clock: Clock,
) -> Result<(), String> {
    let slot = {
        let subscribers = &mut desk.borrow_mut().share.subscribers;
        subscribers.push((number, Subscriber::new(&ask)));
        subscribers.len() - 1
    };
    let permit = connecting.acquire().await.map_err(|error| error.to_string())?;
    let opened = tokio::time::timeout(CONNECT_TIME, subscriber::open(addr, &ask)).await;
    let socket = opened.map_err(|_| "a connection takes too long".to_owned())?;
    let mut socket = socket.map_err(|error| format!("a subscriber cannot connect: {error}"))?;
    let mut permit = Some(permit);
    loop {
        if poll_fn(|cx| desk.borrow_mut().poll_read(cx, &mut socket, slot, shared, clock)).await? {
            return Ok(());
        }
        if permit.is_some() && desk.borrow().share.subscribers[slot].1.established {
            drop(permit.take());
        }
    }
}
