//! Journals to damage: made once, as a killed node leaves them, and copied for each case.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millstream::{
    event::Draft,
    journal::{self, Batch, Config, Query, RecordWrite, SyncMode, Unavailable},
    topic::{Pattern, Topic},
};

use crate::support::steady::noise;

/// A directory and the events that were acknowledged when it was made.
pub(crate) struct Sound {
    dir: tempfile::TempDir,
    pub epoch: u64,
    /// Offset and data of each event, by topic.
    pub events: BTreeMap<&'static str, Vec<(u64, String)>>,
    pub records: BTreeMap<String, Vec<u8>>,
}

/// What a look at a journal that could be opened gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All is there.
    Intact,
    /// These topics (or `records`) answer with an error; all others are whole.
    Loud(Vec<String>),
    /// Data is missing or wrong without a report.
    Silent(String),
}

/// Bytes of a record beside each event that is larger.
const LARGE: usize = 150_000;

pub(crate) const TOPICS: [&str; 3] = ["a", "b", "c"];

pub(crate) fn config() -> Config {
    Config {
        sync: SyncMode::Os,
        min_free_bytes: 0,
        retention_bytes: 0,
        // The size of a segment is a part of it: here 4 MiB.
        max_bytes: 64 << 20,
        // No page is answered from memory only because it is small.
        cache_bytes: 1 << 20,
        ..Config::default()
    }
}

/// Runs asynchronous work, bounded in time.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), future).await.expect("no hang") })
}

// === impl Sound ===

impl Sound {
    /// Some hundred small events, all in one segment.
    pub(crate) fn small() -> Self {
        let mut sound = Self::empty();
        let journal = journal::open(&config(), sound.dir.path()).expect("an empty directory");
        sound.fill(&journal, 100, 40);
        sound.killed(&journal)
    }

    /// Large events that fill several segments, and small ones before and after them.
    pub(crate) fn with_segments() -> Self {
        let mut sound = Self::empty();
        let journal = journal::open(&config(), sound.dir.path()).expect("an empty directory");
        sound.fill(&journal, 5, 40);
        sound.fill(&journal, 12, 900_000);
        wait(journal.close());
        drop(journal);
        let journal = journal::open(&config(), sound.dir.path()).expect("it is sound");
        sound.fill(&journal, 20, 40);
        let sound = sound.killed(&journal);
        assert!(sound.segments().len() > 3, "{:?}", sound.files());
        sound
    }

    fn empty() -> Self {
        let events = TOPICS.iter().map(|topic| (*topic, Vec::new())).collect();
        Self { dir: tempfile::tempdir().expect("a temp directory"), epoch: 0, events, records: BTreeMap::new() }
    }

    fn fill(&mut self, journal: &journal::Shared, batches: usize, bytes: usize) {
        for number in 0..batches {
            let topic = TOPICS[number % TOPICS.len()];
            let data = noise(bytes);
            let draft = Draft::new(Topic::new(topic).expect("a name"), "e", &data);
            let (key, value) = (format!("record/{}", number % 7), format!("value {number}").into_bytes());
            let mut records = vec![RecordWrite { key: key.clone(), value: Some(value.clone().into()) }];
            if bytes > LARGE {
                let (key, value) = (format!("record/large/{}", number % 4), noise(LARGE).into_bytes());
                records.push(RecordWrite { key: key.clone(), value: Some(value.clone().into()) });
                self.records.insert(key, value);
            }
            let receipts = wait(journal.append(Batch { events: vec![draft], records, ..Batch::default() }));
            let position = receipts.expect("it is written")[0].position;
            self.epoch = position.epoch;
            self.events.entry(topic).or_default().push((position.offset, data));
            self.records.insert(key, value);
        }
    }

    /// Leaves the directory as SIGKILL does: the system has all written bytes, and nothing was closed.
    fn killed(self, journal: &journal::Shared) -> Self {
        let copy = self.copy();
        let killed = self.at(copy);
        wait(journal.close());
        let copy = killed.copy();
        let opened = journal::open(&config(), copy.path()).expect("SIGKILL is no damage");
        assert_eq!(killed.check(&opened), Found::Intact);
        killed
    }

    /// The same journal after one more event of this number of bytes.
    pub(crate) fn with_one_more(&self, bytes: usize) -> Self {
        let (events, records) = (self.events.clone(), self.records.clone());
        let mut more = Self { dir: self.copy(), epoch: self.epoch, events, records };
        let journal = journal::open(&config(), more.dir.path()).expect("it is sound");
        more.fill(&journal, 1, bytes);
        more.killed(&journal)
    }

    /// The same events and records, in another directory.
    pub(crate) fn at(self, dir: tempfile::TempDir) -> Self {
        Self { dir, ..self }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A copy to damage.
    pub(crate) fn copy(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temp directory");
        copy(self.dir.path(), dir.path());
        dir
    }

    /// All files, as paths within the directory.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        files(self.dir.path())
    }

    /// The numbers of its segments, in order.
    pub(crate) fn segments(&self) -> Vec<u32> {
        let names = self.files().into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "seg"));
        let number = |file: PathBuf| file.file_stem()?.to_str()?.parse().ok();
        names.map(|file| number(file).expect("its name is a number")).collect()
    }

    /// The offsets of all events. Each is also the number of its commit.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = u64> {
        self.events.values().flatten().map(|(offset, _)| *offset)
    }

    /// The offsets of the events in a journal, which must be as they were.
    pub(crate) fn kept(&self, journal: &journal::Shared) -> Result<Vec<u64>, String> {
        let mut kept = Vec::new();
        for (topic, events) in &self.events {
            for event in read(journal, topic).map_err(|error| error.to_string())? {
                if !events.contains(&event) {
                    return Err(format!("event {} of `{topic}` is another one", event.0));
                }
                kept.push(event.0);
            }
        }
        Ok(kept)
    }

    /// Reads everything back.
    pub(crate) fn check(&self, journal: &journal::Shared) -> Found {
        if journal.epoch() != self.epoch {
            return Found::Silent("another epoch".into());
        }
        let mut loud = Vec::new();
        for (topic, expected) in &self.events {
            match read(journal, topic) {
                Err(_) => loud.push((*topic).to_owned()),
                Ok(events) if events == *expected => {}
                Ok(events) => {
                    let (found, were) = (events.len(), expected.len());
                    return Found::Silent(format!("`{topic}` has {found} events of {were}, or other ones"));
                }
            }
        }
        match wait(records(journal)) {
            Err(_) => loud.push("records".into()),
            Ok(found) => {
                let found: BTreeMap<String, Vec<u8>> = found.into_iter().collect();
                if found != self.records {
                    return Found::Silent("the records are other ones".into());
                }
            }
        }
        if loud.is_empty() { Found::Intact } else { Found::Loud(loud) }
    }
}

fn read(journal: &journal::Shared, topic: &str) -> Result<Vec<(u64, String)>, Unavailable> {
    let patterns: Arc<[Pattern]> = vec![Pattern::new(topic).expect("a name")].into();
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let query = Query { patterns: patterns.clone(), after, floor: 0, limit: 64, max_bytes: 4 << 20 };
        let page = wait(journal.read(query))?;
        if page.through == after {
            return Ok(events);
        }
        after = page.through;
        events.extend(page.events.iter().map(|event| (event.position.offset, event.data.to_string())));
    }
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(dir).expect("below").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The content of the files below a directory, except for its last owner.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let names = files(dir).into_iter().filter(|name| !name.ends_with("LOCK"));
    names
        .map(|name| {
            let bytes = fs::read(dir.join(&name)).expect("a file");
            (name, (bytes.len() as u64, xxhash_rust::xxh3::xxh3_64(&bytes)))
        })
        .collect()
}

/// Copies a directory; zeros stay holes.
fn copy(from: &Path, to: &Path) {
    for name in files(from) {
        let target = to.join(&name);
        fs::create_dir_all(target.parent().expect("below")).expect("a folder");
        let bytes = fs::read(from.join(&name)).expect("a file");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        fs::write(&target, &bytes[..used]).expect("a file");
        fs::File::options()
            .write(true)
            .open(&target)
            .and_then(|file| file.set_len(bytes.len() as u64))
            .expect("a length");
    }
}

/// All records: key and value each.
async fn records(journal: &journal::Shared) -> Result<Vec<(String, Vec<u8>)>, Unavailable> {
    let mut found = Vec::new();
    for key in journal.keys("record/".into(), None, 100).await? {
        if let Some(record) = journal.get(key.clone()).await? {
            found.push((key, record.value.to_vec()));
        }
    }
    Ok(found)
}
