//! The queue of log lines and the thread that empties it.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

use super::{Format, note::note};

/// Handle for adding lines to the queue. Clones share the queue.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Queue>);

/// stderr without its lock, which another thread may hold while it is blocked in a write.
pub(super) struct Stderr;

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes threads that wait for an empty queue.
    idle: Condvar,
    max_bytes: usize,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    /// Bytes of waiting lines and of lines that are being written.
    bytes: usize,
    /// Lines dropped since the last queued line, because the queue was full.
    lost: u64,
    /// True if no line waits or is being written.
    idle: bool,
}

#[derive(Debug)]
struct Line {
    text: Box<[u8]>,
    lost_before: u64,
}

/// Lines that are written in one call.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// Bytes that came from the queue; the others are notes.
    queued: usize,
}

/// A line of a batch.
struct Piece {
    /// End of the line in the batch.
    end: usize,
    /// Lines that are lost if this piece is not written: one line, or the number that a note reports.
    lines: u64,
    note: bool,
}

/// Empties the queue.
struct Writer<W> {
    queue: Arc<Queue>,
    /// Form of the notes.
    form: Format,
    out: W,
    /// Lines that stderr did not accept since the last written line.
    refused: u64,
    /// True if the last write ended within a line.
    incomplete: bool,
}

/// Bytes per write call: large enough for few calls, small enough to free queue space soon.
const BATCH_BYTES: usize = 16 << 10;
/// Delay before a full non-blocking stderr is retried.
const RETRY_AFTER: Duration = Duration::from_millis(10);

// === impl Lines ===

impl Lines {
    /// Starts the writer. Its thread ends with the process.
    pub(super) fn start(max_bytes: usize, form: Format, out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            max_bytes,
            dropped: AtomicU64::new(0),
        });
        let writer = Writer { queue: queue.clone(), form, out, refused: 0, incomplete: false };
        thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(Self(queue))
    }

    /// Queues one line, which ends with a line break. If the queue is full, the line is dropped and counted.
    pub(super) fn push(&self, text: &[u8]) {
        let mut state = self.0.state();
        if state.bytes + text.len() > self.0.max_bytes {
            state.lost += 1;
            drop(state);
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.bytes += text.len();
        let lost_before = std::mem::take(&mut state.lost);
        state.lines.push_back(Line { text: text.into(), lost_before });
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.0.work.notify_one();
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Waits for an empty queue.
    pub(super) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.state();
        while !state.idle {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Each write must be one whole line; the formatter of `tracing_subscriber` guarantees this.
impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Queue ===

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines, or for dropped lines that no note has reported, and returns the next batch.
    fn next(&self, form: Format, refused: u64) -> Batch {
        let mut state = self.state();
        while state.lines.is_empty() && state.lost == 0 {
            state.idle = true;
            self.idle.notify_all();
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let mut batch = Batch::default();
        let mut missing = refused;
        while batch.bytes.len() < BATCH_BYTES
            && let Some(line) = state.lines.pop_front()
        {
            batch.note(form, missing + line.lost_before);
            missing = 0;
            batch.add(&line.text, 1, false);
            batch.queued += line.text.len();
        }
        if state.lines.is_empty() {
            batch.note(form, missing + std::mem::take(&mut state.lost));
        }
        batch
    }
}

// === impl Batch ===

impl Batch {
    fn add(&mut self, text: &[u8], lines: u64, note: bool) {
        self.bytes.extend_from_slice(text);
        self.pieces.push(Piece { end: self.bytes.len(), lines, note });
    }

    fn note(&mut self, form: Format, lost: u64) {
        if lost > 0 {
            self.add(note(form, lost).as_bytes(), lost, true);
        }
    }
}

// === impl Writer ===

impl<W: Write> Writer<W> {
    fn run(mut self) {
        loop {
            let batch = self.queue.next(self.form, self.refused);
            self.refused = 0;
            self.write(&batch);
            self.queue.state().bytes -= batch.queued;
        }
    }

    fn write(&mut self, batch: &Batch) {
        if self.incomplete && self.write_all(b"\n") == 0 {
            self.count_lost(batch, 0);
            return;
        }
        self.incomplete = false;
        let written = self.write_all(&batch.bytes);
        if written < batch.bytes.len() {
            self.incomplete = written > 0 && batch.bytes[written - 1] != b'\n';
            self.count_lost(batch, written);
        }
    }

    /// Counts the lines that stderr did not accept. A note before the next written line reports them.
    fn count_lost(&mut self, batch: &Batch, written: usize) {
        for piece in batch.pieces.iter().filter(|piece| piece.end > written) {
            self.refused += piece.lines;
            if !piece.note {
                self.queue.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Writes until stderr fails; returns the number of bytes written.
    fn write_all(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => thread::park_timeout(RETRY_AFTER),
                    _ => break,
                },
            }
        }
        written
    }
}

// === impl Stderr ===

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
