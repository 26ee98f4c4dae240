//! Servers under load as child processes: started for a measurement, and ended with it.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::clock::pause;

/// Limit for the start of a node.
const START_TIME: Duration = Duration::from_secs(10);

/// Limit for the end of a child after SIGTERM; SIGKILL follows.
const STOP_TIME: Duration = Duration::from_secs(10);

/// Exit code after a signal: 128 + SIGINT, as shells have it.
const EXIT_STOPPED: i32 = 130;

/// All children that run. [`leave`] ends those that a measuring thread still owns.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A child process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// Its stdout, if the command pipes it.
    stdout: Option<ChildStdout>,
}

/// A node of this measurement.
#[derive(Debug)]
pub(crate) struct Node {
    process: Process,
    /// Its address.
    pub addr: SocketAddr,
}

// === impl Process ===

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// Those of the start itself.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        // Under the lock, so that no child starts after `leave`.
        let mut children = children();
        let mut child = command.spawn()?;
        let process = Self { pid: child.id(), stdout: child.stdout.take() };
        children.push(child);
        Ok(process)
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// False once it has ended.
    pub(crate) fn runs(&self) -> bool {
        children().iter_mut().any(|child| child.id() == self.pid && matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let own: Vec<Child> = children().extract_if(.., |child| child.id() == self.pid).collect();
        own.into_iter().for_each(end);
    }
}

/// Ends all children and this program.
pub(crate) fn leave() -> ! {
    // The lock is held to the end: a measuring thread cannot start another child.
    let mut children = children();
    children.drain(..).for_each(end);
    crate::complain("stopped");
    std::process::exit(EXIT_STOPPED);
}

fn children() -> MutexGuard<'static, Vec<Child>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(mut child: Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let until = Instant::now() + STOP_TIME;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        pause(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

// === impl Node ===

impl Node {
    /// Starts a node with its journal in memory. Its settings are the defaults and those of the environment.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub(crate) fn start() -> Result<Self, String> {
        Self::launch(&[], &[("MILLSTREAM__JOURNAL__KIND", "memory".to_owned())])
    }

    /// Starts a node with its data in a directory, and some settings.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub(crate) fn start_on(dir: &Path, settings: &[(&str, String)]) -> Result<Self, String> {
        Self::launch(&[OsStr::new("--data-dir"), dir.as_os_str()], settings)
    }

    fn launch(arguments: &[&OsStr], settings: &[(&str, String)]) -> Result<Self, String> {
        let program = program()?;
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"]).args(arguments);
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command).map_err(|error| {
            let program = program.display();
            format!("`{program}` cannot be started ({error}): build it with `cargo build`, or name another one with MILLSTREAM_BIN")
        })?;
        let stdout = process.stdout.take().expect("the command pipes it");
        let (sender, lines) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line =
            lines.recv_timeout(START_TIME).map_err(|_| format!("the node did not listen within {START_TIME:?}"))?;
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        let addr = addr.ok_or("the node ended before it listened")?;
        Ok(Self { process, addr })
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// The program `millstream` beside this one, or the one that the environment names.
fn program() -> Result<PathBuf, String> {
    match std::env::var_os("MILLSTREAM_BIN") {
        Some(path) => Ok(path.into()),
        None => std::env::current_exe().map(|path| path.with_file_name("millstream")).map_err(|error| {
            format!("the path of this program is unknown ({error}): name the node with MILLSTREAM_BIN")
        }),
    }
}

/// Raises the limit of open files to the maximum: a subscriber needs one here and one in the server.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
