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

    /// The last segment of the log.
    fn log(&self) -> PathBuf {
        let is_segment = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "seg");
        self.files().keys().rfind(is_segment).unwrap().clone()
    }

    /// Changes one byte of the log: where this text stands, or in the head of the commit that it stands in.
    fn damage(&self, text: &str, head: bool) {
        let path = self.log();
        let mut bytes = fs::read(&path).unwrap();
        let mut at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        if head {
            at = bytes[..at].windows(4).rposition(|window| window == b"MSFR").unwrap() + 20;
        }
        bytes[at] ^= 0xff;
        fs::write(path, bytes).unwrap();
    }

    fn verify(&self, code: i32) -> Value {
        self.journal(&["verify", "--json"]).expect(code).rows().remove(0)
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
        let old = self.path().join("journal");
        let before = self.files();
        let planned = self.journal(&["repair", "--dry-run", "--json"]).expect(0).rows().remove(0);
        assert_eq!((&planned["damagedJournal"], before == self.files()), (&Value::Null, true));
        let repaired = self.journal(&["repair", "--json"]).expect(0).rows().remove(0);
        assert_eq!(planned["events"], repaired["events"]);
        let damaged = PathBuf::from(repaired["damagedJournal"].as_str().unwrap());
        for (path, bytes) in &before {
            let kept = fs::read(damaged.join(path.strip_prefix(&old).unwrap())).unwrap();
            assert!(kept == *bytes, "{} has changed", path.display());
        }
        assert_eq!(self.verify(0)["events"], repaired["events"]);
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
fn a_changed_byte_in_the_head_of_a_commit_costs_that_commit_alone() {
    for lost in ["payload-0-", "payload-4-", "payload-5-"] {
        let data = Data::of_killed_node(7);
        let before = data.export();
        data.damage(lost, true);
        let verified = data.verify(65);
        assert_eq!(verified["counts"]["damaged-commits"], 1, "{verified}");
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

/// The log is whole, so a node starts and all other events are there.
#[test]
fn a_changed_byte_in_an_event_costs_that_event_alone() {
    for lost in ["payload-0-", "payload-4-", "payload-6-"] {
        let data = Data::of_killed_node(7);
        let before = data.export();
        data.damage(lost, false);
        let verified = data.verify(65);
        assert_eq!(verified["counts"], serde_json::json!({ "damaged-event": 1 }), "{verified}");
        let export = data.journal(&["export"]).expect(65);
        assert!(export.stderr.contains("damaged") && export.stderr.contains("0000000001.seg"), "{}", export.stderr);
        let node = data.serve();
        let gap = node.run(&["watch", "--all", "t:*", "--history", "100", "--until", "gap"], None).expect(0);
        assert!(gap.stdout.contains("damaged"), "{}", gap.stdout);
        let running = node.run(&["journal", "verify", "--json"], None).expect(65).rows().remove(0);
        assert_eq!(running["counts"], verified["counts"]);
        node.program.signal(Signal::KILL);
        node.program.end();
        // The damage is still reported where the event is moved to.
        data.journal(&["compact"]).expect(0);
        assert_eq!(data.verify(65)["counts"], verified["counts"]);
        let (repaired, after) = data.repair();
        assert_eq!((&repaired["lostEvents"], after), (&1.into(), without(&before, lost)));
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
    let verified = data.verify(65);
    assert_eq!(verified["counts"]["lost-commits"], 1, "{verified}");
    data.assert_refused();
    let (_, after) = data.repair();
    assert_eq!(after, before[..4]);
}

#[test]
fn a_changed_byte_in_a_compacted_log_costs_little() {
    let data = Data::of_killed_node(30);
    data.journal(&["compact"]).expect(0);
    let before = data.export();
    let log = data.log();
    let mut bytes = fs::read(&log).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 3] ^= 1;
    fs::write(&log, bytes).unwrap();
    let verified = data.verify(65);
    assert_eq!(verified["counts"]["damaged-event"], 1, "{verified}");
    let (repaired, after) = data.repair();
    assert_eq!((&repaired["lostEvents"], after.len()), (&1.into(), 29), "{repaired}");
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
fn a_journal_of_which_nothing_can_be_read_is_not_repaired() {
    let data = Data::of_killed_node(1);
    for path in data.files().keys() {
        fs::write(path, "?".repeat(1000)).unwrap();
    }
    let verified = data.verify(65);
    assert_eq!(verified["counts"], serde_json::json!({ "damaged-mark": 1, "damaged-commits": 1 }), "{verified}");
    data.assert_refused();
    let before = data.files();
    let message = data.journal(&["repair"]).expect(65).stderr;
    for words in ["cannot be read at all", "Nothing was changed", "Restore a backup"] {
        assert!(message.contains(words), "`{words}` is not in: {message}");
    }
    assert!(before == data.files());
}

#[test]
fn a_file_that_the_system_cannot_read_is_no_damage_and_is_not_repaired() {
    let data = Data::of_killed_node(1);
    let log = data.log();
    fs::rename(&log, data.path().join("beside")).unwrap();
    fs::create_dir(&log).unwrap();
    let before = data.files();
    for command in ["repair", "verify", "inspect", "export", "compact"] {
        let message = data.journal(&[command]).expect(1).stderr;
        assert!(message.contains("directory") && !message.contains("damaged"), "{message}");
        assert_eq!(command == "repair", message.contains("nothing was changed"), "{message}");
    }
    assert!(before == data.files());
    fs::remove_dir(&log).unwrap();
    fs::rename(data.path().join("beside"), &log).unwrap();
    data.verify(0);
}

#[test]
fn a_repair_in_words_names_what_was_kept_and_where_the_damaged_journal_is() {
    let data = Data::of_killed_node(3);
    data.damage("payload-1-", true);
    let planned = data.journal(&["repair", "--dry-run"]).expect(0).stdout;
    assert!(planned.contains("would keep 2 events") && !planned.contains("journal.damaged-"), "{planned}");
    let repaired = data.journal(&["repair"]).expect(0).stdout;
    let damaged = format!("the damaged journal is in `{}/journal.damaged-", data.path().display());
    for words in ["damaged-commits: commit 2", "kept 2 events", damaged.as_str(), "a new epoch has begun"] {
        assert!(repaired.contains(words), "`{words}` is not in: {repaired}");
    }
    assert!(data.journal(&["repair"]).expect(0).stdout.contains("nothing was changed"));
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
