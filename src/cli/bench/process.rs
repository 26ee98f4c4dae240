//! The node under load as a process: started for the measurement, ended with it.

use std::{
    ffi::OsStr,
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

/// A node of our own; ends when it is dropped.
pub(super) struct Node {
    child: Child,
    /// Where it answers.
    pub(super) addr: SocketAddr,
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

/// As many open files as the system permits: a subscriber is one here and one in the node.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
