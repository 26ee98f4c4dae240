//! Inputs of tasks, which are read back from the records of their jobs when an attempt starts.
//!
//! Specs are not in memory: a job may wait for hours, and there may be thousands of jobs. The most recent records are
//! cached as text ([`CACHE_BYTES`]), since the tasks of a job usually begin one after the other.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync;
use tokio_util::sync::CancellationToken;

use super::{
    code,
    handler::TaskError,
    memory::{FREE, Memory},
    record::RECORDS,
    spec::TaskSpec,
};
use crate::{
    journal::{Shared, insist},
    json::{self, Json},
    shares::{Held, Owner},
};

/// Reads inputs. Shared by the attempts of a node.
pub(crate) struct Inputs {
    journal: Shared,
    memory: Memory,
    cache: Mutex<VecDeque<Arc<Text>>>,
    /// Held while a record is read, because the tasks of a job start together and need the same one.
    reading: sync::Mutex<()>,
    #[cfg(test)]
    reads: std::sync::atomic::AtomicUsize,
}

/// The record of a job, and the range of each task in it.
struct Text {
    job: Arc<str>,
    json: Bytes,
    tasks: Vec<Range<u32>>,
}

/// The parts of a record that are used.
#[derive(Deserialize)]
struct Outer<'t> {
    #[serde(borrow)]
    spec: Inner<'t>,
}

#[derive(Deserialize)]
struct Inner<'t> {
    #[serde(borrow)]
    tasks: Vec<&'t RawValue>,
}

/// Maximum bytes of cached records; the last record is cached even if it is larger.
const CACHE_BYTES: usize = 8 << 20;
/// Retries of a read while the journal fails, about five seconds; then the attempt fails.
const MAX_RETRIES: u32 = 20;

// === impl Inputs ===

impl Inputs {
    pub(crate) fn new(journal: Shared, memory: Memory) -> Self {
        Self {
            journal,
            memory,
            cache: Mutex::default(),
            reading: sync::Mutex::default(),
            #[cfg(test)]
            reads: std::sync::atomic::AtomicUsize::default(),
        }
    }

    /// The input of a task, and its part of the memory budget. `bytes` is the size of the job's record.
    ///
    /// # Errors
    /// If the journal cannot be read, or no longer has the record.
    pub(crate) async fn load(
        &self,
        owner: &Owner,
        job: &Arc<str>,
        task: u32,
        bytes: usize,
    ) -> Result<(Json, Option<Held>), TaskError> {
        let text = match self.cached(job) {
            Some(text) => text,
            None => {
                // Memory comes first: an owner may wait long for it, and must not hold the lock meanwhile.
                let _held = self.memory.input(owner, bytes).await;
                let reading = self.reading.lock().await;
                match self.cached(job) {
                    Some(text) => text,
                    None => self.read(job, reading).await?,
                }
            }
        };
        let lost = || TaskError::fatal(code::INPUT_LOST, "the input of the task is not in the record of its job");
        let range = text.tasks.get(task as usize).cloned().ok_or_else(lost)?;
        let json = text.json.slice(range.start as usize..range.end as usize);
        drop(text);
        let held = self.memory.input(owner, json.len()).await;
        let parse = move || json::from_slice::<TaskSpec>(&json).map(TaskSpec::into_input);
        let input = if held.is_some() { self.memory.large(parse).await } else { parse() };
        Ok((input.map_err(|error| unreadable(&error.to_string()))?, held))
    }

    /// Caches the record of a job that is about to begin.
    pub(crate) fn keep(&self, job: &Arc<str>, json: Bytes) {
        // Large records are read back later: scanning them here would delay the start of the job.
        if json.len() <= FREE
            && let Ok(text) = Text::new(job.clone(), json)
        {
            self.put(Arc::new(text));
        }
    }

    /// Reads a record. The lock on reading is held until the journal fails.
    async fn read(&self, job: &Arc<str>, reading: sync::MutexGuard<'_, ()>) -> Result<Arc<Text>, TaskError> {
        #[cfg(test)]
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (mut failures, mut reading) = (0, Some(reading));
        let request = async || match self.journal.get(RECORDS.spec(job)).await {
            Err(error) if failures >= MAX_RETRIES => Ok(Err(error)),
            Err(error) => {
                failures += 1;
                // The other tasks must not wait for all retries of this one.
                reading.take();
                Err(error)
            }
            Ok(record) => Ok(Ok(record)),
        };
        // An attempt that is cancelled drops this future.
        let record = insist(&CancellationToken::new(), "the input of a task is read", request).await;
        let record = record.ok_or_else(|| unreadable("the journal is closed"))?;
        let record = record.map_err(|error| unreadable(&error.to_string()))?;
        let json =
            record.ok_or_else(|| TaskError::fatal(code::INPUT_LOST, "the record of the job no longer exists"))?.value;
        let (job, large) = (job.clone(), json.len() > FREE);
        let read = move || Text::new(job, json);
        let text = if large { self.memory.large(read).await } else { read() };
        let text = Arc::new(text.map_err(|error| unreadable(&error.to_string()))?);
        self.put(text.clone());
        Ok(text)
    }

    fn cached(&self, job: &Arc<str>) -> Option<Arc<Text>> {
        let mut cache = self.cache();
        let at = cache.iter().position(|text| text.job == *job)?;
        let text = cache.remove(at)?;
        cache.push_front(text.clone());
        Some(text)
    }

    fn put(&self, text: Arc<Text>) {
        let mut cache = self.cache();
        cache.retain(|cached| cached.job != text.job);
        cache.push_front(text);
        let mut bytes = 0;
        let fits = cache.iter().take_while(|text| {
            bytes += text.bytes();
            bytes <= CACHE_BYTES
        });
        // A record above the limit is cached alone; otherwise each of its tasks would read it again.
        let fits = fits.count().max(1);
        cache.truncate(fits);
    }

    fn cache(&self) -> MutexGuard<'_, VecDeque<Arc<Text>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Text ===

impl Text {
    fn new(job: Arc<str>, json: Bytes) -> serde_json::Result<Self> {
        let outer: Outer<'_> = serde_json::from_slice(&json)?;
        let start = json.as_ptr().addr();
        let range = |task: &&RawValue| {
            let at = task.get().as_ptr().addr() - start;
            let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            number(at)..number(at + task.get().len())
        };
        let tasks = outer.spec.tasks.iter().map(range).collect();
        Ok(Self { job, json, tasks })
    }

    fn bytes(&self) -> usize {
        // A small record costs more than its text.
        256 + self.json.len() + self.tasks.len() * size_of::<Range<u32>>()
    }
}

// === helpers ===

fn unreadable(reason: &str) -> TaskError {
    TaskError::transient(code::INPUT_LOST, format!("the input of the task cannot be read: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        journal::{Batch, Config, Journal, Memory as Log, RecordWrite},
        shares::Share,
    };

    async fn journal(records: &[(&str, &Value)]) -> Shared {
        let journal = Arc::new(Log::new(&Config::default()));
        let records = records.iter().map(|(job, spec)| RecordWrite {
            key: RECORDS.spec(job),
            value: Some(json!({ "version": 1, "spec": spec }).to_string().into()),
        });
        journal.append(Batch { records: records.collect(), ..Batch::default() }).await.expect("it is written");
        journal
    }

    #[tokio::test]
    async fn inputs_come_from_the_record_of_their_job() {
        let large = "x".repeat(3 * FREE);
        let spec = json!({ "tasks": [
            { "run": "a", "input": { "ä": [1, 2.50] } },
            { "url": "http://h/", "method": "post", "headers": { "X": "y" }, "body": large },
            { "run": "b" },
        ] });
        let inputs = Inputs::new(journal(&[("j", &spec)]).await, Memory::default());
        let (job, bytes) = (Arc::from("j"), 4 * FREE);
        for _ in 0..2 {
            let load = async |task| inputs.load(&None, &job, task, bytes).await;
            assert_eq!(load(0).await.expect("it is there").0, json!({ "ä": [1, 2.50] }));
            let (request, held) = load(1).await.expect("it is there");
            let request = request.value();
            assert_eq!((&request["method"], request["body"].as_str()), (&json!("POST"), Some(&*large)));
            assert!(held.is_some(), "a large input is counted");
            assert_eq!(load(2).await.expect("it is there").0, Json::null());
            assert_eq!(load(3).await.expect_err("there are three").code, code::INPUT_LOST);
        }
        assert_eq!(inputs.load(&None, &Arc::from("k"), 0, 1).await.expect_err("it is gone").code, code::INPUT_LOST);
    }

    #[tokio::test]
    async fn tasks_that_start_together_read_their_record_once() {
        let tasks: Vec<_> = (0..100).map(|n| json!({ "run": "a", "input": [n, "x".repeat(FREE / 50)] })).collect();
        let inputs = Inputs::new(journal(&[("j", &json!({ "tasks": tasks }))]).await, Memory::default());
        let job = Arc::from("j");
        let loads = (0..100).map(|task| inputs.load(&None, &job, task, 3 * FREE));
        for (task, loaded) in futures::future::join_all(loads).await.into_iter().enumerate() {
            assert_eq!(loaded.expect("it is there").0.value()[0], task);
        }
        assert_eq!(inputs.reads.into_inner(), 1);
    }

    #[tokio::test]
    async fn an_input_waits_for_memory() {
        let spec = json!({ "tasks": [{ "run": "a", "input": "x".repeat(2 * FREE) }] });
        let memory = Memory::new(16 * FREE, Share::WHOLE);
        let inputs = Inputs::new(journal(&[("j", &spec)]).await, memory.clone());
        let job = Arc::from("j");
        let (_, held) = inputs.load(&None, &job, 0, 3 * FREE).await.expect("it is there");
        let mut second = Box::pin(inputs.load(&None, &job, 0, 3 * FREE));
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert_eq!(memory.figures()[1].1.waiting, 1);
        drop(held);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn the_cache_has_only_records_that_fit() {
        let inputs = Inputs::new(journal(&[]).await, Memory::default());
        let json =
            Bytes::from(json!({ "spec": { "tasks": [{ "run": "a", "input": "x".repeat(60_000) }] } }).to_string());
        for n in 0..200 {
            inputs.keep(&n.to_string().into(), json.clone());
        }
        let cached: usize = inputs.cache().iter().map(|text| text.bytes()).sum();
        assert!((CACHE_BYTES / 2..=CACHE_BYTES).contains(&cached), "{cached}");
        assert!(inputs.cached(&"199".into()).is_some() && inputs.cached(&"0".into()).is_none());
        let large = json!({ "spec": { "tasks": [{ "run": "a", "input": "x".repeat(CACHE_BYTES) }] } }).to_string();
        inputs.put(Arc::new(Text::new("large".into(), large.into()).expect("a record")));
        assert_eq!(inputs.cache().iter().map(|text| &*text.job).collect::<Vec<_>>(), ["large"]);
    }
}
