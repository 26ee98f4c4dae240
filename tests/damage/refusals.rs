//! The message and the exit code of `serve` for a directory that it rejects. It leaves the directory unchanged.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    segments::{Frame, HIGH_WATER_MARK, SLOTS, frames, segment},
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

/// Damages a copy of the journal; `serve` must say these words, and change nothing.
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

#[test]
fn a_missing_changed_or_empty_high_water_mark_is_damage() {
    let sound = Sound::small();
    refused(
        &sound,
        |dir| fs::remove_file(dir.join(HIGH_WATER_MARK)).expect("it is there"),
        &["`journal/MARK` is missing"],
    );
    let changed = "`journal/MARK` is not as it was written";
    let both = |dir: &Path| [0, SLOTS.0].iter().for_each(|slot| flip(&dir.join(HIGH_WATER_MARK), slot + 9));
    refused(&sound, both, &[changed]);
    refused(&sound, |dir| cut(&dir.join(HIGH_WATER_MARK), 0), &[changed]);
    refused(&sound, |dir| cut(&dir.join(HIGH_WATER_MARK), 20), &[changed]);
}

#[test]
fn a_journal_that_has_lost_segments_is_damage() {
    let sound = Sound::small();
    let remove = |dir: &Path, number| fs::remove_file(dir.join(segment(number))).expect("it is there");
    let oldest = ["the oldest segment, `journal/0000000001.seg`, is missing"];
    refused(&sound, |dir| remove(dir, 1), &oldest);

    let sound = Sound::with_segments();
    let last = *sound.segments().last().expect("segments");
    // Its commits: 5 small ones, 12 large ones, and 20 small ones.
    let acknowledged = "commit 37 was acknowledged";
    let ends = |number: u32| {
        let frames = frames(&fs::read(sound.dir().join(segment(number))).expect("a segment"));
        format!("byte {} of `{}`", frames.last().expect("a commit").end, segment(number))
    };
    refused(&sound, |dir| remove(dir, 1), &oldest);
    for lost in [2, last - 1, last] {
        refused(&sound, |dir| remove(dir, lost), &[acknowledged, &ends(lost - 1)]);
    }
    // All but the oldest one, and all but the last one.
    refused(&sound, |dir| (2..=last).for_each(|number| remove(dir, number)), &[acknowledged, &ends(1)]);
    refused(&sound, |dir| (1..last).for_each(|number| remove(dir, number)), &oldest);
    // One with the name of another, or without content, or with another header.
    let rename = |dir: &Path| fs::rename(dir.join(segment(3)), dir.join(segment(2))).expect("it is there");
    let copy = |dir: &Path| fs::copy(dir.join(segment(1)), dir.join(segment(2))).expect("it is there");
    let header = |number: u32| format!("the header of `{}` is damaged", segment(number));
    refused(&sound, rename, &[acknowledged, &header(2)]);
    refused(&sound, |dir| _ = copy(dir), &[acknowledged, &header(2)]);
    refused(&sound, |dir| cut(&dir.join(segment(2)), 0), &[acknowledged, &header(2)]);
    refused(&sound, |dir| flip(&dir.join(segment(last)), 40), &[acknowledged, &header(last)]);
}

#[test]
fn a_log_that_was_changed_or_cut_off_is_damage() {
    let sound = Sound::small();
    let log = segment(1);
    let frames = frames(&fs::read(sound.dir().join(&log)).expect("a file"));
    let (middle, last) = (&frames[frames.len() / 2], frames.last().expect("a frame"));
    let acknowledged = "commit 100 was acknowledged";
    let location = |frame: &Frame| format!("byte {} of `{log}`", frame.head.start);
    let changed = |dir: &Path| flip(&dir.join(&log), middle.head.start + 20);
    refused(&sound, changed, &[acknowledged, "commit 51 cannot be read", &location(middle)]);
    let cut = |dir: &Path, length: usize| cut(&dir.join(&log), length as u64);
    refused(&sound, |dir| cut(dir, last.end - 1), &[acknowledged, "ends with commit 99", &location(last)]);
    refused(&sound, |dir| cut(dir, middle.head.end), &[acknowledged, "ends with commit 50", &location(middle)]);
    refused(&sound, |dir| cut(dir, 0), &[acknowledged, &format!("the header of `{log}` is damaged")]);
}

/// Version 0.1 had its data in `journal/store`. They are not read, and not taken for an empty journal.
#[test]
fn a_journal_of_version_0_1_is_refused_with_the_way_to_convert_it() {
    let dir = tempfile::tempdir().expect("a temp directory");
    fs::create_dir_all(dir.path().join("journal/store/keyspaces")).expect("a directory");
    fs::write(dir.path().join("journal/store/0.jnl"), "FJL").expect("a file");
    fs::write(dir.path().join(HIGH_WATER_MARK), [1; 64]).expect("a file");
    let before = contents(dir.path());
    let mut outputs = vec![("serve", serve(dir.path()))];
    for command in ["inspect", "export", "verify", "repair", "compact"] {
        let mut journal = Command::new(env!("CARGO_BIN_EXE_millstream"));
        journal.args(["journal", command, "--data-dir"]).arg(dir.path());
        let journal = journal.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        outputs.push((command, watch(journal.spawn().expect("the binary starts"))));
    }
    for (command, (code, message)) in outputs {
        assert_eq!(code, Some(64), "{command}: {message}");
        let location = dir.path().display().to_string();
        for word in ["Millstream 0.1", "journal export", "journal import", "Nothing was changed", &location] {
            assert!(message.contains(word), "{command}: `{word}` is not in: {message}");
        }
        assert_eq!(contents(dir.path()), before, "{command}");
    }
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
