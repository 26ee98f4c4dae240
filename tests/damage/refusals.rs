//! The message and the exit code of `serve` for a directory that it rejects. It leaves the directory unchanged.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    store::{Sound, contents},
    support::{Node, eventually, steady::skipped},
};

/// Runs `serve` on a directory that it will reject: its exit code and its output.
fn serve(data: &Path) -> (Option<i32>, String) {
    watch(command(data).spawn().expect("the binary starts"))
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn watch(mut child: Child) -> (Option<i32>, String) {
    let mut message = String::new();
    child.stderr.take().expect("stderr is piped").read_to_string(&mut message).expect("text");
    let code = eventually(|| child.try_wait().expect("it is our child")).code();
    assert!(!message.contains("panicked"), "{message}");
    (code, message)
}

/// Damages a copy of the store; `serve` must say these words, and change nothing.
#[track_caller]
fn refused(sound: &Sound, damage: impl FnOnce(&Path), words: &[&str]) {
    let dir = sound.copy();
    damage(dir.path());
    let before = contents(dir.path());
    let (code, message) = serve(dir.path());
    assert_eq!(code, Some(65), "{message}");
    let location = dir.path().display().to_string();
    for word in words.iter().chain(&[location.as_str(), "is damaged", "Nothing was changed", "verify", "repair"]) {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    let after = contents(dir.path());
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "files came or went");
    assert_eq!(after, before, "a file was changed");
}

/// Changes a byte.
fn flip(path: &Path, location: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[location] ^= 1;
    fs::write(path, bytes).expect("a file");
}

fn cut(path: &Path, length: u64) {
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.set_len(length).expect("a length");
}

const LOG: &str = "journal/store/0.jnl";
const HIGH_WATER_MARK: &str = "journal/MARK";

#[test]
fn a_missing_changed_or_empty_high_water_mark_is_damage() {
    let sound = Sound::small();
    refused(
        &sound,
        |dir| fs::remove_file(dir.join(HIGH_WATER_MARK)).expect("it is there"),
        &["`journal/MARK` is missing"],
    );
    refused(&sound, |dir| flip(&dir.join(HIGH_WATER_MARK), 9), &["`journal/MARK`: it is not as it was written"]);
    refused(&sound, |dir| cut(&dir.join(HIGH_WATER_MARK), 0), &["`journal/MARK`: it is not as it was written"]);
    refused(&sound, |dir| cut(&dir.join(HIGH_WATER_MARK), 20), &["`journal/MARK`: it is not as it was written"]);
}

#[test]
fn a_store_that_is_missing_or_has_lost_files_is_damage() {
    let sound = Sound::small();
    let store = |dir: &Path| dir.join("journal/store");
    refused(&sound, |dir| fs::remove_dir_all(store(dir)).expect("it is there"), &["`journal/store` is missing"]);
    for (file, word) in [
        ("keyspaces/1/current", "the file `current` is missing"),
        ("keyspaces/0/current", "the file `current` is missing"),
        ("keyspaces/1/v0", "list of tables"),
        ("version", "`version` is missing"),
        ("0.jnl", "write-ahead log is missing"),
    ] {
        refused(&sound, |dir| fs::remove_file(store(dir).join(file)).expect("it is there"), &[word]);
    }
    for tree in ["keyspaces/0", "keyspaces/1"] {
        refused(&sound, |dir| fs::remove_dir_all(store(dir).join(tree)).expect("it is there"), &["a tree is missing"]);
    }
}

#[test]
fn a_log_that_was_changed_or_cut_off_is_damage() {
    let sound = Sound::small();
    let length = fs::metadata(sound.dir().join(LOG)).expect("a file").len();
    let middle = usize::try_from(length / 2).expect("it is small");
    refused(&sound, |dir| flip(&dir.join(LOG), middle), &["commit 100 was acknowledged", "0.jnl", "at byte"]);
    refused(&sound, |dir| cut(&dir.join(LOG), length - 1), &["commit 100 was acknowledged"]);
    refused(&sound, |dir| cut(&dir.join(LOG), length / 2), &["commit 100 was acknowledged"]);
    // An empty log is what a new one looks like: that something is missing shows once the store is open.
    let dir = sound.copy();
    cut(&dir.path().join(LOG), 0);
    let (code, message) = serve(dir.path());
    assert_eq!(code, Some(65), "{message}");
    assert!(message.contains("its store is empty, but commits were acknowledged"), "{message}");
}

#[test]
fn a_file_is_no_data_directory() {
    let dir = tempfile::tempdir().expect("a temp directory");
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("a file");
    for data in [file.clone(), file.join("below")] {
        let (code, message) = serve(&data);
        assert_eq!(code, Some(64), "{message}");
        assert!(message.contains("is not a directory") && message.contains("--data-dir"), "{message}");
    }
    assert_eq!(fs::read_to_string(&file).expect("a file"), "mine");
}

#[test]
fn a_second_process_on_the_same_directory_gets_the_owner() {
    let node = Node::start("");
    node.publish("t", "e", &serde_json::json!(1));
    let (code, message) = serve(&node.data_dir());
    assert_eq!(code, Some(1), "{message}");
    for word in ["in use", &format!("pid {}", node.pid()), "--data-dir", &node.data_dir().display().to_string()] {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    node.must_be_healthy();
}

#[test]
fn a_directory_that_may_not_be_written_is_named() {
    let dir = tempfile::tempdir().expect("a temp directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).expect("it is ours");
    let mut command = command(dir.path());
    if rustix::process::geteuid().is_root() {
        // Root may write everywhere; the user `nobody` may not.
        command.uid(65534).gid(65534).current_dir("/");
    }
    let Ok(child) = command.spawn() else {
        skipped("a_directory_that_may_not_be_written_is_named", "only root may run the program in its directory");
        return;
    };
    let (code, message) = watch(child);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains(&dir.path().display().to_string()) && message.contains("cannot be used"), "{message}");
}
