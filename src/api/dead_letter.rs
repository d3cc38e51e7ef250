//! A dead letter as clients see it: what went wrong, and the job as it was submitted.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::view::json;
use crate::domain::{Digest, ExecutionRecord};
use crate::store::DeadLetterRow;

#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    id: Uuid,
    job_id: Uuid,
    job_data: JobData<'a>,
    error_type: &'a str,
    error_message: &'a str,
    retry_count: u32,
    created_at: DateTime<Utc>,
    client_ip: Option<&'a str>,
    correlation_id: Option<&'a str>,
}

/// In the words of a submission, so that it can be sent again, changed or not.
#[derive(Debug, Serialize)]
struct JobData<'a> {
    execution_id: Uuid,
    job_id: Uuid,
    job_type: &'a str,
    #[serde(flatten)]
    submission: Option<Submission<'a>>,
}

#[derive(Debug, Serialize)]
struct Submission<'a> {
    job_version: &'a str,
    /// Null for what is no longer kept, and where a list has enough text.
    code: Option<String>,
    input_data: Option<Box<RawValue>>,
    code_hash: Digest,
    input_hash: Digest,
    /// Seconds.
    timeout: f64,
    startup_timeout: f64,
    requirements: &'a [String],
    /// Name and hash of the bytes.
    files: BTreeMap<&'a str, Digest>,
    priority: i16,
    max_attempts: u32,
    tags: &'a BTreeMap<String, String>,
    idempotency_key: Option<&'a str>,
    parent_execution_id: Option<Uuid>,
}

impl<'a> Entry<'a> {
    /// With the blobs that [`payload`] names, or as many of them as are to be shown.
    pub fn of(letter: &'a DeadLetterRow, record: Option<&'a ExecutionRecord>, blobs: &HashMap<Digest, Bytes>) -> Self {
        Self {
            id: letter.execution_id,
            job_id: letter.execution_id,
            job_data: JobData {
                execution_id: letter.execution_id,
                job_id: letter.execution_id,
                job_type: &letter.job_type,
                submission: record.map(|record| Submission::of(record, blobs)),
            },
            error_type: &letter.error_type,
            error_message: &letter.error_message,
            retry_count: letter.retry_count,
            created_at: letter.created_at,
            client_ip: letter.client_ip.as_deref(),
            correlation_id: letter.correlation_id.as_deref(),
        }
    }
}

impl<'a> Submission<'a> {
    fn of(record: &'a ExecutionRecord, blobs: &HashMap<Digest, Bytes>) -> Self {
        let submitted = &record.submitted;
        let seconds = |milliseconds: u64| std::time::Duration::from_millis(milliseconds).as_secs_f64();
        Self {
            job_version: &submitted.job_version,
            code: blobs.get(&submitted.code).map(|code| String::from_utf8_lossy(code).into_owned()),
            input_data: blobs.get(&submitted.input).and_then(json),
            code_hash: submitted.code,
            input_hash: submitted.input_canonical,
            timeout: seconds(submitted.limits.timeout_ms),
            startup_timeout: seconds(submitted.limits.startup_timeout_ms),
            requirements: &submitted.requirements,
            files: submitted.files.iter().map(|file| (file.name.as_str(), file.hash)).collect(),
            priority: submitted.priority,
            max_attempts: submitted.max_attempts,
            tags: &submitted.tags,
            idempotency_key: submitted.idempotency.as_ref().map(|idempotency| idempotency.key.as_str()),
            parent_execution_id: submitted.parent.map(|parent| parent.execution_id),
        }
    }
}

/// The blobs that an entry shows.
pub fn payload(record: &ExecutionRecord) -> [Digest; 2] {
    [record.submitted.code, record.submitted.input]
}
