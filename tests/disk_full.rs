//! A full disk: publishing is rejected with a reason, everything else continues, and publishing works again when there
//! is room. No acknowledged event is lost.
//!
//! Needs a small file system of its own, which only root may mount.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

mod support;

use support::{Event, Node, eventually};

/// A file system in memory; gone with the value.
struct Disk(tempfile::TempDir);

const DISK_MIB: u64 = 96;
/// How long a disk stays full.
const FULL_FOR: Duration = Duration::from_secs(2);

// === impl Disk ===

impl Disk {
    /// `None`, loudly, where it cannot be had.
    fn mount(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temp directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"]).arg(dir.path());
        if mount.stdin(Stdio::null()).output().is_ok_and(|done| done.status.success()) {
            return Some(Self(dir));
        }
        support::steady::skipped(test, "a tmpfs cannot be mounted here (that takes root)");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).expect("it is mounted");
        disk.f_bavail * disk.f_frsize
    }

    /// Takes all free space but this number of bytes.
    fn fill_up_to(&self, left: u64) {
        let ballast = fs::File::create(self.path().join("ballast")).expect("a file");
        let bytes = self.free().saturating_sub(left);
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("there is room");
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).expect("it was there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// The acknowledged events: id and data.
type Acked = Vec<(String, String)>;

/// Made once, since it takes longer than an event takes to be published.
static NOISE: LazyLock<String> = LazyLock::new(|| support::steady::noise(200_000));

/// Publishes one event of about this number of bytes; the reason if it was rejected.
fn publish(node: &Node, acked: &mut Acked, number: usize, bytes: usize) -> Result<(), String> {
    let data = format!("{number} {}", &NOISE[..bytes]);
    let reply = node.json("POST", "/events", &json!({ "topic": "t", "event": "e", "data": data }));
    if reply.status == 200 {
        acked.push((reply.json()["id"].as_str().expect("an id").to_owned(), data));
        return Ok(());
    }
    assert!(reply.header("Retry-After").is_some(), "{reply:?}");
    Err(reply.problem(503))
}

/// All events of the topic, page by page.
fn kept(node: &Node) -> Acked {
    let (mut events, mut after) = (Acked::new(), String::new());
    loop {
        let reply = node.get(&format!("/api/topics/t/events?limit=100{after}"));
        assert_eq!(reply.status, 200, "{reply:?}");
        let page: Value = reply.json();
        let rows = page["events"].as_array().expect("a list");
        if rows.is_empty() {
            return events;
        }
        let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
        events.extend(rows.iter().map(|row| (text(row, "id"), text(row, "data"))));
        after = format!("&after={}", text(&page, "lastEventId"));
    }
}

/// No acknowledged event is missing; a rejected one may exist once, and no other event exists.
fn check(found: &Acked, acked: &Acked) {
    let mut rest = found.iter();
    for event in acked {
        assert!(rest.any(|own| own == event), "{} is missing, or stands elsewhere", event.0);
    }
    let mut numbers: Vec<&str> = found.iter().filter_map(|(_, data)| data.split(' ').next()).collect();
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "an event is there twice");
}

fn received(stream: &mut support::Stream, last: &str) -> Acked {
    let mut events = Acked::new();
    while events.last().is_none_or(|(id, _)| id != last) {
        let Event { id, event, data } = stream.next();
        assert!(
            matches!(event.as_str(), "e" | "connection") || id.is_empty() && event != "gap" && event != "disconnect",
            "{event}: {data}"
        );
        if event == "e" {
            events.push((id, data));
        }
    }
    events
}

/// A node on a disk that fills up to `left` bytes, events of this number of bytes, and words that the refusal must
/// contain.
fn fills_up_and_recovers(test: &str, settings: &str, left: u64, bytes: usize, words: &[&str]) {
    let Some(disk) = Disk::mount(test) else { return };
    let mut node = Node::start_on(disk.path(), settings);
    let mut stream = node.stream("/events?topic=t", &[]);
    stream.until("connection");
    let mut acked = Acked::new();
    let mut number = 0..;
    let mut publish = |node: &Node, acked: &mut Acked| publish(node, acked, number.next().expect("endless"), bytes);
    for _ in 0..30 {
        publish(&node, &mut acked).expect("there is room");
    }
    disk.fill_up_to(left);
    let refused = eventually(|| publish(&node, &mut acked).err());
    for word in words {
        assert!(refused.contains(word), "`{word}` is not in: {refused}");
    }
    // Long enough for the journal to try again and again.
    let (begin, mut reasons) = (Instant::now(), BTreeSet::new());
    eventually(|| {
        reasons.extend(publish(&node, &mut acked).err());
        (begin.elapsed() > FULL_FOR && !reasons.is_empty()).then_some(())
    });
    println!("{test}: first `{refused}`, then {reasons:?}");
    // Reading and streaming continue.
    check(&kept(&node), &acked);
    let last = acked.last().expect("some").0.clone();
    check(&received(&mut stream, &last), &acked);
    let mut late = node.stream("/events?topic=t&history=1000", &[]);
    check(&received(&mut late, &last), &acked);
    assert_eq!(node.get("/healthz").status, 200);
    let ready = node.get("/readyz");
    println!("{test}: readyz {ready:?}");
    // A disk that runs full in the middle of a write may take a small event all the same.
    if words.contains(&"journal.min_free_bytes") {
        let unready = ready.problem(503);
        assert!(words.iter().all(|word| unready.contains(word)), "{unready}");
    }

    disk.make_room();
    eventually(|| publish(&node, &mut acked).ok());
    for _ in 0..30 {
        publish(&node, &mut acked).expect("there is room");
    }
    let found = kept(&node);
    check(&found, &acked);
    println!("{test}: {} acknowledged, {} kept", acked.len(), found.len());
    let last = acked.last().expect("some").0.clone();
    let live = received(&mut stream, &last);
    assert!(live.len() >= 31, "{} of the 31 that came last", live.len());
    check(&live, &acked[acked.len() - live.len()..].to_vec());
    node.restart();
    assert_eq!(kept(&node), found);
    assert_eq!(node.terminate(), Some(0));
    node.start_again();
    assert_eq!(kept(&node), found);
}

#[test]
fn publishing_pauses_while_less_is_free_than_must_be() {
    let settings = "[journal]\nmin_free_bytes = 8388608\n";
    fills_up_and_recovers("publishing_pauses", settings, 4 << 20, 1000, &["journal.min_free_bytes", "8388608", "full"]);
}

#[test]
fn a_disk_that_runs_full_in_the_middle_of_a_write_heals_without_a_restart() {
    for sync in ["always", "interval", "os"] {
        fills_up_and_recovers(&format!("runs_full, {sync}"), &reckless(sync), 300_000, 20_000, &["full"]);
    }
}

/// Segments of 4 MiB: there is room for the next one or two, and then for none.
#[test]
fn a_disk_that_runs_full_while_a_segment_is_begun_heals_without_a_restart() {
    let settings = format!("{}max_bytes = 67108864\n", reckless("os"));
    fills_up_and_recovers("no room for a segment", &settings, 10 << 20, 60_000, &["full"]);
}

#[test]
fn a_node_does_not_start_on_a_full_disk_and_reports_the_reason() {
    let Some(disk) = Disk::mount("does_not_begin") else { return };
    disk.fill_up_to(0);
    let done = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(disk.path().join("data"))
        .output()
        .expect("it runs");
    let message = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot be used") && message.contains("No space left"), "{message}");
    // With room it begins, whatever the attempt has left there.
    disk.make_room();
    let node = Node::start_on(&disk.path().join("data"), "[journal]\nmin_free_bytes = 0\n");
    node.must_be_healthy();
}

/// How long the room of deleted events may take to come back.
const ROOM_BACK: Duration = Duration::from_secs(60);

/// Fills the disk with events until publishing is refused, deletes them, and publishes half as much without a restart.
fn gives_room_back(test: &str, settings: &str, delete: impl FnOnce(&Node)) {
    const EVENT: usize = 200_000;
    let Some(disk) = Disk::mount(test) else { return };
    let node = Node::start_on(disk.path(), settings);
    let (mut acked, mut number) = (Acked::new(), 0..);
    let mut fill = |acked: &mut Acked| publish(&node, acked, number.next().expect("endless"), EVENT);
    while fill(&mut acked).is_ok() {}
    assert!(acked.len() > 50, "{} events filled the disk", acked.len());
    delete(&node);
    let (begin, wanted) = (Instant::now(), acked.len() / 2);
    let mut again = Acked::new();
    while again.len() < wanted {
        assert!(
            begin.elapsed() < ROOM_BACK,
            "{} of {wanted} events found room, {} bytes are free",
            again.len(),
            disk.free()
        );
        let before = again.len();
        eventually(|| (fill(&mut again).is_ok() || begin.elapsed() > ROOM_BACK).then_some(()));
        assert!(again.len() > before || begin.elapsed() > ROOM_BACK);
    }
    check(&kept(&node), &again);
}

/// Runs a test with a bound of free bytes, and without one, at the same time.
fn with_and_without_a_bound(test: impl Fn(&str, u64) + Sync) {
    std::thread::scope(|scope| {
        for (case, least) in [("the bound of free bytes", 8 << 20), ("no bound", 0)] {
            let test = &test;
            scope.spawn(move || test(case, least));
        }
    });
}

#[test]
fn what_a_purge_deletes_comes_back_on_a_disk_that_was_full() {
    with_and_without_a_bound(|case, least| {
        let settings = format!("[journal]\nmin_free_bytes = {least}\nretention_bytes = 0\n");
        gives_room_back(&format!("purge, {case}"), &settings, |node| {
            let purged = node.request("DELETE", "/api/topics/t", &[], "");
            assert_eq!(purged.status, 200, "{case}: {purged:?}");
        });
    });
}

#[test]
fn what_retention_deletes_comes_back_on_a_disk_that_was_full() {
    with_and_without_a_bound(|case, least| {
        let settings = format!("[journal]\nmin_free_bytes = {least}\nretention_bytes = 0\nretention_ms = 10000\n");
        gives_room_back(&format!("retention, {case}"), &settings, |_| ());
    });
}

/// Settings that let the disk run full.
fn reckless(sync: &str) -> String {
    format!("[journal]\nmin_free_bytes = 0\nretention_bytes = 0\nsync = \"{sync}\"\n")
}
