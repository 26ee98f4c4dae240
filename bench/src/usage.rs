//! CPU time and memory of processes, from `/proc` of Linux. On other systems the figures are `None`.

use std::{
    fs,
    time::{Duration, Instant},
};

/// Ticks of `/proc/PID/stat` per second, a constant of Linux's interface to programs.
const TICKS: u64 = 100;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss: u64,
}

/// Watches the load of other processes, the hypervisor included: figures of a busy machine are worth little.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherLoad {
    server: Option<u32>,
    before: Option<Machine>,
}

/// CPU time of the whole machine, and the part of this program and the server.
#[derive(Clone, Copy, Debug)]
struct Machine {
    busy: Duration,
    ours: Duration,
    at: Instant,
}

// === impl Usage ===

impl Usage {
    /// Of a process without its children, so far; `None` if it does not exist.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // The kernel's exact figure leaves out threads that have ended; the other one counts hundredths of a second.
        Some(Self { cpu: scheduled(pid).max(ticks(&stat)?), rss: kib(&status, "VmRSS:")? })
    }

    /// Of a process with its children: some servers are several processes. Memory that they share counts for each.
    pub(crate) fn with_children(pid: u32) -> Option<Self> {
        let all = family(pid).into_iter().filter_map(Self::of);
        all.reduce(|all, one| Self { cpu: all.cpu + one.cpu, rss: all.rss + one.rss })
    }
}

/// Seconds of CPU time between two moments.
pub(crate) fn cpu_seconds(before: Option<Usage>, after: Option<Usage>) -> Option<f64> {
    before.zip(after).map(|(before, after)| after.cpu.saturating_sub(before.cpu).as_secs_f64())
}

/// Proportional memory of a process and its children in bytes: memory that several share is divided among them.
pub(crate) fn pss(pid: u32) -> Option<u64> {
    let own = |pid| kib(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:");
    // A child may end at any moment.
    let children = family(pid).into_iter().skip(1).filter_map(own);
    Some(own(pid)? + children.sum::<u64>())
}

/// A process and its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        let children = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        for child in children.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
            all.extend(child.parse::<u32>().ok().filter(|child| !all.contains(child)));
        }
    }
    all
}

// === impl OtherLoad ===

impl OtherLoad {
    /// Starts to watch, beside this program and the process of the server.
    pub(crate) fn watch(server: Option<u32>) -> Self {
        Self { server, before: Machine::now(server) }
    }

    /// The number of cores that others have used since then.
    pub(crate) fn cores(self) -> Option<f64> {
        let (before, after) = self.before.zip(Machine::now(self.server))?;
        let busy = after.busy.saturating_sub(before.busy);
        let others = busy.saturating_sub(after.ours.saturating_sub(before.ours));
        Some(others.as_secs_f64() / (after.at - before.at).as_secs_f64())
    }
}

// === impl Machine ===

impl Machine {
    fn now(server: Option<u32>) -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let server = server.and_then(Usage::with_children).map_or(Duration::ZERO, |usage| usage.cpu);
        let ours = Usage::of(std::process::id())?.cpu + server;
        Some(Self { busy: busy(&stat)?, ours, at: Instant::now() })
    }
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(|text| on_cpu(&text)).unwrap_or_default()
}

/// The kernel's exact figure, of the threads that exist.
fn scheduled(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let each = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    each.filter_map(|text| on_cpu(&text)).sum()
}

/// The first field: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn ticks(stat: &str) -> Option<Duration> {
    // The command may contain blanks and parentheses; field 3 follows its last parenthesis.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// All except idle time and waits for disks: user, nice, system, interrupts, and time that the hypervisor took.
fn busy(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum();
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The peak memory of a process so far, in bytes.
pub(crate) fn rss_peak(pid: u32) -> Option<u64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// A line in kilobytes of a file in `/proc`, in bytes.
pub(crate) fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 1";
        assert_eq!(ticks(stat), Some(Duration::from_secs(3)));
        assert_eq!(kib("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2 << 20));
        assert_eq!(busy("cpu  100 10 50 900 40 5 5 30 0 0\ncpu0 1\n"), Some(Duration::from_secs(2)));
        assert_eq!(on_cpu("1500 20 3\n"), Some(Duration::from_nanos(1500)));
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).expect("it runs");
        assert!(usage.rss > 1 << 20);
        assert!(rss_peak(std::process::id()).is_some_and(|peak| peak >= usage.rss));
        assert!(pss(std::process::id()).is_some_and(|pss| pss > 1 << 20));
    }

    #[test]
    fn children_count_too() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it is everywhere");
        let all = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.contains(&std::process::id()) && all.contains(&child.id()), "{all:?}");
    }
}
