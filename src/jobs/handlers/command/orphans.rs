//! Processes that leave the group of their program (`setsid`), and processes without a parent.
//!
//! Owns the state of this process about its children. There is one state per process, as for children: two nodes in one
//! process share it.
//!
//! - Each program has a *marker* in its environment ([`VARIABLE`]), which its children inherit.
//! - [`adopt`] makes this process the parent of every descendant whose own parent has ended. When a program ends, or a
//!   child dies, a sweep checks the children that were not started here: it reaps those that have ended, and kills
//!   those whose program has ended. Only the program of a node may adopt: a library must not change its process.
//! - When this process dies, a *guard* (a shell, as the lifelines are) kills every process that has a marker of it.
//!
//! A child that has removed the marker from its environment is killed after all programs have ended that ran when it
//! was first seen. Two kinds of such processes are not found: those that outlive a killed node, and those of a node
//! that is process 1, where other processes of the container lose their parents too. A container ends with its process
//! 1 anyway.

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

/// The environment variable with the marker of programs and their children.
pub(super) const VARIABLE: &str = "MILLSTREAM_LIFELINE";

/// Children often die together; one sweep handles all that die within this time.
const PAUSE: Duration = Duration::from_millis(20);

/// Kills processes with a marker (`$1`) in their environment. A killed process may have started another one meanwhile,
/// so it searches again until it finds none. It uses only the shell itself: its environment is empty, so it has no
/// `PATH`.
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

/// Prefix of the markers of this process.
struct Family {
    /// Marks of this process begin so.
    name: String,
    /// The marker of an outer node, if a command of that node runs this one.
    outer: Option<String>,
    state: Mutex<State>,
    /// Notified when a program has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    adopts: bool,
    guard: Option<Child>,
    /// Processes that were started here and that other code waits for.
    children: HashSet<Pid>,
    /// Numbers of the programs that run.
    running: BTreeSet<u64>,
    last: u64,
    /// Children without a marker, and the programs that ran when they were first seen.
    strays: HashMap<Pid, BTreeSet<u64>>,
}

/// The marker of a running program. When it is dropped, the program counts as ended.
#[derive(Debug)]
pub(super) struct Marker(u64);

static FAMILY: LazyLock<Family> = LazyLock::new(|| Family {
    name: format!("{:016x}", rand::random::<u64>()),
    outer: std::env::var(VARIABLE).ok(),
    state: Mutex::default(),
    ended: Notify::new(),
});

/// Starts a process that its caller waits for.
///
/// # Errors
/// If it cannot be started.
pub(super) fn spawn(command: &mut tokio::process::Command) -> io::Result<tokio::process::Child> {
    // Held during the start: a sweep must not see a child before it is registered.
    let mut state = FAMILY.state();
    let child = command.spawn()?;
    if state.adopts {
        state.children.extend(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    }
    Ok(child)
}

/// The marker of this process itself, for processes that it starts in addition to programs.
pub(super) fn inherited() -> Option<(&'static str, &'static str)> {
    FAMILY.outer.as_deref().map(|outer| (VARIABLE, outer))
}

/// Makes this process the parent of all descendants whose parents have ended, and reaps them; never ends.
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

    /// The program of a process, by its marker.
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
    /// Starts a guard if none runs.
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
            // The node also continues without a lifeline.
            Err(error) => {
                tracing::warn!(%error, "processes that leave their command will outlive this node if it is killed");
            }
        }
    }

    /// Reaps the children that no other code waits for, and kills those whose program has ended.
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

    /// True if the program that started a process has ended.
    fn left_behind(&mut self, pid: Pid) -> bool {
        if let Some(program) = FAMILY.program(pid) {
            return !self.running.contains(&program);
        }
        // The parents of other processes are here too.
        if getpid().is_init() {
            return false;
        }
        let suspects = self.strays.entry(pid).or_insert_with(|| self.running.clone());
        suspects.is_disjoint(&self.running)
    }
}

// === impl Marker ===

impl Marker {
    /// The marker of a program that will start.
    pub(super) fn new() -> Self {
        let mut state = FAMILY.state();
        state.watch();
        state.last += 1;
        let number = state.last;
        state.running.insert(number);
        Self(number)
    }

    /// The value of the environment variable.
    pub(super) fn value(&self) -> String {
        let own = format!("{}-{}", FAMILY.name, self.0);
        FAMILY.outer.as_ref().map_or(own.clone(), |outer| format!("{outer}/{own}"))
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        FAMILY.state().running.remove(&self.0);
        FAMILY.ended.notify_one();
    }
}

// === helpers ===

/// The state of a process in the kernel's list.
struct Process {
    state: u8,
    parent: i32,
}

impl Process {
    fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
        // The name of the program is in parentheses and may contain any byte.
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
