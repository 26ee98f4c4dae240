//! Jobs across a stop and a crash of the node.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::rig::{History, Rig, Setup, good};
use crate::{
    event::Draft,
    jobs::{Config, handler::TaskError},
    journal::{self, Batch, Journal, Memory, RecordWrite},
    topic::Topic,
};

mod continues;
mod deleted;
mod ends;
mod stops;
mod stored;

const HOUR_MS: u64 = 60 * 60 * 1000;

fn journal() -> Arc<Memory> {
    Arc::new(Memory::new(&journal::Config::default()))
}

/// A node on which `work` never ends by itself.
fn stuck(journal: &Arc<Memory>) -> Rig {
    let config = Config { task_timeout_ms: 24 * HOUR_MS, ..Config::default() };
    let setup = Setup { config, ..Setup::usual() }.with("work", |_| std::future::pending());
    setup.with("fail", |_| async { Err(TaskError::fatal("bad", "bad luck")) }).on(journal).start()
}

/// A node on which `work` returns the number of its attempt.
fn well(journal: &Arc<Memory>) -> Rig {
    let setup = Setup::usual().with("work", |task| async move { good(json!(task.attempt)) });
    setup.with("fail", |_| async { Err(TaskError::fatal("bad", "bad luck")) }).on(journal).start()
}

/// Waits until the history has this number of events with this name.
async fn has(rig: &Rig, id: &str, name: &str, count: usize) {
    rig.until(id, |events| events.iter().filter(|event| event.name() == name).count() >= count).await;
}

/// The guarantees for readers after any end of the node.
fn coherent(history: &History) {
    let tasks: Vec<String> = {
        let mut ids: Vec<_> =
            history.0.iter().filter_map(|e| Some(e.data_value()["taskId"].as_str()?.to_owned())).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    for task in &tasks {
        let names = history.names(task);
        let count = |name: &str| names.iter().filter(|n| **n == name).count();
        assert!(count("task_start") <= 1, "{task}: {names:?}");
        assert_eq!(count("task_complete") + count("error"), 1, "{task}: {names:?}");
        assert!(matches!(names.last(), Some(&("task_complete" | "error"))), "{task}: {names:?}");
        assert!(count("task_start") == 0 || names[0] == "task_start", "{task}: {names:?}");
        let mut retries = history.all("task_retry");
        retries.retain(|retry| retry["taskId"] == **task);
        let attempts: Vec<_> = retries.iter().map(|retry| retry["attempt"].as_u64().unwrap()).collect();
        assert!(attempts.is_sorted_by(|a, b| a < b) && attempts.first().is_none_or(|a| *a > 1), "{task}: {attempts:?}");
    }
    let steps: Vec<_> = history.all("progress").iter().map(|p| p["step"].as_u64().unwrap()).collect();
    assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    assert_eq!(history.all("complete").len(), 1);
    assert_eq!(history.0.last().map(|event| event.name()), Some("complete"));
}

/// Copies a job into another journal: only its first events, with changes to its record and its events.
struct Copy<'a> {
    from: &'a Memory,
    id: &'a str,
    events: usize,
    record: &'a dyn Fn(&mut Value),
    event: &'a dyn Fn(&mut Value),
}

impl<'a> Copy<'a> {
    fn of(from: &'a Memory, id: &'a str) -> Self {
        Self { from, id, events: usize::MAX, record: &|_| (), event: &|_| () }
    }

    async fn to(self, journal: &Memory, new_id: &str) {
        let mut batch = Batch::default();
        for key in self.from.keys(format!("job/{}/", self.id), None, 1000).await.unwrap() {
            let record = self.from.get(key.clone()).await.unwrap().unwrap();
            let mut value: Value = serde_json::from_slice(&record.value).unwrap();
            if key.ends_with("/spec") {
                value["jobId"] = json!(new_id);
                (self.record)(&mut value);
            }
            let value = Some(Bytes::from(value.to_string()));
            batch.records.push(RecordWrite { key: key.replace(self.id, new_id), value });
        }
        let query = journal::Query {
            patterns: [Topic::job(self.id).unwrap().into()].into(),
            after: 0,
            floor: 0,
            limit: self.events.min(100_000),
            max_bytes: usize::MAX,
        };
        let events = if self.events == 0 { Vec::new() } else { self.from.read(query).await.unwrap().events };
        for event in events {
            let mut data = event.data_value();
            data["jobId"] = json!(new_id);
            (self.event)(&mut data);
            batch.events.push(Draft {
                topics: vec![Topic::job(new_id).unwrap()],
                event: event.name().to_owned(),
                data: data.to_string(),
                publisher: "jobs".into(),
                ..Draft::default()
            });
        }
        journal.append(batch).await.unwrap();
    }
}

/// Moves a field of milliseconds.
fn shift(value: &mut Value, field: &str, by: i64) {
    let ms = value[field].as_u64().unwrap();
    value[field] = json!(ms.saturating_add_signed(by));
}

async fn run_all_tasks() {
    sleep(std::time::Duration::from_secs(3)).await;
}
