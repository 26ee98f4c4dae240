//! Readers that subscribe and then read nothing, until their buffers are full and longer.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use ulid::Ulid;

use super::memory::{Cost, Memory, queues};
use crate::{call::exchange, clock::pause, publisher::Connection, target::Target};

/// Data of an event that fills the buffers.
const EVENT_BYTES: usize = 4096;

/// Events of one POST.
const BATCH: usize = 64;

/// Bytes published for each reader beyond those that the kernel has taken: four times an outbox of 256 KiB.
const BEYOND_BYTES: u64 = 1 << 20;

/// A reader that is offered this much without a full outbox is not stuck.
const OFFERED_MAX: u64 = 64 << 20;

/// Readers are stuck when nothing has moved for this time.
const QUIET: Duration = Duration::from_millis(300);

/// Limit for connecting one reader.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Limit for filling the buffers of all readers.
const FILL_TIME: Duration = Duration::from_secs(60);

/// Connected readers whose buffers are full, and their cost.
pub(super) struct StuckReaders {
    sockets: Vec<TcpStream>,
    target: Target,
    cost: Cost,
    /// Bytes in the kernel for all of them, when nothing moved.
    taken: u64,
}

// === impl StuckReaders ===

impl StuckReaders {
    /// Connects readers to a live topic, whose name is `live` and 0, and to a topic of their own. Publishes on the
    /// latter until their buffers are full.
    ///
    /// # Errors
    /// When they cannot connect, or do not get stuck.
    pub(super) fn connect(target: &Target, count: u32, live: &str) -> Result<Self, String> {
        let mut cost = Cost { before: Memory::now(target), ..Cost::default() };
        let lagged_before = lagged(target)?;
        let topic = format!("stuck:{}", Ulid::new());
        let sockets = (0..count).map(|_| open(target, &format!("{live}0,{topic}"))).collect::<Result<Vec<_>, _>>()?;
        wait_quiet(target, &sockets)?;
        cost.connected = Memory::now(target);

        let event = format!(r#"{{"topic":"{topic}","data":"{}"}}"#, "x".repeat(EVENT_BYTES));
        let batch = format!("[{}]", vec![event; BATCH].join(","));
        let mut publisher = Connection::open(target)?;
        let until = Instant::now() + FILL_TIME;
        loop {
            publisher.post(&batch)?;
            cost.offered += (EVENT_BYTES * BATCH) as u64;
            let queues = wait_quiet(target, &sockets)?;
            let min = queues.iter().copied().min().unwrap_or(0);
            let max = queues.iter().copied().max().unwrap_or(0);
            (cost.taken, cost.lagged) = ((min, max), lagged(target)?.saturating_sub(lagged_before));
            if cost.offered > max + BEYOND_BYTES && cost.lagged >= u64::from(count) {
                cost.stuck = Memory::now(target);
                return Ok(Self { sockets, target: target.clone(), cost, taken: queues.iter().sum() });
            }
            if cost.offered > OFFERED_MAX || Instant::now() > until {
                let filled = cost.lagged;
                return Err(format!("of {count} readers that read nothing only {filled} had a full outbox"));
            }
        }
    }

    /// Disconnects them.
    ///
    /// # Errors
    /// When they were not stuck the whole time.
    pub(super) fn finish(self) -> Result<Cost, String> {
        let taken: u64 = kernel_queues(&self.target, &self.sockets)?.iter().sum();
        if taken < self.taken {
            return Err(format!("the node disconnected stuck readers: {taken} of {} bytes are left", self.taken));
        }
        Ok(self.cost)
    }
}

/// Subscribes, and reads no more than the status: then the stream is open.
fn open(target: &Target, topics: &str) -> Result<TcpStream, String> {
    const OK: &[u8] = b"HTTP/1.1 200";
    let connect = || {
        let mut socket = TcpStream::connect(target.addr)?;
        socket.set_read_timeout(Some(CONNECT_TIME))?;
        let path = format!("/events?topics={topics}");
        write!(socket, "GET {path} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", target.addr)?;
        let mut status = [0; OK.len()];
        socket.read_exact(&mut status)?;
        Ok((socket, status))
    };
    match connect().map_err(|error: std::io::Error| format!("a stuck reader cannot connect: {error}"))? {
        (socket, status) if status == OK => Ok(socket),
        (_, status) => Err(format!("a stuck reader was refused: {}", String::from_utf8_lossy(&status))),
    }
}

/// Waits until the kernel takes no more; gives the bytes that it has for each reader.
fn wait_quiet(target: &Target, sockets: &[TcpStream]) -> Result<Vec<u64>, String> {
    let until = Instant::now() + FILL_TIME;
    let mut last = kernel_queues(target, sockets)?;
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        if Instant::now() > until {
            return Err(format!("readers that read nothing still take bytes after {FILL_TIME:?}"));
        }
        pause(QUIET / 3);
        let now = kernel_queues(target, sockets)?;
        if now.iter().sum::<u64>() != last.iter().sum::<u64>() {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

fn kernel_queues(target: &Target, sockets: &[TcpStream]) -> Result<Vec<u64>, String> {
    let ports: HashSet<u16> = sockets.iter().filter_map(|socket| Some(socket.local_addr().ok()?.port())).collect();
    let queues = queues(target.addr, &ports);
    queues.ok_or_else(|| "only Linux shows whether readers are stuck; `--stuck 0` leaves them out".to_owned())
}

/// The node's count of full outboxes that sent an emitter to the journal.
fn lagged(target: &Target) -> Result<u64, String> {
    let (_, text) = exchange(target.addr, "GET", "/metrics", None)?;
    let line = text.lines().find(|line| line.starts_with("millstream_emitters_lagged_total"));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.ok_or_else(|| "the node's metrics do not count `emitters_lagged`".to_owned())
}
