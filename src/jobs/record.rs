//! The records of a job: the spec with its secrets, large results, idempotency keys.
//!
//! A job exists exactly as long as its spec record ([`durable`]). Other records without it are left over from an
//! interrupted purge.
//!
//! ```text
//! job/{id}/spec             the spec as accepted, with every id filled in
//! job/{id}/ending           a client has cancelled the job; where jobs outlive the process
//! job/{id}/remote/{name}    the job on this remote that runs the tasks which name it
//! job/{id}/result/{taskId}  a result that was too large for an event
//! job-key/{user}/{key}      the job of a client's idempotency key; `-` without a user
//! ```

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    error::{Error, SubmitError},
    event::LOCAL,
    spec::{Plan, PlannedTask, Spec},
    state::{Origin, TaskOrigin},
    urls,
};
use crate::{
    durable::{self, Records},
    journal::{AppendError, Batch, Expect, RecordWrite, Shared, Unavailable},
    spans,
    topic::Topic,
    upstream::Via,
};

/// The spec record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpecRecord {
    /// [`VERSION`].
    pub version: u32,
    pub job_id: Arc<str>,
    /// Unix milliseconds.
    pub created_at: u64,
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub groups: Arc<[String]>,
    pub retry_of: Option<String>,
    /// The record of the idempotency key, which is deleted with the job.
    pub key_record: Option<String>,
    /// The `Via` of the request that submitted the job.
    #[serde(default, skip_serializing_if = "Via::is_empty")]
    pub via: Via,
    pub spec: Spec,
}

/// A client's idempotency key, and a fingerprint of the body that came with it.
#[derive(Debug)]
pub(crate) struct Key {
    pub record: String,
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyRecord {
    job_id: String,
    hash: String,
}

/// A job that is about to be deleted.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub id: Arc<str>,
    /// The record of its idempotency key.
    pub key_record: Option<String>,
}

/// The result of writing a submission.
pub(crate) enum Written {
    /// The record was written; its encoded form.
    New(Bytes),
    /// The key already belongs to this job.
    Existing(String),
}

/// The records of jobs.
pub(crate) const RECORDS: Records = Records("job");
/// The version of [`SpecRecord`].
pub(crate) const VERSION: u32 = 1;
/// The record of a cancellation, the only ending that does not follow from the history, the spec or the clock.
const CANCELLED: &[u8] = br#"{"version":1,"ending":"cancelled"}"#;
/// Times that a key may change between reading and writing before that counts as a fault of the journal.
const MAX_TRIES: usize = 5;

fn is_empty(groups: &Arc<[String]>) -> bool {
    groups.is_empty()
}

// === impl SpecRecord ===

impl SpecRecord {
    /// Reads a spec record.
    pub(crate) fn decode(value: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(value)
    }

    /// The job before its first event.
    pub(crate) fn origin(&self, plan: &Plan) -> Origin {
        Origin {
            job_id: self.job_id.clone(),
            user: self.user.clone(),
            created_at: self.created_at,
            retry_of: self.retry_of.clone(),
            tasks: plan.tasks.iter().map(task_origin).collect(),
        }
    }
}

// === impl Key ===

impl Key {
    /// The key of this user; equal keys of different users are different keys.
    pub(crate) fn new(user: Option<&str>, key: &str, spec: &Spec) -> Self {
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

fn task_origin(task: &PlannedTask) -> TaskOrigin {
    let source = task.remote.clone().unwrap_or_else(|| LOCAL.clone());
    TaskOrigin { id: task.id.clone(), name: task.name.clone(), source }
}

/// Writes a spec and its key, both or neither.
pub(crate) async fn write(journal: &Shared, spec: &SpecRecord, key: Option<&Key>) -> Result<Written, SubmitError> {
    let value = Bytes::from(serde_json::to_vec(spec).expect("a spec serialises: it came from JSON"));
    for _ in 0..MAX_TRIES {
        if let Some(key) = key
            && let Some(job) = find(journal, key).await?
        {
            return Ok(Written::Existing(job));
        }
        let spec_write = RecordWrite { key: RECORDS.spec(&spec.job_id), value: Some(value.clone()) };
        let mut batch = Batch { records: vec![spec_write], ..Batch::default() };
        if let Some(key) = key {
            let record = KeyRecord { job_id: spec.job_id.to_string(), hash: key.hash.clone() };
            batch.records.push(durable::put(key.record.clone(), &record));
            batch.expect.push(Expect { key: key.record.clone(), revision: None });
        }
        match journal.append(batch).await {
            Ok(_) => return Ok(Written::New(value)),
            // Another request came first with this key: read it again.
            Err(AppendError::Conflict(_)) => {}
            Err(error) => return Err(Unavailable::from(error).into()),
        }
    }
    Err(Unavailable::Failed("the record of an idempotency key keeps changing".into()).into())
}

/// Reads a spec back, with its secrets.
pub(crate) async fn read(journal: &Shared, job_id: &str) -> Result<SpecRecord, Error> {
    let record = durable::read(journal, RECORDS.spec(job_id)).await.map_err(Unavailable::from)?;
    record.map(|(record, _)| record).ok_or_else(|| Error::UnknownJob(job_id.to_owned()))
}

/// Writes the cancellation of a job by a client.
pub(crate) async fn write_cancelled(journal: &Shared, job_id: &str) -> Result<(), AppendError> {
    let record = RecordWrite { key: ending_key(job_id), value: Some(Bytes::from_static(CANCELLED)) };
    journal.append(Batch { records: vec![record], ..Batch::default() }).await.map(drop)
}

/// Deletes everything of a job. The spec and the key are deleted first, in one commit. If the node ends before the rest
/// is deleted, the next start finishes the purge ([`tidy`]). It does not take the job for a new one.
pub(crate) async fn purge(journal: &Shared, job_id: &str, key_record: Option<String>) -> Result<(), AppendError> {
    let keys = [RECORDS.spec(job_id), ending_key(job_id)].into_iter().chain(key_record);
    let records = keys.map(durable::delete).collect();
    journal.append(Batch { records, ..Batch::default() }).await?;
    tidy(journal, job_id).await
}

/// Deletes jobs; returns those that could not be deleted.
pub(crate) async fn purge_all(journal: &Shared, deletions: Vec<Deletion>) -> Vec<Deletion> {
    let mut left = Vec::new();
    for job in deletions {
        if let Err(error) = purge(journal, &job.id, job.key_record.clone()).await {
            spans::job(&job.id).in_scope(|| {
                tracing::warn!(job_id = %job.id, %error, "the data of an ended job could not be deleted; trying again");
            });
            left.push(job);
        }
    }
    left
}

/// Deletes the remaining records of a job without a spec.
pub(crate) async fn tidy(journal: &Shared, job_id: &str) -> Result<(), AppendError> {
    if let Ok(topic) = Topic::job(job_id) {
        journal.purge(topic).await?;
    }
    RECORDS.clear(journal, job_id).await
}

/// The key of the record of a cancellation.
pub(crate) fn ending_key(job_id: &str) -> String {
    RECORDS.key(job_id, "ending")
}

/// The key of a large result.
pub(crate) fn result_key(job_id: &str, task_id: &str) -> String {
    RECORDS.key(job_id, format_args!("result/{task_id}"))
}

/// The key of the record of the job on a remote.
pub(crate) fn remote_key(job_id: &str, remote: &str) -> String {
    RECORDS.key(job_id, format_args!("remote/{remote}"))
}

async fn find(journal: &Shared, key: &Key) -> Result<Option<String>, SubmitError> {
    let known = durable::read::<KeyRecord>(journal, key.record.clone()).await.map_err(Unavailable::from)?;
    let Some((known, _)) = known else { return Ok(None) };
    if known.hash == key.hash { Ok(Some(known.job_id)) } else { Err(SubmitError::KeyReused) }
}
