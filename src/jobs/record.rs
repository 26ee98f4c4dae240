//! What is kept of a job beside its events: the spec with its secrets, large results, idempotency keys.
//!
//! ```text
//! job/{id}/spec             the spec as accepted, with every id filled in
//! job/{id}/result/{taskId}  a result that was too large for an event
//! job-key/{user}/{key}      which job a client's key stands for; `-` without a user
//! ```

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, SubmitError, spec::Spec, urls};
use crate::{
    journal::{AppendError, Batch, Expect, RecordWrite, Shared, Unavailable},
    topic::Topic,
};

/// What a spec record holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecRecord {
    /// Of this form; a later one can tell.
    pub version: u32,
    pub job_id: Arc<str>,
    /// Unix milliseconds.
    pub created_at: u64,
    pub user: Option<String>,
    pub retry_of: Option<String>,
    /// The record of the idempotency key, which leaves with the job.
    pub key_record: Option<String>,
    pub spec: Spec,
}

/// A client's idempotency key, and a fingerprint of what it was sent with.
#[derive(Debug)]
pub struct Key {
    pub record: String,
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyRecord {
    job_id: String,
    hash: String,
}

/// What became of a submission.
pub enum Written {
    /// It is kept.
    New,
    /// The key stands for this job already.
    Existing(String),
}

/// The form of [`SpecRecord`].
pub const VERSION: u32 = 1;
/// How often a key may change hands under our feet before that counts as a fault of the journal.
const MAX_TRIES: usize = 5;

// === impl Key ===

impl Key {
    /// Equal keys of different users are different keys.
    pub fn new(user: Option<&str>, key: &str, spec: &Spec) -> Self {
        let user = match user {
            None => "-".to_owned(),
            Some("-") => "%2D".to_owned(),
            Some(user) => urls::segment(user),
        };
        let body = serde_json::to_vec(spec).expect("a spec serialises: it came from JSON");
        let hash = format!("{:x}", Sha256::digest(&body));
        Self { record: format!("job-key/{user}/{}", urls::segment(key)), hash }
    }
}

/// Keeps a spec and its key, both or neither.
pub async fn write(journal: &Shared, spec: &SpecRecord, key: Option<&Key>) -> Result<Written, SubmitError> {
    let value = Bytes::from(serde_json::to_vec(spec).expect("a spec serialises: it came from JSON"));
    for _ in 0..MAX_TRIES {
        if let Some(key) = key
            && let Some(job) = find(journal, key).await?
        {
            return Ok(Written::Existing(job));
        }
        let put = |key: String, value: Bytes| RecordWrite { key, value: Some(value) };
        let mut batch = Batch { records: vec![put(spec_key(&spec.job_id), value.clone())], ..Batch::default() };
        if let Some(key) = key {
            let record = KeyRecord { job_id: spec.job_id.to_string(), hash: key.hash.clone() };
            let record = serde_json::to_vec(&record).expect("plain data serialises");
            batch.records.push(put(key.record.clone(), record.into()));
            batch.expect.push(Expect { key: key.record.clone(), revision: None });
        }
        match journal.append(batch).await {
            Ok(_) => return Ok(Written::New),
            // Somebody else came first with this key: look again.
            Err(AppendError::Conflict(_)) => {}
            Err(AppendError::Unavailable(unavailable)) => return Err(unavailable.into()),
            Err(other) => return Err(Unavailable::Failed(other.to_string()).into()),
        }
    }
    Err(Unavailable::Failed("the record of an idempotency key keeps changing".into()).into())
}

/// Reads a spec back, with its secrets.
pub async fn read(journal: &Shared, job_id: &str) -> Result<SpecRecord, Error> {
    let record = journal.get(spec_key(job_id)).await?.ok_or_else(|| Error::UnknownJob(job_id.to_owned()))?;
    serde_json::from_slice(&record.value)
        .map_err(|e| Unavailable::Failed(format!("the record of job `{job_id}` cannot be read: {e}")).into())
}

/// Lets go of all that is kept of a job.
pub async fn purge(journal: &Shared, job_id: &str, key_record: Option<String>) -> Result<(), AppendError> {
    const PAGE: usize = 1024;
    journal.purge(Topic::job(job_id).expect("it was a topic before")).await?;
    let delete = |key: String| RecordWrite { key, value: None };
    let mut records: Vec<_> = key_record.into_iter().map(delete).collect();
    loop {
        let page = journal.scan(format!("job/{job_id}/"), None, PAGE).await?;
        let last = page.len() < PAGE;
        records.extend(page.into_iter().map(|(key, _)| delete(key)));
        journal.append(Batch { records: std::mem::take(&mut records), ..Batch::default() }).await?;
        if last {
            return Ok(());
        }
    }
}

/// The key of a spec record.
pub fn spec_key(job_id: &str) -> String {
    format!("job/{job_id}/spec")
}

/// The key of a large result.
pub fn result_key(job_id: &str, task_id: &str) -> String {
    format!("job/{job_id}/result/{task_id}")
}

async fn find(journal: &Shared, key: &Key) -> Result<Option<String>, SubmitError> {
    let Some(record) = journal.get(key.record.clone()).await? else { return Ok(None) };
    let known: KeyRecord = serde_json::from_slice(&record.value)
        .map_err(|e| Unavailable::Failed(format!("the record of an idempotency key cannot be read: {e}")))?;
    if known.hash == key.hash { Ok(Some(known.job_id)) } else { Err(SubmitError::KeyReused) }
}
