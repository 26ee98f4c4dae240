//! Readers that ask for events and then take nothing: until their buffers are full, and longer.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::memory::{Cost, Memory, queues};
use crate::{clock::pause, publisher::Connection, target::Target};

/// Data of an event that fills the buffers.
const EVENT_BYTES: usize = 4096;

/// Events of one POST.
const BATCH: usize = 64;

/// What must be published for each beyond what the kernel has taken: many times an outbox of 256 KiB.
const BEYOND_BYTES: u64 = 1 << 20;

/// Whoever could be given this much is not stuck.
const OFFERED_MAX: u64 = 64 << 20;

/// Nothing has moved for so long: they are stuck.
const QUIET: Duration = Duration::from_millis(300);

/// How long connecting one, and filling all of them, may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const FILL_TIME: Duration = Duration::from_secs(60);

/// Connected readers whose buffers are full, and what they cost.
pub struct Stuck {
    sockets: Vec<TcpStream>,
    target: Target,
    cost: Cost,
    /// Bytes in the kernel for all of them, when nothing moved.
    taken: u64,
}

// === impl Stuck ===

impl Stuck {
    /// Connects them to a live topic, whose name is this and 0, and to one of their own, on which so much is published
    /// that their buffers are full.
    ///
    /// # Errors
    /// When they cannot connect, or cannot be seen to be stuck.
    pub fn connect(target: &Target, count: u32, live: &str) -> Result<Self, String> {
        let mut cost = Cost { before: Memory::now(target), ..Cost::default() };
        let lagged = lagged(target)?;
        let topic = format!("stuck:{}", ulid::Ulid::new());
        let sockets = (0..count).map(|_| open(target, &format!("{live}0,{topic}"))).collect::<Result<Vec<_>, _>>()?;
        settle(target, &sockets)?;
        cost.connected = Memory::now(target);

        let event = format!(r#"{{"topic":"{topic}","data":"{}"}}"#, "x".repeat(EVENT_BYTES));
        let batch = format!("[{}]", vec![event; BATCH].join(","));
        let mut publisher = Connection::open(target)?;
        let until = Instant::now() + FILL_TIME;
        loop {
            publisher.post(&batch)?;
            cost.offered += (EVENT_BYTES * BATCH) as u64;
            let queues = settle(target, &sockets)?;
            let min = queues.iter().copied().min().unwrap_or(0);
            let max = queues.iter().copied().max().unwrap_or(0);
            (cost.taken, cost.lagged) = ((min, max), self::lagged(target)?.saturating_sub(lagged));
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

    /// Lets them go.
    ///
    /// # Errors
    /// When they were not stuck the whole time.
    pub fn finish(self) -> Result<Cost, String> {
        let taken: u64 = kernel(&self.target, &self.sockets)?.iter().sum();
        if taken < self.taken {
            return Err(format!("some of the stuck readers were let go: of {} bytes {taken} are left", self.taken));
        }
        Ok(self.cost)
    }
}

/// Asks for topics, and reads no more than the status: after that the stream stands.
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

/// Waits until the kernel takes no more; gives what it has.
fn settle(target: &Target, sockets: &[TcpStream]) -> Result<Vec<u64>, String> {
    let until = Instant::now() + FILL_TIME;
    let mut last = kernel(target, sockets)?;
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        if Instant::now() > until {
            return Err(format!("readers that read nothing still take something after {FILL_TIME:?}"));
        }
        pause(QUIET / 3);
        let now = kernel(target, sockets)?;
        if now.iter().sum::<u64>() != last.iter().sum::<u64>() {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

fn kernel(target: &Target, sockets: &[TcpStream]) -> Result<Vec<u64>, String> {
    let ports: HashSet<u16> = sockets.iter().filter_map(|socket| Some(socket.local_addr().ok()?.port())).collect();
    let queues = queues(target.addr, &ports);
    queues.ok_or_else(|| "whether readers are stuck is told by Linux alone; `--stuck 0` leaves them out".to_owned())
}

/// How often a full outbox has sent an emitter to the journal, by the node's own count.
fn lagged(target: &Target) -> Result<u64, String> {
    let ask = || {
        let mut socket = TcpStream::connect(target.addr)?;
        socket.set_read_timeout(Some(CONNECT_TIME))?;
        write!(socket, "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", target.addr)?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|error: std::io::Error| format!("the node does not tell its metrics: {error}"))?;
    let line = text.lines().find(|line| line.starts_with("millstream_emitters_lagged_total"));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.ok_or_else(|| "the node's metrics do not count `emitters_lagged`".to_owned())
}
