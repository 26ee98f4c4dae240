//! `journal`: on the directory of a node that was killed, sound and damaged, and through a node that runs.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Ended, Node, PATIENCE, Program};

/// A data directory.
struct Data(tempfile::TempDir);

// === impl Data ===

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The directory of a killed node with this number of events, which differ in their data.
    fn of_killed_node(events: usize) -> Self {
        let data = Self::new();
        let node = data.serve();
        for n in 0..events {
            node.run(&["publish", &format!("t:{}", n % 3), &format!("payload-{n}-{}", "x".repeat(700))], None)
                .expect(0);
        }
        node.program.signal(Signal::KILL);
        node.program.end();
        data
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn serve(&self) -> Node {
        let dir = self.path();
        let arguments = ["--data-dir", dir.to_str().unwrap()];
        Node::start_with("127.0.0.1:0", &arguments, &[("MILLSTREAM__JOURNAL__KIND", "embedded")])
    }

    fn journal(&self, arguments: &[&str]) -> Ended {
        let dir = self.path();
        let whole = [&["journal"], arguments, &["--data-dir", dir.to_str().unwrap()]].concat();
        Program::start(&whole, None).end()
    }

    /// The content of an export, without the epoch.
    fn export(&self) -> Vec<Value> {
        let rows = self.journal(&["export"]).expect(0).rows();
        rows.into_iter().map(without_epoch).collect()
    }

    /// Every file of the journal, with its bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.path().join("journal"), &mut files);
        files
    }

    /// The store's log.
    fn log(&self) -> PathBuf {
        let is_log = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "jnl");
        self.files().keys().rfind(is_log).unwrap().clone()
    }

    /// Changes one byte of a log: where this text stands, or the tag of the entry that it stands in.
    fn damage(path: &Path, text: &str, tag: bool) {
        let mut bytes = fs::read(path).unwrap();
        let mut at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        if tag {
            let key = bytes[..at].windows(8).rposition(|window| window == b"e\0\0\0\0\0\0\0").unwrap();
            at = key - 21;
            assert_eq!(bytes[at], 2, "an entry begins here");
        }
        bytes[at] ^= 0xff;
        fs::write(path, bytes).unwrap();
    }

    /// The node refuses the directory.
    fn assert_refused(&self) {
        let dir = self.path();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()];
        let ended = Program::start_with(&serve, None, &[("MILLSTREAM__JOURNAL__KIND", "embedded")]).end().expect(65);
        assert!(ended.stderr.contains("millstream journal repair --data-dir"), "{}", ended.stderr);
    }

    /// Repairs it, and checks that a node continues with it and reports the gap to old clients.
    fn repair(&self) -> (Value, Vec<Value>) {
        let old = self.path().join("journal/store");
        let before = self.files();
        let planned = self.journal(&["repair", "--dry-run", "--json"]).expect(0).rows().remove(0);
        assert_eq!((&planned["damagedStore"], before == self.files()), (&Value::Null, true));
        let repaired = self.journal(&["repair", "--json"]).expect(0).rows().remove(0);
        assert_eq!(planned["events"], repaired["events"]);
        let damaged = PathBuf::from(repaired["damagedStore"].as_str().unwrap());
        for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with(&old)) {
            let kept = fs::read(damaged.join(path.strip_prefix(&old).unwrap())).unwrap();
            assert!(kept == *bytes, "{} has changed", path.display());
        }
        let verified = self.journal(&["verify", "--json"]).expect(0).rows().remove(0);
        assert_eq!(verified["events"], repaired["events"]);
        let export = self.export();
        let node = self.serve();
        let events = node.get("/api/admin/journal/export");
        assert_eq!(events.matches("payload-").count(), export.len());
        let watch = ["watch", "--all", "t:*", "--since-id", "abc-1", "--until", "gap"];
        let gap = node.run(&watch, None).expect(0);
        assert!(gap.stdout.contains("foreign"), "{}", gap.stdout);
        node.run(&["publish", "t:0", "after"], None).expect(0);
        (repaired, export)
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
}

fn without_epoch(mut row: Value) -> Value {
    let offset = row["id"].as_str().unwrap().split_once('-').unwrap().1.to_owned();
    row["id"] = offset.into();
    row
}

fn without(rows: &[Value], text: &str) -> Vec<Value> {
    rows.iter().filter(|row| !row["data"].as_str().unwrap().starts_with(text)).cloned().collect()
}

#[test]
fn inspecting_a_killed_node_shows_everything_and_changes_nothing() {
    let data = Data::of_killed_node(6);
    let before = data.files();
    let inspected = data.journal(&["inspect", "--json"]).expect(0).rows().remove(0);
    assert_eq!((&inspected["events"], &inspected["lastStop"]), (&6.into(), &"killed".into()), "{inspected}");
    assert_eq!(inspected["topTopics"].as_array().unwrap().len(), 3);
    let rows = data.journal(&["export"]).expect(0).rows();
    let head = rows.last().unwrap()["id"].clone();
    assert_eq!((rows.len(), &inspected["head"]), (6, &head));
    let names: Vec<_> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "topic", "event", "data", "timestamp"]);
    let some = data.journal(&["export", "--topic", "t:1", "--topic", "t:2", "--limit", "2"]).expect(0).rows();
    assert_eq!(some, rows[1..3]);
    assert_eq!(data.journal(&["export", "--after", rows[3]["id"].as_str().unwrap()]).expect(0).rows(), rows[4..]);
    data.journal(&["export", "--after", "abc-1"]).expect(64);
    assert!(data.journal(&["verify"]).expect(0).stdout.starts_with("sound: 6 events, 3 topics"));
    assert!(data.journal(&["repair"]).expect(0).stdout.contains("nothing was changed"));
    assert!(before == data.files(), "looking has changed something");

    data.journal(&["compact"]).expect(0);
    assert_eq!(data.journal(&["export"]).expect(0).rows(), rows);
    let inspected = data.journal(&["inspect"]).expect(0).stdout;
    assert!(inspected.contains("last stop  in order"), "{inspected}");
}

#[test]
fn a_running_node_is_asked_by_its_url() {
    let data = Data::new();
    let node = data.serve();
    node.run(&["publish", "t", r#"{"a":1}"#], None).expect(0);
    let refused = data.journal(&["export"]).expect(1).stderr;
    assert!(refused.contains("--url") && refused.contains("by process "), "{refused}");
    let url = node.url();
    let run = |command: &str| Program::start(&["journal", command, "--url", &url], None).end();
    let rows = run("export").expect(0).rows();
    assert_eq!((rows.len(), &rows[0]["topic"], &rows[0]["data"]["a"]), (1, &"t".into(), &1.into()));
    assert!(run("inspect").expect(0).stdout.contains("events     1"));
    assert!(run("verify").expect(0).stdout.starts_with("sound: 1 events"));
    assert!(run("compact").expect(0).stdout.contains("bytes on the disk"));
    assert!(run("repair").expect(64).stderr.contains("stopped"));
    let both = ["journal", "verify", "--url", &url, "--data-dir", "x"];
    Program::start(&both, None).end().expect(64);
    assert!(
        node.run(&["journal", "inspect"], None).expect(0).stdout.contains("events     1"),
        "MILLSTREAM_URL names it"
    );
}

#[test]
fn the_journal_in_memory_is_asked_by_its_url_as_well() {
    let node = Node::start();
    node.run(&["publish", "t", "x"], None).expect(0);
    let url = node.url();
    let run = |command: &str| Program::start(&["journal", command, "--url", &url], None).end();
    assert_eq!(run("export").expect(0).rows().len(), 1);
    assert!(run("inspect").expect(0).stdout.contains("events     1"));
    assert!(run("verify").expect(0).stdout.starts_with("sound"));
    run("compact").expect(0);
}

#[test]
fn where_there_is_no_journal_none_is_made() {
    let data = Data::new();
    for command in ["export", "inspect", "verify", "repair", "compact"] {
        let message = data.journal(&[command]).expect(64).stderr;
        assert!(message.contains(&format!("there is no journal in `{}`", data.path().display())), "{message}");
    }
    assert!(!data.path().exists());
}

#[test]
fn a_changed_byte_in_the_log_costs_its_own_commit_alone() {
    // One in the data, and one in what holds the entries of the log together.
    for (lost, tag) in [("payload-0-", false), ("payload-4-", false), ("payload-5-", true)] {
        let data = Data::of_killed_node(7);
        let before = data.export();
        Data::damage(&data.log(), lost, tag);
        let verified = data.journal(&["verify", "--json"]).expect(65).rows().remove(0);
        assert_eq!(verified["counts"]["damaged-log"], 1, "{verified}");
        data.journal(&["export"]).expect(65);
        data.journal(&["compact"]).expect(65);
        // What can still be read behind the damage is left there.
        let files = data.files();
        data.assert_refused();
        assert!(files == data.files(), "a start has changed something");
        let (_, after) = data.repair();
        assert_eq!(after, without(&before, lost));
    }
}

#[test]
fn a_log_that_was_cut_off_costs_its_end() {
    let data = Data::of_killed_node(6);
    let before = data.export();
    let log = data.log();
    let bytes = fs::read(&log).unwrap();
    let cut = bytes.windows(10).position(|window| window == b"payload-4-").unwrap();
    fs::write(&log, &bytes[..cut]).unwrap();
    let verified = data.journal(&["verify", "--json"]).expect(65).rows().remove(0);
    assert_eq!(verified["counts"]["lost-commits"], 1, "{verified}");
    data.assert_refused();
    let (_, after) = data.repair();
    assert_eq!(after, before[..4]);
}

#[test]
fn a_changed_byte_in_a_table_costs_little() {
    let data = Data::of_killed_node(30);
    data.journal(&["compact"]).expect(0);
    let before = data.export();
    let largest =
        data.files().into_iter().max_by_key(|(path, bytes)| (path.parent().unwrap().ends_with("tables"), bytes.len()));
    let (table, mut bytes) = largest.unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).unwrap();
    let verified = data.journal(&["verify", "--json"]).expect(65).rows().remove(0);
    assert!(verified["counts"]["unreadable"].as_u64().unwrap() > 0, "{verified}");
    let (repaired, after) = data.repair();
    assert_eq!(after.len() as u64 + repaired["lostEvents"].as_u64().unwrap(), 30, "{repaired}");
    assert!(after.len() >= 15, "{repaired}");
    assert!(after.iter().all(|row| before.contains(row)));
}

#[test]
fn a_missing_or_damaged_high_water_mark_is_created_again() {
    for remove in [true, false] {
        let data = Data::of_killed_node(3);
        let before = data.export();
        let high_water_mark = data.path().join("journal/MARK");
        if remove {
            fs::remove_file(&high_water_mark).unwrap();
        } else {
            fs::write(&high_water_mark, "nonsense").unwrap();
        }
        let verified = data.journal(&["verify", "--json"]).expect(65).rows().remove(0);
        assert_eq!(verified["counts"]["damaged-mark"], 1, "{verified}");
        data.assert_refused();
        assert_eq!(data.repair().1, before);
    }
}

#[test]
fn a_store_that_cannot_be_opened_is_reported_as_beyond_repair() {
    let data = Data::of_killed_node(1);
    fs::write(data.path().join("journal/store/version"), "?").unwrap();
    let before = data.files();
    let message = data.journal(&["repair"]).expect(65).stderr;
    assert!(message.contains("backup") && message.contains("Nothing was changed"), "{message}");
    data.journal(&["verify"]).expect(65);
    assert!(before == data.files());
}

#[test]
fn a_reader_that_leaves_ends_an_export_without_a_word() {
    let data = Data::new();
    let node = data.serve();
    for _ in 0..4 {
        node.run(&["publish", "t", &"x".repeat(100_000)], None).expect(0);
    }
    let url = node.url();
    let mut child = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["journal", "export", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let until = std::time::Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < until, "it hangs");
        std::thread::yield_now();
    }
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(141), ""));
}
