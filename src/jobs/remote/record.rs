//! The record of a job on a remote: the request, and the id of the job on the remote.
//!
//! It is written before the remote gets a request, since a repeat with the same idempotency key must have the same
//! body. It is written again when the id is known. It is written only while the job's own record exists, so it does not
//! outlive the job.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    durable::{self, ReadError},
    jobs::{
        record::{self, RECORDS, SpecRecord},
        spec::{OnDisconnect, Spec},
    },
    journal::{AppendError, Batch, Expect, Shared, Unavailable},
};

/// The known data of the job on the remote.
#[derive(Clone, Debug)]
pub(super) struct RemoteJobRecord {
    job: Arc<str>,
    remote: Arc<str>,
    /// The spec for the remote: only its own tasks.
    spec: Spec,
    /// The revision of the job's own record.
    revision: u64,
    record: Option<Record>,
}

/// The record itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    /// The timeout that the remote was given.
    timeout_ms: Option<u64>,
    /// The id of the job on the remote, after the remote has returned it.
    job_id: Option<String>,
}

/// The version of [`Record`].
const VERSION: u32 = 1;

// === impl RemoteJobRecord ===

impl RemoteJobRecord {
    /// Reads the record; `None` if the job no longer exists, and the reason if a record does not have the expected form.
    pub(super) async fn load(
        journal: &Shared,
        job: &Arc<str>,
        remote: &Arc<str>,
    ) -> Result<Result<Option<Self>, String>, Unavailable> {
        match Self::read(journal, job, remote).await {
            Ok(record) => Ok(Ok(record)),
            Err(ReadError::Journal(unavailable)) => Err(unavailable),
            Err(ReadError::Unreadable(reason)) => Ok(Err(reason)),
        }
    }

    async fn read(journal: &Shared, job: &Arc<str>, remote: &Arc<str>) -> Result<Option<Self>, ReadError> {
        let own = durable::read::<SpecRecord>(journal, RECORDS.spec(job)).await?;
        let Some((SpecRecord { mut spec, .. }, revision)) = own else { return Ok(None) };
        let record = durable::read::<Record>(journal, record::remote_key(job, remote)).await?.map(|(record, _)| record);
        spec.tasks.retain(|task| task.remote.as_deref() == Some(&**remote));
        spec.tasks.iter_mut().for_each(|task| task.remote = None);
        // This node handles these itself.
        (spec.on_disconnect, spec.notify, spec.callback_url) = (OnDisconnect::Continue, None, None);
        spec.timeout_ms = record.as_ref().and_then(|record| record.timeout_ms);
        Ok(Some(Self { job: job.clone(), remote: remote.clone(), spec, revision, record }))
    }

    /// The job on the remote.
    pub(super) fn job_id(&self) -> Option<&str> {
        self.record.as_ref()?.job_id.as_deref()
    }

    /// True if the remote may have received a request.
    pub(super) fn begun(&self) -> bool {
        self.record.is_some()
    }

    /// Records that the remote will get a request.
    pub(super) fn begin(&mut self, timeout: Option<Duration>) {
        let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self.spec.timeout_ms = timeout_ms;
        self.record = Some(Record { version: VERSION, timeout_ms, job_id: None });
    }

    /// Records the job of the remote's response.
    pub(super) fn found(&mut self, job_id: String) {
        if let Some(record) = &mut self.record {
            record.job_id = Some(job_id);
        }
    }

    /// The request body for the remote.
    pub(super) fn body(&self) -> Bytes {
        durable::encode(&self.spec)
    }

    /// The ids of the tasks in the order in which the remote gets them.
    pub(super) fn ids(&self) -> Vec<&str> {
        self.spec.tasks.iter().map(|task| task.id.as_deref().unwrap_or_default()).collect()
    }

    /// Writes the record.
    ///
    /// # Errors
    /// A conflict if the job no longer exists.
    pub(super) async fn save(&self, journal: &Shared) -> Result<(), AppendError> {
        let write = durable::put(record::remote_key(&self.job, &self.remote), &self.record);
        let expect = Expect { key: RECORDS.spec(&self.job), revision: Some(self.revision) };
        journal.append(Batch { events: Vec::new(), records: vec![write], expect: vec![expect] }).await.map(drop)
    }
}
