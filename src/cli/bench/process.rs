//! The node under load as a process: started for the measurement, measured from `/proc`, ended with it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::clock::pause;

/// How long a node may take to begin and to end.
const START_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(10);

/// Ticks of `/proc/PID/stat` per second; fixed in Linux's interface to programs.
const TICKS: u64 = 100;

/// A node of our own; ends when it is dropped.
pub(super) struct Node {
    child: Child,
    /// Where it answers.
    pub(super) addr: SocketAddr,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// CPU time.
    pub(super) cpu: Duration,
    /// Memory in bytes.
    pub(super) rss: u64,
}

/// What the whole machine has done by a moment, and what of it was this program and its node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    busy: Duration,
    ours: Duration,
    at: Instant,
}

// === impl Node ===

impl Node {
    /// Starts this same program as a server, with the built-in settings and whatever the environment changes, but for
    /// what a measurement depends on.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) fn start() -> Result<Self, String> {
        Self::launch(&[], &[("MILLSTREAM__JOURNAL__KIND", "memory".to_owned())])
    }

    /// The same with its data in a directory, and some settings.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) fn start_on(dir: &Path, settings: &[(&str, String)]) -> Result<Self, String> {
        Self::launch(&[OsStr::new("--data-dir"), dir.as_os_str()], settings)
    }

    fn launch(arguments: &[&OsStr], settings: &[(&str, String)]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
        let child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"])
            .args(arguments)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the node does not start: {error}"))?;
        let mut node = Self { child, addr: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let stdout = node.child.stdout.take().expect("it is piped");
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        let line =
            told.recv_timeout(START_TIME).map_err(|_| format!("the node did not come up within {START_TIME:?}"))?;
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        node.addr = addr.ok_or_else(|| "the node ended before it listened".to_owned())?;
        Ok(node)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + STOP_TIME;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Usage ===

impl Usage {
    /// What a process has used so far; `None` if it is not there or this is no Linux.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // The kernel's exact figure forgets threads that have ended, the other one counts in hundredths of a second.
        Some(Self { cpu: scheduled(pid).max(ticks(&stat)?), rss: resident(&status)? })
    }
}

// === impl Machine ===

impl Machine {
    /// As it is now, the node being the process `pid`; `None` where nobody tells.
    pub(super) fn now(pid: Option<u32>) -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let node = pid.and_then(Usage::of).map_or(Duration::ZERO, |usage| usage.cpu);
        let ours = Usage::of(std::process::id())?.cpu + node;
        Some(Self { busy: busy(&stat)?, ours, at: Instant::now() })
    }

    /// How many cores others have used since then, the hypervisor included. Figures of a machine that had other things
    /// to do are not worth much, so they must show it.
    pub(super) fn others_since(self, before: Self) -> f64 {
        let busy = self.busy.saturating_sub(before.busy);
        let others = busy.saturating_sub(self.ours.saturating_sub(before.ours));
        others.as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

/// CPU time of the calling thread.
pub(super) fn thread_cpu() -> Duration {
    fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(|text| on_cpu(&text)).unwrap_or_default()
}

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
    // The command may contain blanks and parentheses; what follows its last parenthesis begins with field 3.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// All but idling and waiting for disks: user, nice, system, interrupts, and what the hypervisor took.
fn busy(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum();
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// As many open files as the system permits: a subscriber is one here and one in the node.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 1";
        assert_eq!(ticks(stat), Some(Duration::from_secs(3)));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(busy("cpu  100 10 50 900 40 5 5 30 0 0\ncpu0 1\n"), Some(Duration::from_secs(2)));
        assert_eq!(on_cpu("1500 20 3\n"), Some(Duration::from_nanos(1500)));
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).expect("it runs");
        assert!(usage.rss > 1 << 20);
    }
}
