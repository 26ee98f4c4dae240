//! The time of single commits at a steady rate, beside a bare loop that writes as many bytes.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use millstream::{
    event::Draft,
    journal::{Batch, Embedded, Journal},
};

use super::{runtime, topic};
use crate::{
    clock::{nanos, pause},
    report::{Report, histogram, record},
};

/// Threads that commit, as many as a small node has workers.
const THREADS: u32 = 2;
/// Each thread commits its share of this time at once.
const TICK: Duration = Duration::from_millis(1);
/// Bytes of a frame beside the data, and of the mark after it.
const FRAME_BYTES: usize = 120;
const MARK_BYTES: usize = 64;
/// The bare loop begins again at the start of its file after this number of bytes.
const FILE_BYTES: u64 = 256 << 20;

/// The load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub per_s: u32,
    pub secs: u32,
    pub topics: u32,
    pub payload: u32,
}

// === impl Pace ===

impl Pace {
    /// Commits single events to a journal, while its deletions are written each second.
    pub(super) fn journal(self, journal: &Arc<Embedded>, report: &mut Report) -> Result<(), String> {
        let data = "x".repeat(self.payload as usize);
        let stalls = journal.stats().worker_stalls;
        let times = thread::scope(|scope| {
            let committers: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let runtime = runtime()?;
                        self.run(|number| {
                            let draft = Draft::new(topic(number % self.topics), "bench", data.clone());
                            let done = runtime.block_on(journal.append(Batch::events(vec![draft])));
                            done.map(drop).map_err(|error| error.to_string())
                        })
                    })
                })
                .collect();
            let sweeps = scope.spawn(|| {
                let runtime = runtime()?;
                for _ in 0..self.secs {
                    pause(Duration::from_secs(1));
                    runtime.block_on(journal.sweep(0)).map_err(|error| error.to_string())?;
                }
                Ok(())
            });
            let times = joined(committers);
            sweeps.join().map_err(|_| "the sweep panicked".to_owned())?.and(times)
        })?;
        put(report, "commit", &times);
        report.put(
            "workerStalls",
            journal.stats().worker_stalls - stalls,
            "commits of more than 1 ms on their caller's thread",
        );
        Ok(())
    }

    /// Writes as many bytes at the same rate, without a journal.
    pub(super) fn bare(self, dir: &Path, report: &mut Report) -> Result<(), String> {
        let open = |name: &str| File::create_new(dir.join(name)).map_err(|error| error.to_string());
        let (file, mark) = (open("bare")?, open("mark")?);
        file.set_len(FILE_BYTES).map_err(|error| error.to_string())?;
        let frame = vec![1; self.payload as usize + FRAME_BYTES];
        let position = Mutex::new(0);
        let write = |_: u32| {
            let mut position = position.lock().map_err(|_| "a writer panicked".to_owned())?;
            file.write_all_at(&frame, *position % FILE_BYTES).map_err(|error| error.to_string())?;
            mark.write_all_at(&[1; MARK_BYTES], 0).map_err(|error| error.to_string())?;
            *position += frame.len() as u64;
            Ok(())
        };
        let times = thread::scope(|scope| joined((0..THREADS).map(|_| scope.spawn(|| self.run(write))).collect()))?;
        put(report, "bare", &times);
        Ok(())
    }

    /// Calls `commit` at the rate of one thread. Returns the times of all calls.
    fn run(self, commit: impl Fn(u32) -> Result<(), String>) -> Result<Histogram<u64>, String> {
        let ticks = self.secs * 1000;
        let share = self.per_s / THREADS;
        let (mut times, begun, next) = (histogram(), Instant::now(), AtomicU32::new(0));
        for tick in 0..ticks {
            pause((begun + TICK * tick).saturating_duration_since(Instant::now()));
            // The remainder is spread over the ticks.
            let wanted = u64::from(share) * u64::from(tick + 1) / 1000;
            while u64::from(next.load(Ordering::Relaxed)) < wanted {
                let at = Instant::now();
                commit(next.fetch_add(1, Ordering::Relaxed))?;
                record(&mut times, nanos(at.elapsed()));
            }
        }
        Ok(times)
    }
}

fn joined(
    threads: Vec<thread::ScopedJoinHandle<'_, Result<Histogram<u64>, String>>>,
) -> Result<Histogram<u64>, String> {
    let mut all = histogram();
    for thread in threads {
        let times = thread.join().map_err(|_| "a thread panicked".to_owned())??;
        all.add(times).map_err(|error| error.to_string())?;
    }
    Ok(all)
}

fn put(report: &mut Report, name: &str, times: &Histogram<u64>) {
    let names = [("P50Ms", 0.5), ("P99Ms", 0.99), ("P999Ms", 0.999), ("MaxMs", 1.0)];
    let names = names.map(|(suffix, share)| (format!("{name}{suffix}"), share));
    let names: Vec<(&str, f64)> = names.iter().map(|(name, share)| (name.as_str(), *share)).collect();
    report.times(&names, times);
}
