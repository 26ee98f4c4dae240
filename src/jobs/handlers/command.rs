//! MiB.
//!
//! # Interface of the program
//! - It is started directly, without a shell, in a process group that is killed with it. It has a clean environment
//!   ([`Environment`]) plus `MILLSTREAM_IDEMPOTENCY_KEY`, `MILLSTREAM_ATTEMPT` and the marker by which its children are
//!   found ([`orphans`]).
//! - It gets the task's input on stdin: one JSON value, a line end, the end. It need not read it.
//! - It writes lines to stdout: `{"progress": 0-100, "message"?, "data"?}`, and at the end `{"result": …}` or
//!   `{"error": "…"}`, which may contain `"retryable": false`. An object may extend over several lines. Any other line
//!   is shown as a message, so that a tool that prints its actions needs no wrapper. A line, and an object, has at most
//! - A result that is nested deeper than 100 levels is returned as text. A result or an error that is not JSON, or not
//!   UTF-8, is the error `bad_output`: nothing is lost silently.
//! - It exits with 0. Without a result line the result is `null`; any other status is an error with the end of stderr.
//! - When it has exited, its children are killed. After its result, or when stdout has ended, it has 5 s to exit.
//!
//! On cancel, on timeout and when the node dies the whole process group is killed ([`Group`]), and so are children that
//! have left it ([`orphans`]).

use std::{
    ffi::{OsStr, OsString},
    io,
    process::ExitStatus,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::Instant,
};

use super::common::unless_cancelled;
use crate::{
    jobs::{
        handler::{Output, Task, TaskError, TaskHandler},
        memory,
    },
    journal::BoxFuture,
};

mod environment;
mod group;
mod lines;
mod orphans;
mod talk;
#[cfg(test)]
mod tests;

pub use self::{environment::Environment, orphans::adopt};
use self::{
    group::Group,
    lines::{LINE_MAX, Line, Lines, Tail},
    talk::Talk,
};

/// Maximum number of bytes of stderr in the error.
const STDERR_TAIL: usize = 4096;

/// Time that a program has to exit after its last output.
const LINGER: Duration = Duration::from_secs(5);

/// Time to read output after the program and its group have ended. Bytes in the pipes take no time, so this limit only
/// matters for a process that has left the group and holds the pipes open.
const DRAIN: Duration = Duration::from_secs(1);

/// The handler of `kind = "command"`.
#[derive(Debug)]
pub struct Command {
    program: String,
    arguments: Vec<String>,
    environment: Environment,
    /// Time that the program has to exit after the end of its output.
    linger: Duration,
}

/// A running program. Dropping it kills the group, then the program.
struct Running {
    // Before `child`: without a lifeline the child leads the group, and its id is its own until it is reaped.
    group: Group,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<ChildStdout>,
    stderr: Tail<ChildStderr>,
    linger: Duration,
}

/// How the program ended.
enum End {
    Exited(ExitStatus),
    /// It did not exit and was killed.
    Lingered,
}

// === impl Command ===

impl Command {
    /// A handler that runs this program with these arguments; `None` if `argv` is empty.
    pub fn new(argv: Vec<String>, environment: Environment) -> Option<Self> {
        let mut argv = argv.into_iter();
        let program = argv.next().filter(|program| !program.is_empty())?;
        Some(Self { program, arguments: argv.collect(), environment, linger: LINGER })
    }

    async fn start(&self, task: &Task) -> io::Result<Running> {
        use std::process::Stdio;

        let variables = self.environment.variables();
        let file = environment::find(&self.program, variables.get(OsStr::new("PATH")).map(OsString::as_os_str))?;
        let mut command = tokio::process::Command::new(file);
        command.arg0(&self.program).args(&self.arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().envs(variables);
        command.env("MILLSTREAM_IDEMPOTENCY_KEY", task.idempotency_key());
        command.env("MILLSTREAM_ATTEMPT", task.attempt.to_string());
        let (group, mut child) = Group::start(&mut command).await?;
        let piped = "it was requested in the line above";
        Ok(Running {
            group,
            stdin: child.stdin.take(),
            lines: Lines::new(child.stdout.take().expect(piped), LINE_MAX, memory::FREE),
            stderr: Tail::new(child.stderr.take().expect(piped), STDERR_TAIL),
            child,
            linger: self.linger,
        })
    }

    /// The error of a failed start. Only a lack of resources may be gone at the next attempt.
    fn not_started(&self, error: &io::Error) -> TaskError {
        let program = &self.program;
        let lacking = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::TXTBSY];
        let retryable = Errno::from_io_error(error).is_some_and(|errno| lacking.contains(&errno));
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("program `{program}` is not found; name its path or put it on `PATH`"),
            _ => format!("program `{program}` cannot be started: {error}"),
        };
        TaskError { retryable, ..TaskError::fatal("spawn_failed", message) }
    }

    /// The outcome of the task. A failure of the process takes precedence over the output of the program.
    fn conclude(&self, end: &End, talk: Talk, stderr: &str) -> Result<Output, TaskError> {
        let program = &self.program;
        let unfinished = talk.unfinished();
        let detail = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
        match (talk.outcome, end) {
            (Some(Err(error)), _) => Err(error),
            (None, End::Lingered) => {
                let message = format!("`{program}` closed its stdout without a result and did not exit{detail}");
                Err(TaskError::fatal("bad_output", message))
            }
            (_, End::Exited(status)) if !status.success() => Err(match (status.code(), signal(*status)) {
                (None, Some(number)) => {
                    TaskError::transient("signal", format!("`{program}` was killed by signal {number}{detail}"))
                }
                (code, _) => {
                    let code = code.unwrap_or(-1);
                    TaskError::transient("exit_status", format!("`{program}` exited with status {code}{detail}"))
                }
            }),
            (Some(Ok(result)), _) => Ok(result.into()),
            (None, End::Exited(_)) => unfinished.map_or_else(|| Ok(Output::default()), Err),
        }
    }
}

impl TaskHandler for Command {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            unless_cancelled(&task.cancel, async {
                let mut running = self.start(&task).await.map_err(|error| self.not_started(&error))?;
                let mut talk = Talk::new(&self.program);
                let end = running.communicate(&mut talk, format!("{}\n", task.input), &task).await?;
                self.conclude(&end, talk, &running.stderr.text())
            })
            .await
        })
    }
}

// === impl Running ===

impl Running {
    /// Writes the input, reads the output and waits for the end at the same time, so that a full pipe never blocks
    /// another one.
    async fn communicate(&mut self, talk: &mut Talk, input: String, task: &Task) -> Result<End, TaskError> {
        let mut feeding = std::pin::pin!(feed(self.stdin.take(), input));
        let (mut fed, mut stdout_ended, mut stderr_ended) = (false, false, false);
        let mut status = None;
        let mut deadline: Option<Instant> = None;
        while status.is_none() || !stdout_ended || !stderr_ended {
            tokio::select! {
                line = self.lines.next(), if !stdout_ended => match line {
                    // The program waits as well: its pipe is full.
                    Some(Line::Long) => task.reserve.answer(LINE_MAX).await,
                    Some(line) => for report in talk.take(line)? {
                        task.progress.send(report).await;
                    },
                    None => stdout_ended = true,
                },
                more = self.stderr.read(), if !stderr_ended => stderr_ended = !more,
                () = &mut feeding, if !fed => fed = true,
                exited = self.child.wait(), if status.is_none() => {
                    let exited = exited.map_err(|error| {
                        TaskError::transient("exit_status", format!("the program cannot be waited for: {error}"))
                    })?;
                    status = Some(exited);
                    self.group.kill();
                    deadline = Some(Instant::now() + DRAIN);
                },
                () = until(deadline), if deadline.is_some() => break,
            }
            if deadline.is_none() && (stdout_ended || talk.outcome.is_some()) {
                deadline = Some(Instant::now() + self.linger);
            }
        }
        self.group.kill();
        Ok(status.map_or(End::Lingered, End::Exited))
    }
}

// === helpers ===

/// Writes the input and closes stdin. A program that does not need the input may close the pipe.
async fn feed(stdin: Option<ChildStdin>, input: String) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn signal(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;

    status.signal()
}
