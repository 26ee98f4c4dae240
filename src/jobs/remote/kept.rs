//! What the journal keeps of a job on a remote: what was, or is about to be, sent there, and the id that came back.
//!
//! It is written before the remote is asked, since a repeat with the same idempotency key must have the same body, and
//! again when the id is known. It is written only while the job's own record stands, so that nothing outlives the job.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    jobs::{
        record::{self, RECORDS, SpecRecord},
        spec::{OnDisconnect, Spec},
    },
    journal::{self, AppendError, Batch, Expect, RecordWrite, Shared, Unavailable},
};

/// What is known of a job on a remote.
#[derive(Clone, Debug)]
pub struct Kept {
    job: Arc<str>,
    remote: Arc<str>,
    /// What the remote gets: only its own tasks.
    spec: Spec,
    /// Of the job's own record.
    revision: u64,
    record: Option<Record>,
}

/// What the record holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    /// The timeout that the remote was given.
    timeout_ms: Option<u64>,
    /// The job there, once it has answered.
    job_id: Option<String>,
}

/// The form of [`Record`].
const VERSION: u32 = 1;

// === impl Kept ===

impl Kept {
    /// Reads what there is; `None` when the job is no longer kept, and why where nobody can make sense of it.
    pub async fn load(
        journal: &Shared,
        job: &Arc<str>,
        remote: &Arc<str>,
    ) -> Result<Result<Option<Self>, String>, Unavailable> {
        let Some(own) = journal.get(RECORDS.spec(job)).await? else { return Ok(Ok(None)) };
        let record = journal.get(record::remote_key(job, remote)).await?;
        let read = Self::read(&own, record.as_ref().map(|record| &record.value), job, remote);
        Ok(read.map(Some).map_err(|error| format!("what is kept of it here cannot be read: {error}")))
    }

    fn read(
        own: &journal::Record,
        record: Option<&Bytes>,
        job: &Arc<str>,
        remote: &Arc<str>,
    ) -> Result<Self, serde_json::Error> {
        let mut spec = SpecRecord::decode(&own.value)?.spec;
        let record: Option<Record> = record.map(|record| serde_json::from_slice(record)).transpose()?;
        spec.tasks.retain(|task| task.remote.as_deref() == Some(&**remote));
        spec.tasks.iter_mut().for_each(|task| task.remote = None);
        // These are this node's business.
        (spec.on_disconnect, spec.notify, spec.callback_url) = (OnDisconnect::Continue, None, None);
        spec.timeout_ms = record.as_ref().and_then(|record| record.timeout_ms);
        Ok(Self { job: job.clone(), remote: remote.clone(), spec, revision: own.revision, record })
    }

    /// The job on the remote.
    pub fn job_id(&self) -> Option<&str> {
        self.record.as_ref()?.job_id.as_deref()
    }

    /// True once the remote may have been asked.
    pub fn begun(&self) -> bool {
        self.record.is_some()
    }

    /// The remote is about to be asked.
    pub fn begin(&mut self, timeout: Option<Duration>) {
        let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self.spec.timeout_ms = timeout_ms;
        self.record = Some(Record { version: VERSION, timeout_ms, job_id: None });
    }

    /// The remote has answered.
    pub fn found(&mut self, job_id: String) {
        if let Some(record) = &mut self.record {
            record.job_id = Some(job_id);
        }
    }

    /// What the remote gets.
    pub fn body(&self) -> Bytes {
        serde_json::to_vec(&self.spec).expect("a spec serialises: it came from JSON").into()
    }

    /// The ids of the tasks in the order in which the remote gets them.
    pub fn ids(&self) -> Vec<&str> {
        self.spec.tasks.iter().map(|task| task.id.as_deref().unwrap_or_default()).collect()
    }

    /// Writes it.
    pub async fn keep(&self, journal: &Shared) -> Result<(), AppendError> {
        let value = serde_json::to_vec(&self.record).expect("plain data serialises");
        let write = RecordWrite { key: record::remote_key(&self.job, &self.remote), value: Some(value.into()) };
        let expect = Expect { key: RECORDS.spec(&self.job), revision: Some(self.revision) };
        journal.append(Batch { events: Vec::new(), records: vec![write], expect: vec![expect] }).await.map(drop)
    }
}
