//! The load generator and a node as child processes. A child that is started here ends with its test.
#![allow(clippy::disallowed_methods, reason = "these are tests, and they wait with a deadline")]

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No case here takes so long, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The load generator.
const BENCH: &str = env!("CARGO_BIN_EXE_millstream-bench");

/// A running program; killed when it is dropped.
pub(crate) struct Program(Child);

/// A program that has ended.
pub(crate) struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A node.
pub(crate) struct Node {
    _program: Program,
    pub url: String,
}

// === impl Program ===

impl Program {
    /// Starts the load generator with arguments that blanks separate.
    pub(crate) fn start(arguments: &str) -> Self {
        Self::spawn(command(BENCH).args(arguments.split_whitespace()))
    }

    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; build it with `cargo build`")))
    }

    /// The processes that it has started and that run now.
    pub(crate) fn children(&self) -> Vec<u32> {
        // A child belongs to the thread that has started it.
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).into_iter().flatten().flatten();
        let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).expect("it still runs");
    }

    /// Waits until a condition holds.
    #[track_caller]
    pub(crate) fn wait_until<T>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(met) = condition(self) {
                return met;
            }
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end. What it writes is less than a pipe takes.
    pub(crate) fn end(mut self) -> Ended {
        let status = self.wait_until("the program ends", |program| program.0.try_wait().expect("it is a child"));
        Ended { code: status.code(), stdout: text(self.0.stdout.take()), stderr: text(self.0.stderr.take()) }
    }
}

/// A command for which the settings of a node in the caller's environment have no effect.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MILLSTREAM__")) {
        command.env_remove(name);
    }
    command
}

fn text(pipe: Option<impl Read>) -> String {
    std::io::read_to_string(pipe.expect("it is piped")).unwrap()
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// === impl Ended ===

impl Ended {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The line of JSON.
    pub(crate) fn row(&self) -> Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

// === impl Node ===

impl Node {
    /// Starts the node that the load generator would start.
    pub(crate) fn start() -> Self {
        let beside = || Path::new(BENCH).with_file_name("millstream").into_os_string();
        let mut command = command(std::env::var_os("MILLSTREAM_BIN").unwrap_or_else(beside));
        command.args(["serve", "--log", "warn", "--listen", "127.0.0.1:0"]).env("MILLSTREAM__JOURNAL__KIND", "memory");
        let mut program = Program::spawn(&mut command);
        let mut line = String::new();
        BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("the node prints `{line}`"));
        Self { url: url.to_owned(), _program: program }
    }
}
