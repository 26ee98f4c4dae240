//! `journal import`: a journal that is built again from its export, and input that is not an export.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{fmt::Write as _, fs, path::PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Ended, Node, Program, file};

/// A data directory, which does not exist at first.
struct Data(tempfile::TempDir);

// === impl Data ===

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn serve(&self) -> Node {
        let dir = self.path();
        let arguments = ["--data-dir", dir.to_str().unwrap()];
        Node::start_with("127.0.0.1:0", &arguments, &[("MILLSTREAM__JOURNAL__KIND", "embedded")])
    }

    fn journal(&self, arguments: &[&str], input: Option<&str>) -> Ended {
        let dir = self.path();
        let whole = [&["journal"], arguments, &["--data-dir", dir.to_str().unwrap()]].concat();
        Program::start(&whole, input).end()
    }

    fn import(&self, lines: &str) -> Ended {
        let (_directory, path) = file("events.jsonl", lines);
        self.journal(&["import", &path], None)
    }

    /// The lines of an export, without positions and timestamps.
    fn export(&self) -> Vec<String> {
        self.journal(&["export"], None).expect(0).stdout.lines().map(without_place).collect()
    }
}

/// The text of a line, without its position and timestamp. Tests also have numbers that no reader of JSON accepts.
fn without_place(line: &str) -> String {
    let (_, rest) = line.split_once(r#""id":""#).unwrap();
    let (_, rest) = rest.split_once(r#"","#).unwrap();
    let (fields, rest) = rest.rsplit_once(r#","timestamp":"#).unwrap();
    format!("{{{fields}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn stop(node: Node) {
    node.program.signal(Signal::TERM);
    node.program.end().expect(0);
}

#[test]
fn an_exported_journal_is_built_again() {
    let (old, new) = (Data::new(), Data::new());
    let node = old.serve();
    for publish in [
        &["t", "plain text"][..],
        &["t", r#"{"b":[1.50,1e400],"a":"\u00e9"}"#, "--event", "named", "--id", "key"],
        &["u", "x", "--id", "key"],
        &["user:42", r#""a \"text\"""#],
        &["all", ""],
    ] {
        node.run(&[&["publish"], publish].concat(), None).expect(0);
    }
    let job = json!({ "tasks": [{ "id": "stats", "run": "Calculate Stats" }], "notify": { "user": "42" } });
    node.run(&["run", "-"], Some(&job.to_string())).expect(0);
    stop(node);

    let (_directory, path) = file("events.jsonl", &old.journal(&["export"], None).expect(0).stdout);
    let lines = old.export();
    let of_jobs = lines.iter().filter(|line| line.contains(r#""topic":"job:"#)).count();
    let only_of_jobs = lines.iter().filter(|line| line.contains("job:") && !line.contains("alsoIn")).count();
    assert!(of_jobs > only_of_jobs && only_of_jobs > 0, "{lines:#?}");

    let done = new.journal(&["import", &path, "--json"], None).expect(0).rows().remove(0);
    assert_eq!(done, json!({ "imported": lines.len() - only_of_jobs, "skipped": only_of_jobs }));
    let imported = new.export();
    assert_eq!(imported[..5], lines[..5]);
    assert!(imported[5..].iter().all(|line| line.starts_with(r#"{"topic":"user:42","#)), "{imported:#?}");
    assert!(new.journal(&["verify"], None).expect(0).stdout.starts_with("sound"));

    // An imported id of a publisher is not remembered: the publisher is not known.
    let node = new.serve();
    let published = node.run(&["publish", "t", "other", "--id", "key"], None).expect(0).rows().remove(0);
    assert_eq!(published["duplicate"], Value::Null, "{published}");
    assert!(node.get("/api/topics/t/events").contains("plain text"));
    stop(node);
    assert_eq!(new.export().len(), imported.len() + 1);
}

#[test]
fn all_fields_of_an_export_are_imported_from_stdin() {
    let data = Data::new();
    let lines = [
        r#"{"id":"a4306016ba22-1","topic":"t","alsoIn":["u","user:1"],"event":"e","data":{"n":1},"timestamp":5,"publisherId":"k"}"#,
        r#"{"id":"a4306016ba22-3","topic":"t","event":"message","data":"again","timestamp":5,"publisherId":"k"}"#,
        r#"{"id":"a4306016ba22-4","topic":"user:1","alsoIn":["relay:r1"],"event":"remote.gap","data":"123","timestamp":5,"origin":"77","source":"node/b"}"#,
        r#"{"id":"a4306016ba22-5","topic":"relay:r1","event":"relay_complete","data":{"end":"204"},"timestamp":5}"#,
        r#"{"id":"a4306016ba22-6","topic":"t","event":"message","data":"gr\u00fcn","timestamp":5}"#,
    ];
    // With a byte order mark, an empty line, another line end, and no end of the last line.
    let text = format!("\u{feff}{}\n\n{}\r\n{}", lines[0], lines[1], lines[2..].join("\n"));
    let done = data.journal(&["import", "-"], Some(&text)).expect(0);
    assert_eq!(done.stdout, "imported 5 events (0 of job histories skipped)\n");
    let mut expected: Vec<String> = lines.iter().map(|line| without_place(line)).collect();
    // The same JSON.
    expected[4] = expected[4].replace("\\u00fc", "ü");
    assert_eq!(data.export(), expected);

    // Another import appends.
    assert_eq!(data.import(lines[0]).expect(0).stdout, "imported 1 events (0 of job histories skipped)\n");
    assert_eq!(data.import("").expect(0).stdout, "imported 0 events (0 of job histories skipped)\n");
    assert_eq!(data.export().len(), 6);
}

#[test]
fn histories_of_jobs_are_skipped_and_counted() {
    let data = Data::new();
    let line = |topics: &str| format!("{{{topics},\"event\":\"complete\",\"data\":{{}}}}\n");
    let lines = [
        line(r#""topic":"job:1""#),
        line(r#""topic":"job:1","alsoIn":["user:1"]"#),
        line(r#""topic":"job:2""#),
        line(r#""topic":"jobs""#),
    ];
    assert_eq!(data.import(&lines.concat()).expect(0).stdout, "imported 2 events (2 of job histories skipped)\n");
    let topics: Vec<Value> = data.journal(&["export"], None).expect(0).rows();
    let topics: Vec<_> = topics.iter().map(|row| (row["topic"].as_str().unwrap(), row["alsoIn"].clone())).collect();
    assert_eq!(topics, [("user:1", Value::Null), ("jobs", Value::Null)]);
    let inspected = data.journal(&["inspect", "--json"], None).expect(0).rows().remove(0);
    assert_eq!(inspected["pinnedBytes"], 0, "{inspected}");
}

#[test]
fn a_broken_line_ends_the_import_and_the_rest_can_be_imported() {
    let data = Data::new();
    let mut lines = String::new();
    for number in 1..=2500 {
        let topic = if number == 3 { "job:1" } else { "t" };
        let _ = writeln!(lines, "{{\"topic\":\"{topic}\",\"data\":{number}}}");
    }
    let broken = lines.replace("\"data\":2100}", "\"data\":2100");
    let ended = data.import(&broken).expect(64);
    for part in ["line 2100: EOF", "imported 2098 events (1 of job histories skipped)", "`tail -n +2100`"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
    assert_eq!(data.export().len(), 2098);

    let rest: Vec<&str> = lines.lines().skip(2099).collect();
    data.import(&rest.join("\n")).expect(0);
    let numbers: Vec<Value> = data.journal(&["export"], None).expect(0).rows();
    let numbers: Vec<_> = numbers.iter().map(|row| row["data"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=2500).filter(|number| *number != 3).collect::<Vec<_>>());
}

#[test]
fn a_line_that_is_not_an_event_is_named_with_its_fault() {
    let data = Data::new();
    for (line, fault) in [
        ("text", "expected ident (column 2)"),
        ("[]", "expected an object"),
        (r#"{"data":1}"#, "missing field `topic`"),
        (r#"{"topic":"a b","data":1}"#, "white space"),
        (r#"{"topic":"t","data":1,"\u001b[31m":1}"#, r"unknown field `\u{1b}[31m`"),
        (r#"{"topic":"t","data":1,"event":"gap"}"#, "name of a control frame"),
    ] {
        let message = data.import(&format!("{{\"topic\":\"t\",\"data\":0}}\n{line}\n")).expect(64).stderr;
        assert!(message.contains("line 2: ") && message.contains(fault), "{line}: {message}");
    }
    let binary = data.0.path().join("binary");
    fs::write(&binary, b"{\"topic\":\"t\",\"data\":\"\xff\"}").unwrap();
    let message = data.journal(&["import", binary.to_str().unwrap()], None).expect(64).stderr;
    assert!(message.contains("line 1: "), "{message}");
    assert_eq!(data.export().len(), 6, "the line before each fault");
}

#[test]
fn a_line_that_is_too_long_is_not_read() {
    let data = Data::new();
    let event = |bytes: usize| format!("{{\"topic\":\"t\",\"data\":\"{}\"}}\n", "x".repeat(bytes));
    // The largest event, in its longest form.
    let largest = event(0).replace("\"\"", &format!("\"{}\"", "\\u0001".repeat(1 << 20)));
    data.import(&largest).expect(0);

    let (_directory, path) = file("events.jsonl", &(event(1) + &event(7 << 20) + &event(1)));
    let message = data.journal(&["import", &path], None).expect(64).stderr;
    assert!(message.contains("line 2: the line has more than ") && message.contains("imported 1 events"), "{message}");

    let (_directory, path) = file("events.jsonl", &event((1 << 20) + 1));
    let message = data.journal(&["import", &path], None).expect(64).stderr;
    assert!(message.contains("line 1: the event has 1048577 bytes"), "{message}");
    data.journal(&["import", &path, "--max-event-bytes", "2000000"], None).expect(0);
    data.journal(&["import", &path, "--max-event-bytes", "1"], None).expect(64);
    assert_eq!(data.export().len(), 3);
}

#[test]
fn a_running_node_is_not_changed() {
    let data = Data::new();
    let node = data.serve();
    let message = data.import("").expect(1).stderr;
    assert!(message.contains("in use by process ") && !message.contains("--url"), "{message}");
    let url = node.url();
    let message = node.run(&["journal", "import", "--url", &url], Some("")).expect(64).stderr;
    assert!(message.contains("POST /events"), "{message}");
    let message = node.run(&["journal", "import"], Some("")).expect(64).stderr;
    assert!(message.contains("--data-dir"), "{message}");
    stop(node);
}

#[test]
fn without_input_nothing_is_created() {
    let data = Data::new();
    let message = data.journal(&["import", "/no/such/file"], None).expect(64).stderr;
    assert!(message.contains("cannot read `/no/such/file`"), "{message}");
    assert!(!data.path().exists());
    let message = data.journal(&["import", "/"], None).expect(1).stderr;
    assert!(message.contains("cannot read the events"), "{message}");
}

#[test]
fn a_journal_of_version_0_1_is_refused() {
    let data = Data::new();
    let store = data.path().join("journal/store");
    fs::create_dir_all(&store).unwrap();
    let message = data.import("{\"topic\":\"t\",\"data\":1}\n").expect(64).stderr;
    assert!(message.contains("Millstream 0.1") && message.contains("journal import --data-dir"), "{message}");
    fs::rename(data.path().join("journal"), data.path().join("journal.0.1")).unwrap();
    data.import("{\"topic\":\"t\",\"data\":1}\n").expect(0);
    assert_eq!(data.export().len(), 1);
}
