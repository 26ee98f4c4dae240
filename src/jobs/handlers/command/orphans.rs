//! Processes that leave the group of their program (`setsid`), and processes without a parent.
//!
//! Owns what this process knows of its children. It is one state per process, as children are: two nodes in one process
//! share it.
//!
//! - Each program has a *mark* in its environment ([`VARIABLE`]), which its children inherit.
//! - [`adopt`] makes this process the parent of every descendant whose own parent has ended. When a program ends, or a
//!   child dies, a sweep looks at the children that were not started here: it reaps those that have ended, and kills those
//!   whose program runs no longer. Only the program of a node may adopt: a library must not change the process it is in.
//! - When this process dies, a *guard* (a shell, as the lifelines are) kills every process that has a mark of it.
//!
//! A child that has removed the mark from its environment is killed once all programs have ended that ran when it was
//! first seen. Two such processes are not found: those that outlive a killed node, and those of a node that is process 1,
//! where other processes of the container lose their parents too; a container ends with its process 1 anyway.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// The environment variable that marks programs and what they start.
pub const VARIABLE: &str = "MILLSTREAM_LIFELINE";

/// Children die many at a time; one sweep does for all that die within this time.
const PAUSE: Duration = Duration::from_millis(20);

/// Kills what has a mark (`$1`) in its environment. A killed process may have started another meanwhile, so it looks
/// again until it finds none. Only the shell itself: its environment is empty, so it has no `PATH`.
const GUARD: &str = r#"
trap '' HUP INT QUIT TERM
read -r _
for pass in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for process in /proc/[0-9]*; do
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in *"$1"*) kill -s KILL "${process#/proc/}" && found=1; break ;; esac
        done 2>/dev/null <"$process/environ"
    done
    [ -n "$found" ] || break
done
"#;

/// What this process knows of its children.
struct Family {
    /// Marks of this process begin so.
    name: String,
    /// The mark of a node outside, if a command of that node runs this one.
    outer: Option<String>,
    state: Mutex<State>,
    /// A program has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    adopts: bool,
    guard: Option<Child>,
    /// Processes that were started here and that others wait for.
    children: HashSet<Pid>,
    /// Numbers of the programs that run.
    running: BTreeSet<u64>,
    last: u64,
    /// Children without a mark, and the programs that ran when they were first seen.
    strays: HashMap<Pid, BTreeSet<u64>>,
}

/// The mark of a running program. When it is dropped, the program counts as ended.
#[derive(Debug)]
pub struct Mark(u64);

static FAMILY: LazyLock<Family> = LazyLock::new(|| Family {
    name: format!("{:016x}", rand::random::<u64>()),
    outer: std::env::var(VARIABLE).ok(),
    state: Mutex::default(),
    ended: Notify::new(),
});

/// Starts a process that its caller waits for.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: &mut tokio::process::Command) -> io::Result<tokio::process::Child> {
    // Held while it starts: a sweep must not see a child before it is known.
    let mut state = FAMILY.state();
    let child = command.spawn()?;
    if state.adopts {
        state.children.extend(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    }
    Ok(child)
}

/// The mark that this process has itself, for what it starts beside programs.
pub fn inherited() -> Option<(&'static str, &'static str)> {
    FAMILY.outer.as_deref().map(|outer| (VARIABLE, outer))
}

/// Makes this process the parent of all descendants whose parents have ended, and looks after them; never ends.
pub async fn adopt() {
    let adopted = set_child_subreaper(Some(getpid())).map_err(io::Error::from).and_then(|()| children().map(drop));
    let died = signal(SignalKind::child());
    let (Ok(()), Ok(mut died)) = (&adopted, died) else {
        tracing::warn!(?adopted, "processes that leave the group of their command will not be ended");
        return;
    };
    FAMILY.state().adopts = true;
    loop {
        tokio::select! { _ = died.recv() => {}, () = FAMILY.ended.notified() => {} }
        tokio::time::sleep(PAUSE).await;
        // The scan reads files of the kernel.
        let swept = tokio::task::spawn_blocking(|| FAMILY.state().sweep()).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "the children of this process cannot be listed");
        }
    }
}

// === impl Family ===

impl Family {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program that a process belongs to by its mark.
    fn program(&self, pid: Pid) -> Option<u64> {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).ok()?;
        let name = format!("{}-", self.name);
        let at = memchr::memmem::find(&environment, name.as_bytes())? + name.len();
        let digits: Vec<u8> = environment[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
        String::from_utf8(digits).ok()?.parse().ok()
    }
}

// === impl State ===

impl State {
    /// Sees to it that a guard stands.
    fn watch(&mut self) {
        if self.guard.as_mut().is_some_and(|guard| matches!(guard.try_wait(), Ok(None))) {
            return;
        }
        let guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "millstream-guard", &format!("{}-", FAMILY.name)])
            .env_clear()
            .envs(inherited())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(guard) => {
                if self.adopts {
                    self.children.extend(Pid::from_raw(guard.id().cast_signed()));
                }
                self.guard = Some(guard);
            }
            // As without a lifeline.
            Err(error) => {
                tracing::warn!(%error, "processes that leave their command will outlive this node if it is killed");
            }
        }
    }

    /// Reaps the children that nothing else waits for, and kills those whose program has ended.
    fn sweep(&mut self) -> io::Result<()> {
        let listed = children()?;
        self.children.retain(|pid| listed.contains(pid) || Process::of(*pid).is_some_and(|process| process.own()));
        self.strays.retain(|pid, _| listed.contains(pid));
        for pid in listed {
            if self.children.contains(&pid) {
                continue;
            }
            match Process::of(pid) {
                Some(process) if process.ended() => {
                    // It is a child of this process, so its id cannot belong to another one yet.
                    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
                }
                Some(_) if self.left_behind(pid) => {
                    tracing::info!(pid = pid.as_raw_pid(), "ending a process that has outlived its command");
                    let _ = kill_process(pid, Signal::KILL);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// True if the program that a process comes from runs no longer.
    fn left_behind(&mut self, pid: Pid) -> bool {
        if let Some(program) = FAMILY.program(pid) {
            return !self.running.contains(&program);
        }
        // The parents of others come here too.
        if getpid().is_init() {
            return false;
        }
        let suspects = self.strays.entry(pid).or_insert_with(|| self.running.clone());
        suspects.is_disjoint(&self.running)
    }
}

// === impl Mark ===

impl Mark {
    /// The mark of a program that is about to start.
    pub fn new() -> Self {
        let mut state = FAMILY.state();
        state.watch();
        state.last += 1;
        let number = state.last;
        state.running.insert(number);
        Self(number)
    }

    /// What stands in the environment.
    pub fn value(&self) -> String {
        let own = format!("{}-{}", FAMILY.name, self.0);
        FAMILY.outer.as_ref().map_or(own.clone(), |outer| format!("{outer}/{own}"))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        FAMILY.state().running.remove(&self.0);
        FAMILY.ended.notify_one();
    }
}

// === helpers ===

/// What the system says of a process.
struct Process {
    state: u8,
    parent: i32,
}

impl Process {
    fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
        // The name of the program stands in parentheses and may contain any byte.
        let rest = &stat[memchr::memrchr(b')', &stat)? + 1..];
        let mut fields = rest.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let state = *fields.next()?.first()?;
        let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        Some(Self { state, parent })
    }

    fn own(&self) -> bool {
        self.parent == getpid().as_raw_pid()
    }

    fn ended(&self) -> bool {
        self.own() && matches!(self.state, b'Z' | b'X')
    }
}

/// The children of this process, of all its threads.
fn children() -> io::Result<HashSet<Pid>> {
    let mut found = HashSet::new();
    for thread in fs::read_dir("/proc/self/task")? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?))),
            Err(_) if found.is_empty() && !fs::exists("/proc/thread-self/children")? => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the kernel lists no children (CONFIG_PROC_CHILDREN)",
                ));
            }
            // A thread that has ended meanwhile.
            Err(_) => {}
        }
    }
    Ok(found)
}
