//! Errors of the operating system at a start, or while a stopped journal is inspected, are reported with exit status 1
//! and the system's own reason. They are neither damage nor a missing journal.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::support::{
    Node, eventually,
    steady::{noise, skipped},
};

/// A data directory with several segments, whose node has stopped.
struct Stopped {
    dir: tempfile::TempDir,
}

// === impl Stopped ===

impl Stopped {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temp directory");
        fs::create_dir(dir.path().join("data")).expect("a directory");
        // Segments of 4 MiB.
        let mut node = Node::start_on(&dir.path().join("data"), "[journal]\nmax_bytes = 67108864\n");
        for number in 0..20 {
            node.publish("t", "e", &json!(number));
        }
        let compacted = node.request("POST", "/api/admin/journal/compact", &[], "");
        assert_eq!(compacted.status, 200, "{compacted:?}");
        for _ in 0..5 {
            node.publish("large", "e", &json!(noise(900_000)));
        }
        assert_eq!(node.terminate(), Some(0));
        let stopped = Self { dir };
        let segments = stopped.all().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "seg"));
        assert!(segments.count() > 1, "{:?}", stopped.all());
        stopped
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// All files and directories in it.
    fn all(&self) -> Vec<PathBuf> {
        let (mut all, mut next) = (Vec::new(), 0);
        all.push(self.data());
        while next < all.len() {
            if all[next].is_dir() {
                let entries = fs::read_dir(&all[next]).expect("it is readable");
                all.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
            next += 1;
        }
        all.remove(0);
        all
    }

    /// The commands that read it, with these limits of the shell.
    fn commands(&self, prefix: &str) -> Vec<(&'static str, Command)> {
        let program = env!("CARGO_BIN_EXE_millstream");
        let commands = [
            "serve --listen 127.0.0.1:0",
            "journal inspect",
            "journal export",
            "journal verify",
            "journal repair --dry-run",
            "journal repair",
            "journal compact",
        ];
        let command = |arguments: &'static str| {
            let mut shell = Command::new("sh");
            let line = format!("{prefix} timeout -s TERM 20 {program} {arguments} --data-dir \"$0\"");
            shell.arg("-c").arg(line).arg(self.data()).stdin(Stdio::null());
            (arguments, shell)
        };
        commands.into_iter().map(command).collect()
    }
}

fn message(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Status 1, the reason, and no advice that would cost anything.
fn assert_refused(output: &Output, reason: &str, what: &str) {
    let message = message(output);
    assert_eq!(output.status.code(), Some(1), "{what}: {message}");
    assert!(message.contains(reason), "{what}: {message}");
    for wrong in ["damaged", "missing", "repair --", "there is no journal", "panicked", "listening on"] {
        assert!(!message.contains(wrong), "{what}: `{wrong}` in {message}");
    }
}

/// A link to itself cannot be opened by any user, so this test needs no special rights.
#[test]
fn a_file_that_cannot_be_opened_is_not_called_damaged() {
    let stopped = Stopped::new();
    for file in stopped.all() {
        let beside = stopped.dir.path().join("beside");
        fs::rename(&file, &beside).expect("it is ours");
        for (arguments, mut command) in stopped.commands("") {
            symlink(&file, &file).expect("it is ours");
            let output = command.output().expect("it runs");
            fs::remove_file(&file).expect("it is still the link");
            let what = format!("{} {arguments}", file.display());
            assert_refused(&output, "symbolic links", &what);
        }
        fs::rename(&beside, &file).expect("it is ours");
    }
    let mut node = Node::start_on(&stopped.data(), "");
    assert_eq!(node.get("/api/topics/t/events").json()["events"].as_array().map(Vec::len), Some(20));
    assert_eq!(node.terminate(), Some(0));
}

/// The user without files of its own.
const UNPRIVILEGED: u32 = 65534;

/// Files of another user. Only root can be another user.
#[test]
fn a_file_that_may_not_be_read_is_not_called_damaged() {
    if !rustix::process::geteuid().is_root() {
        return skipped("a_file_that_may_not_be_read", "only root can be another user");
    }
    let stopped = Stopped::new();
    // The program must be within reach of that user.
    let program = stopped.dir.path().join("millstream");
    fs::copy(env!("CARGO_BIN_EXE_millstream"), &program).expect("a copy");
    let all = stopped.all();
    for path in all.iter().chain([&stopped.data(), &stopped.dir.path().to_owned()]) {
        std::os::unix::fs::chown(path, Some(UNPRIVILEGED), None).expect("we are root");
    }
    for file in &all {
        let mode = fs::metadata(file).expect("it is there").permissions();
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o0)).expect("we are root");
        for (arguments, _) in stopped.commands("") {
            let mut command = Command::new("timeout");
            command.args(["-s", "TERM", "20"]).arg(&program).args(arguments.split(' '));
            command.arg("--data-dir").arg(stopped.data()).uid(UNPRIVILEGED).gid(UNPRIVILEGED).stdin(Stdio::null());
            let output = command.output().expect("it runs");
            assert_refused(&output, "Permission denied", &format!("{} {arguments}", file.display()));
        }
        fs::set_permissions(file, mode).expect("we are root");
    }
}

/// With too few files a node reports that before it listens, and a command reports it or does its work.
#[test]
fn too_few_open_files_are_reported_with_that_reason() {
    let stopped = Stopped::new();
    for limit in (6..40).step_by(3).chain([48, 64]) {
        for (arguments, mut command) in stopped.commands(&format!("ulimit -n {limit};")) {
            let output = command.output().expect("it runs");
            let what = format!("{limit} files, {arguments}");
            if output.status.code() == Some(0) {
                assert!(!arguments.starts_with("serve") && !message(&output).contains("panicked"), "{what}");
                continue;
            }
            assert_refused(&output, "open files", &what);
        }
    }
}

#[test]
fn a_node_with_few_open_files_takes_as_many_connections_as_it_can() {
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let limit = 64 + 4 * workers + 40;
    let node = Node::start_with_files(limit);
    let most = node.metric("millstream_connections_limit");
    assert_eq!(most, 20.0, "half of the remaining files");
    let mut streams: Vec<_> = (0..19).map(|_| node.stream("/events", &[])).collect();
    for stream in &mut streams {
        stream.until("connection");
    }
    // Above it there is a response, and the listener continues. The last connection counts after its worker has
    // accepted it.
    let _last = node.socket();
    eventually(|| (node.get("/healthz").status == 503).then_some(()));
    drop(streams);
    eventually(|| (node.get("/readyz").status == 200).then_some(()));
    node.publish("t", "e", &json!(1));
}

/// The clock of the machine as the program sees it, by a library that is loaded before the system's.
fn clock_of_1960(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    let text = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <time.h>\n\
        int clock_gettime(clockid_t id, struct timespec *t) {\n\
          static int (*real)(clockid_t, struct timespec *);\n\
          if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, \"clock_gettime\");\n\
          int done = real(id, t);\n  if (id == CLOCK_REALTIME) t->tv_sec -= 2100000000;\n  return done;\n}\n";
    fs::write(&source, text).expect("write the source");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    built.is_ok_and(|built| built.status.success()).then_some(library)
}

/// A node needs a later clock. The other commands report that, or do not need it.
#[test]
fn a_clock_before_1970_is_reported_with_that_reason() {
    let stopped = Stopped::new();
    let Some(library) = clock_of_1960(stopped.dir.path()) else {
        return skipped("a_clock_before_1970", "there is no C compiler here");
    };
    for (arguments, mut command) in stopped.commands(&format!("LD_PRELOAD={}", library.display())) {
        let output = command.output().expect("it runs");
        if output.status.code() == Some(0) {
            assert!(!arguments.starts_with("serve") && !message(&output).contains("panicked"), "{arguments}");
            continue;
        }
        assert_refused(&output, "before 1970", arguments);
    }
    let mut node = Node::start_on(&stopped.data(), "");
    assert_eq!(node.terminate(), Some(0));
}
