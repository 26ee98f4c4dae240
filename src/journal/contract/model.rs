//! Compares the journal with a plain list that does everything in the simplest way.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    cases,
    event::now_ms,
    journal::{AppendError, Retention, Unavailable},
};

/// The topics of the model. The last one stands for the current job, because names of jobs are used once.
const TOPICS: [&str; 4] = ["a:1", "a:2", "b:1", "job:"];

const PATTERNS: [&[&str]; 8] =
    [&["a:1"], &["a:*"], &["*"], &["a:1", "b:1"], &["job:*"], &["a:2", "a:*", "b:1"], &["nowhere"], &["b*", "job:0"]];

/// Number of events that `a:1` keeps.
const KEPT_OF_A1: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// A batch: for each event the topics as a bit set, and whether it expires after an hour.
    Append(Vec<(u8, bool)>),
    Purge(usize),
    /// A number of hours later. Events of `b:*` live for ten.
    Sweep(u64),
    /// A reader reads its next page.
    Read {
        reader: usize,
        limit: usize,
        max_bytes: usize,
    },
    /// The tail pulls its next part.
    Pull {
        limit: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = vec((1_u8..16, any::<bool>()), 1..4).prop_map(Step::Append);
    let read = (0..2 * PATTERNS.len(), 1_usize..5, prop_oneof![Just(usize::MAX), 0_usize..5]);
    let step = prop_oneof![
        4 => append,
        1 => (0..TOPICS.len()).prop_map(Step::Purge),
        1 => prop_oneof![Just(2_u64), Just(20)].prop_map(Step::Sweep),
        4 => read.prop_map(|(reader, limit, max_bytes)| Step::Read { reader, limit, max_bytes }),
        2 => (1_usize..5).prop_map(|limit| Step::Pull { limit }),
    ];
    vec(step, 1..40)
}

/// An event of the list.
struct Listed {
    offset: u64,
    topics: Vec<String>,
    /// Topics that deleted the event, except because it expired.
    trimmed_from: BTreeSet<String>,
    brief: bool,
    expired: bool,
}

/// All events that were ever appended.
#[derive(Default)]
struct List {
    events: Vec<Listed>,
    job: usize,
}

/// Reads page by page while the journal changes.
struct Reader {
    names: &'static [&'static str],
    after: u64,
    floor: u64,
    /// A gap was reported up to here.
    reported_through: u64,
    /// Whether the reader sets `floor` to its reported gap.
    keeps_floor: bool,
}

// === impl Listed ===

impl Listed {
    fn kept_by(&self, name: &str) -> bool {
        !self.expired && self.topics.iter().any(|own| own == name) && !self.trimmed_from.contains(name)
    }

    /// True if a topic of these patterns keeps the event.
    fn readable(&self, patterns: &[Pattern]) -> bool {
        self.topics.iter().any(|name| self.kept_by(name) && matches(patterns, name))
    }

    /// True if a topic of these patterns has deleted the event.
    fn lost(&self, patterns: &[Pattern]) -> bool {
        self.trimmed_from.iter().any(|name| matches(patterns, name))
    }

    fn deleted_from_all(&self) -> bool {
        self.trimmed_from.len() == self.topics.len()
    }
}

fn matches(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(&topic(name)))
}

// === impl List ===

impl List {
    fn name(&self, index: usize) -> String {
        if index == TOPICS.len() - 1 { format!("job:{}", self.job) } else { TOPICS[index].to_owned() }
    }

    fn drafts(&self, events: &[(u8, bool)]) -> Vec<Draft> {
        let make = |(mask, brief): &(u8, bool)| {
            let names: Vec<String> = (0..TOPICS.len()).filter(|i| mask >> i & 1 == 1).map(|i| self.name(i)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Draft { ttl_ms: brief.then_some(HOUR_MS), ..draft(&names, "x") }
        };
        events.iter().map(make).collect()
    }

    fn append(&mut self, drafts: &[Draft], receipts: &[Receipt]) {
        for (draft, receipt) in drafts.iter().zip(receipts) {
            self.events.push(Listed {
                offset: receipt.position.offset,
                topics: draft.topics.iter().map(Topic::to_string).collect(),
                trimmed_from: BTreeSet::new(),
                brief: draft.ttl_ms.is_some(),
                expired: false,
            });
            let mut kept = self.events.iter_mut().rev().filter(|event| event.kept_by("a:1")).skip(KEPT_OF_A1);
            if let Some(oldest) = kept.next() {
                oldest.trimmed_from.insert("a:1".into());
            }
        }
    }

    /// The purged name, and the number of purged events.
    fn purge(&mut self, index: usize) -> (String, usize) {
        let name = self.name(index);
        self.job += usize::from(index == TOPICS.len() - 1);
        let count = self.trim(&name);
        (name, count)
    }

    fn sweep(&mut self, hours: u64) {
        self.events.iter_mut().filter(|event| event.brief && !event.deleted_from_all()).for_each(|e| e.expired = true);
        if hours > 10 {
            self.trim("b:1");
        }
    }

    fn trim(&mut self, name: &str) -> usize {
        let kept = self.events.iter_mut().filter(|event| event.kept_by(name));
        kept.map(|event| event.trimmed_from.insert(name.to_owned())).count()
    }
}

// === impl Reader ===

impl Reader {
    /// Two readers of each pattern list.
    fn all() -> Vec<Self> {
        let reader = |index: usize| Self {
            names: PATTERNS[index % PATTERNS.len()],
            after: 0,
            floor: 0,
            reported_through: 0,
            keeps_floor: index >= PATTERNS.len(),
        };
        (0..2 * PATTERNS.len()).map(reader).collect()
    }

    /// Reads a page and checks it: all events up to its end are in it, have expired, or were reported as deleted.
    /// `exact`: the list knows which events the journal has trimmed.
    async fn read(&mut self, journal: &Shared, list: &List, limit: usize, max_bytes: usize, exact: bool) {
        let (after, floor, wanted) = (self.after, self.floor, patterns(self.names));
        let read = page(journal, Query { patterns: wanted.clone(), after, floor, limit, max_bytes }).await;
        let offsets = offsets_of(&read.events);
        assert!(offsets.is_sorted_by(|a, b| a < b) && offsets.len() <= limit);
        assert!(offsets.iter().all(|offset| (after + 1..=read.through).contains(offset)));
        assert!(read.through <= head(journal).max(after));
        assert!(read.through > after || after >= head(journal), "a page makes progress");
        let all_but_last: usize = read.events.iter().rev().skip(1).map(|event| event.data.len()).sum();
        assert!(read.events.len() <= 1 || all_but_last < max_bytes, "the event that reaches the limit is the last");

        let mut listed = list.events.iter().filter(|event| event.offset > after.max(floor));
        if listed.any(|event| event.lost(&wanted)) {
            assert_ne!(read.trimmed, [], "a gap of {:?} after {after} and {floor} goes unreported", self.names);
        } else if exact && !self.names.contains(&"job:0") {
            // One offset stands for all purged jobs, so a reader of one job may get a gap for another.
            assert_eq!(read.trimmed, [], "no gap of {:?} after {after} and {floor}", self.names);
        }
        if !read.trimmed.is_empty() {
            self.reported_through = head(journal);
            self.floor = if self.keeps_floor { self.reported_through } else { 0 };
        }
        for event in list.events.iter().filter(|event| (after + 1..=read.through).contains(&event.offset)) {
            let got = offsets.binary_search(&event.offset).is_ok();
            let named = event.topics.iter().any(|name| matches(&wanted, name));
            assert!(named || !got, "{} does not match {:?}", event.offset, self.names);
            if exact {
                assert_eq!(got, event.readable(&wanted), "{} for {:?}", event.offset, self.names);
            } else if named && !got {
                assert!(
                    event.expired || event.offset <= self.reported_through,
                    "{} is missed by {:?}",
                    event.offset,
                    self.names
                );
            }
        }
        self.after = read.through;
    }
}

// === the runs ===

struct Run {
    journal: Shared,
    list: List,
    readers: Vec<Reader>,
    tail: u64,
    exact: bool,
}

impl Run {
    fn new(journal: Shared, exact: bool) -> Self {
        Self { journal, list: List::default(), readers: Reader::all(), tail: 0, exact }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(events) => self.append(self.list.drafts(&events)).await,
            Step::Purge(index) => {
                let (name, count) = self.list.purge(index);
                let purged = self.journal.purge(topic(&name)).await.unwrap();
                assert!(!self.exact || purged == count as u64, "{purged} of {count} purged");
            }
            Step::Sweep(hours) => {
                self.list.sweep(hours);
                self.journal.sweep(now_ms() + hours * HOUR_MS).await.unwrap();
            }
            Step::Read { reader, limit, max_bytes } => {
                self.readers[reader].read(&self.journal, &self.list, limit, max_bytes, self.exact).await;
            }
            Step::Pull { limit } => self.pull(limit).await,
        }
    }

    async fn append(&mut self, drafts: Vec<Draft>) {
        match self.journal.append(Batch::events(drafts.clone())).await {
            Ok(receipts) => self.list.append(&drafts, &receipts),
            Err(AppendError::Unavailable(Unavailable::Full(_))) if !self.exact => {}
            Err(error) => panic!("the batch is valid: {error}"),
        }
    }

    async fn pull(&mut self, limit: usize) {
        let since = self.journal.since(self.tail, limit).await.unwrap();
        let offsets = offsets_of(&since.events);
        assert!(offsets.is_sorted_by(|a, b| a < b) && offsets.len() <= limit);
        assert!(since.through > self.tail || self.tail == head(&self.journal), "the tail makes progress");
        let ahead = self.list.events.iter().filter(|event| event.offset > self.tail);
        let gone = ahead.clone().any(Listed::deleted_from_all);
        assert!(since.missed || !gone, "the tail does not report the gap");
        assert!(!self.exact || since.missed == gone, "the tail reports a gap without need");
        for event in ahead.filter(|event| event.offset <= since.through) {
            let got = offsets.contains(&event.offset);
            let excused = event.expired || if self.exact { event.deleted_from_all() } else { since.missed };
            assert!(got || excused, "{} is not pulled", event.offset);
        }
        self.tail = since.through;
    }

    /// Reads to the end, counts, and deletes everything.
    async fn finish(mut self) {
        let head = head(&self.journal);
        for mut reader in std::mem::take(&mut self.readers) {
            while reader.after < head {
                reader.read(&self.journal, &self.list, 3, usize::MAX, self.exact).await;
            }
        }
        while self.tail < head {
            self.pull(3).await;
        }
        if self.exact {
            self.check_last().await;
            let kept = self.list.events.iter().filter(|event| !event.expired && !event.deleted_from_all()).count();
            assert_eq!(self.journal.stats().events, kept as u64);
        }
        self.journal.sweep(now_ms() + 20 * HOUR_MS).await.unwrap();
        for info in self.journal.topics(Pattern::any(), None, usize::MAX).await.unwrap() {
            self.journal.purge(info.topic).await.unwrap();
        }
        let stats = self.journal.stats();
        assert_eq!((stats.events, stats.bytes, stats.pinned_bytes), (0, 0, 0));
    }

    async fn check_last(&self) {
        for names in PATTERNS {
            let wanted = patterns(names);
            let readable = self.list.events.iter().filter(|event| event.readable(&wanted)).map(|event| event.offset);
            let readable: Vec<u64> = readable.collect();
            for count in 0..5 {
                let before = self.journal.before_last(wanted.clone(), count).await.unwrap();
                let last = &readable[readable.len().saturating_sub(count)..];
                assert_eq!(before, last.first().map_or(head(&self.journal), |first| first - 1), "{count} of {names:?}");
            }
        }
    }
}

fn exact_config() -> Config {
    let rule = |pattern: &str| Retention {
        topic: pattern.into(),
        retention_ms: None,
        retention_events: None,
        retention_bytes: None,
    };
    let retention = vec![
        Retention { retention_events: Some(KEPT_OF_A1 as u64), ..rule("a:1") },
        Retention { retention_ms: Some(10 * HOUR_MS), ..rule("b:*") },
    ];
    Config { retention, ..Config::default() }
}

/// Appends one event to each of `noise` topics that match `a:*`, and then runs random steps. `usual` goes to [`cases`].
fn check(usual: u32, open: impl Fn() -> Shared, exact: bool, noise: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    proptest!(ProptestConfig::with_cases(cases(usual)), |(steps in steps())| {
        runtime.block_on(async {
            let mut run = Run::new(open(), exact);
            run.append((0..noise).map(|n| draft(&[&format!("a:noise:{n}")], "x")).collect()).await;
            for step in steps {
                run.step(step).await;
            }
            run.finish().await;
        });
    });
}

pub(super) fn pages_agree_with_a_plain_list(open: impl Fn(Config) -> Shared) {
    check(64, || open(exact_config()), true, 0);
}

pub(super) fn pages_of_many_topics_agree_with_a_plain_list(open: impl Fn(Config) -> Shared) {
    check(12, || open(exact_config()), true, MANY);
}

/// The adapter decides which events the limits of the node delete. The test checks that they are reported.
pub(super) fn every_gap_by_the_limits_of_the_node_is_reported(open: impl Fn(Config) -> Shared) {
    check(64, || open(Config { max_topics: 2, ..exact_config() }), false, 0);
    check(64, || open(Config { max_bytes: 5000, max_event_bytes: 1000, ..exact_config() }), false, 0);
    check(24, || open(Config { max_bytes: 3000, max_event_bytes: 1000, max_topics: 3, ..exact_config() }), false, 0);
}
