//! The program as a child process. Whatever is started here ends with its test.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "these are tests, and they wait with a deadline")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes so long unless it hangs; generous, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running program; killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What a program has written so far.
struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// A program that has ended.
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A node.
pub(crate) struct Node {
    pub program: Program,
    pub addr: SocketAddr,
}

// === impl Program ===

impl Program {
    /// Starts `millstream` with these arguments, without the environment of the test run.
    pub(crate) fn start(arguments: &[&str], input: Option<&str>) -> Self {
        Self::start_with(arguments, input, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], input: Option<&str>, env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MILLSTREAM_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is built");
        let mut stdin = child.stdin.take().expect("piped");
        if let Some(input) = input {
            stdin.write_all(input.as_bytes()).expect("it reads its stdin");
        }
        let stdout = Output::read(child.stdout.take().expect("piped"));
        let stderr = Output::read(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).expect("it still runs");
    }

    /// Waits until this holds of its output.
    pub(crate) fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < until, "{what}\nstdout: {}\nstderr: {}", self.stdout(), self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(Instant::now() < until, "it hangs\nstdout: {}\nstderr: {}", self.stdout(), self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended { status, stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Output ===

impl Output {
    fn read(source: impl std::io::Read + Send + 'static) -> Self {
        let text = Arc::<Mutex<String>>::default();
        let seen = text.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let mut seen = seen.lock().unwrap();
                seen.push_str(&line);
                seen.push('\n');
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it only reads");
        }
        self.text()
    }
}

// === impl Ended ===

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its stdout as lines of JSON.
    pub(crate) fn rows(&self) -> Vec<serde_json::Value> {
        let row = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(row).collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with("127.0.0.1:0", &[], &[])
    }

    pub(crate) fn start_with(listen: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let arguments = [&["serve", "--log", "warn", "--listen", listen], arguments].concat();
        let env = [&[("MILLSTREAM__JOURNAL__KIND", "memory")], env].concat();
        let program = Program::start_with(&arguments, None, &env);
        program.wait_until("it comes up", |program| program.stdout().contains('\n'));
        let line = program.stdout();
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        Self { addr: addr.unwrap_or_else(|| panic!("{line}\n{}", program.stderr())), program }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Runs a client command against this node to its end.
    pub(crate) fn run(&self, arguments: &[&str], input: Option<&str>) -> Ended {
        self.begin(arguments, input).end()
    }

    /// Starts a client command against this node.
    pub(crate) fn begin(&self, arguments: &[&str], input: Option<&str>) -> Program {
        Program::start_with(arguments, input, &[("MILLSTREAM_URL", &self.url())])
    }

    /// What GET answers, head and all.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.addr).unwrap();
        std::io::read_to_string(socket).unwrap()
    }
}

/// A file with this text, gone with its directory.
pub(crate) fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}
