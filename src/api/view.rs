//! The record as clients see it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::{
    DeadLetter, Dependencies, Digest, Ending, ErrorType, ExecutionRecord, FileSource, JobLimits, JobScheduled,
    JobState, Observed, Phase, ReplayVerdictRecorded, Timing,
};

/// The names under which a job's own code and input are among its input artifacts.
pub const CODE: &str = "_code.py";
pub const INPUT: &str = "_input.json";

/// How much of a record is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Short,
    Full,
}

impl Extent {
    pub fn full_if(full: bool) -> Self {
        if full { Self::Full } else { Self::Short }
    }
}

/// A record's flat JSON form.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    pub execution_id: Uuid,
    status: &'static str,
    job_type: &'a str,
    job_version: &'a str,
    created_at: DateTime<Utc>,
    queued_at: DateTime<Utc>,
    dequeued_at: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    /// From the start of the code to the end, milliseconds.
    duration_ms: Option<i64>,
    pub exit_code: Option<i32>,
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub output: Option<Box<RawValue>>,
    pub error: Option<Fault>,
    timing: Option<Timing>,
    /// When its private payload was made unreadable.
    #[serde(skip_serializing_if = "Option::is_none")]
    shredded_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    full: Option<Full<'a>>,
}

/// Why an execution did not succeed.
#[derive(Debug, Serialize)]
pub struct Fault {
    #[serde(rename = "type")]
    pub error_type: ErrorType,
    pub message: String,
    phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<String>,
}

#[derive(Debug, Serialize)]
struct Full<'a> {
    job_ref: &'a str,
    artifacts: Vec<NamedBlob<'a>>,
    input_artifacts: Vec<NamedBlob<'a>>,
    refused_artifacts: Vec<Refused<'a>>,
    resource_usage: Option<ResourceUsage>,
    code_hash: Digest,
    input_hash: Digest,
    params_hash: Digest,
    input_artifacts_hash: Option<Digest>,
    parent_execution_id: Option<Uuid>,
    relationship: Option<&'static str>,
    attempt: u32,
    max_attempts: u32,
    worker_id: Option<String>,
    engine: Option<&'a str>,
    runtime: Option<&'a str>,
    image: Option<&'a str>,
    image_digest: Option<&'a str>,
    warm: Option<bool>,
    sandbox_id: Option<&'a str>,
    /// `PYTHONHASHSEED` of the code.
    hash_seed: Option<&'a str>,
    signal: Option<i32>,
    stdout_truncated: bool,
    stderr_truncated: bool,
    idempotency_key: Option<&'a str>,
    correlation_id: Option<&'a str>,
    client_ip: Option<&'a str>,
    requirements: &'a [String],
    priority: i16,
    not_before: Option<DateTime<Utc>>,
    concurrency_key: Option<&'a str>,
    concurrency_limit: Option<u32>,
    tags: &'a BTreeMap<String, String>,
    limits: &'a JobLimits,
    cancel_requested: bool,
    after: Option<&'a Dependencies>,
    schedule: Option<&'a JobScheduled>,
    dead_letter: Option<&'a DeadLetter>,
    replay: Option<&'a ReplayVerdictRecorded>,
    /// Events folded into this record.
    stream_version: i32,
}

#[derive(Debug, Serialize)]
struct NamedBlob<'a> {
    name: &'a str,
    #[serde(rename = "sha256")]
    hash: Digest,
    /// Absent where only the blob itself knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The artifact it was taken from.
    #[serde(rename = "from", skip_serializing_if = "Option::is_none")]
    source: Option<&'a FileSource>,
}

#[derive(Debug, Serialize)]
struct Refused<'a> {
    name: &'a str,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
struct ResourceUsage {
    max_rss_mb: f64,
    cpu_time_ms: u64,
    wall_time_ms: u64,
    oom_killed: bool,
}

impl<'a> View<'a> {
    /// Shows a record with the blobs that [`shown_blobs`] names; of one that is no longer kept,
    /// the text is null.
    pub fn of(record: &'a ExecutionRecord, extent: Extent, blobs: &HashMap<Digest, Bytes>) -> Self {
        let Moments { dequeued_at, started_at, ended_at } = Moments::of(record);
        let observed = observed(record);
        let text = |hash: Digest| blobs.get(&hash).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let output = observed.and_then(|observed| observed.output).and_then(|hash| json(blobs.get(&hash)?));
        Self {
            execution_id: record.execution_id,
            status: record.status().as_str(),
            job_type: &record.submitted.job_type,
            job_version: &record.submitted.job_version,
            created_at: record.created_at,
            queued_at: record.queued_at,
            dequeued_at,
            started_at,
            ended_at,
            duration_ms: started_at.zip(ended_at).map(|(start, end)| (end - start).num_milliseconds().max(0)),
            exit_code: observed.and_then(|observed| observed.exit_code),
            stdout: observed.and_then(|observed| text(observed.stdout.hash)),
            stderr: observed.and_then(|observed| text(observed.stderr.hash)),
            output,
            error: fault(record),
            timing: observed.map(|observed| observed.timing),
            shredded_at: record.shredded_at,
            full: (extent == Extent::Full).then(|| Full::of(record, observed, blobs)),
        }
    }
}

impl<'a> Full<'a> {
    fn of(record: &'a ExecutionRecord, observed: Option<&'a Observed>, blobs: &HashMap<Digest, Bytes>) -> Self {
        let (submitted, sandbox) = (&record.submitted, record.sandbox());
        let size = |hash| blobs.get(&hash).map(|bytes| bytes.len() as u64);
        let own = [
            NamedBlob { name: CODE, hash: submitted.code, bytes: size(submitted.code), source: None },
            NamedBlob { name: INPUT, hash: submitted.input, bytes: size(submitted.input), source: None },
        ];
        let given = submitted.files.iter().map(|file| NamedBlob {
            name: &file.name,
            hash: file.hash,
            bytes: Some(file.bytes),
            source: file.source.as_ref(),
        });
        let made = observed.map(|observed| observed.artifacts.as_slice()).unwrap_or_default().iter();
        let refused = observed.map(|observed| observed.refused_artifacts.as_slice()).unwrap_or_default().iter();
        Self {
            job_ref: &submitted.job_version,
            artifacts: made
                .map(|made| NamedBlob { name: &made.name, hash: made.hash, bytes: Some(made.bytes), source: None })
                .collect(),
            input_artifacts: own.into_iter().chain(given).collect(),
            refused_artifacts: refused.map(|(name, reason)| Refused { name, reason }).collect(),
            resource_usage: observed.map(|observed| ResourceUsage {
                max_rss_mb: (observed.usage.max_rss_bytes as f64 / f64::from(1 << 20) * 100.0).round() / 100.0,
                cpu_time_ms: observed.usage.cpu_time_ms,
                wall_time_ms: observed.usage.wall_time_ms,
                oom_killed: observed.usage.oom_killed,
            }),
            code_hash: submitted.code,
            input_hash: submitted.input_canonical,
            params_hash: submitted.params,
            input_artifacts_hash: submitted.input_artifacts,
            parent_execution_id: submitted.parent.map(|parent| parent.execution_id),
            relationship: relationship(record),
            attempt: record.attempt,
            max_attempts: submitted.max_attempts,
            worker_id: record.claim().map(|claim| format!("{}/{}", claim.node_id, claim.slot)),
            engine: sandbox.map(|sandbox| sandbox.engine.as_str()),
            runtime: sandbox.map(|sandbox| sandbox.runtime.as_str()),
            image: sandbox.map(|sandbox| sandbox.image.as_str()),
            image_digest: sandbox.map(|sandbox| sandbox.image_digest.as_str()),
            warm: sandbox.map(|sandbox| sandbox.warmth == crate::domain::Warmth::Warm),
            sandbox_id: sandbox.map(|sandbox| sandbox.id.as_str()),
            hash_seed: sandbox.and_then(|sandbox| sandbox.hash_seed.as_deref()),
            signal: observed.and_then(|observed| observed.signal),
            stdout_truncated: observed.is_some_and(|observed| observed.stdout.truncated),
            stderr_truncated: observed.is_some_and(|observed| observed.stderr.truncated),
            idempotency_key: submitted.idempotency.as_ref().map(|idempotency| idempotency.key.as_str()),
            correlation_id: record.correlation_id.as_deref(),
            client_ip: submitted.client_ip.as_deref(),
            requirements: &submitted.requirements,
            priority: submitted.priority,
            not_before: submitted.not_before,
            concurrency_key: submitted.concurrency.as_ref().map(|concurrency| concurrency.key.as_str()),
            concurrency_limit: submitted.concurrency.as_ref().map(|concurrency| concurrency.limit),
            tags: &submitted.tags,
            limits: &submitted.limits,
            cancel_requested: record.cancel_requested.is_some(),
            after: record.dependencies.as_ref(),
            schedule: record.schedule.as_ref(),
            dead_letter: record.dead_letter.as_ref(),
            replay: record.replay_verdict.as_ref(),
            stream_version: record.version,
        }
    }
}

/// How it came to be, where that was not a client's submission.
fn relationship(record: &ExecutionRecord) -> Option<&'static str> {
    let of_parent = record.submitted.parent.map(|parent| parent.relationship.as_str());
    of_parent.or_else(|| record.schedule.as_ref().map(|_| "scheduled"))
}

/// The blobs whose bytes or sizes a view shows.
pub fn shown_blobs(record: &ExecutionRecord, extent: Extent) -> Vec<Digest> {
    let mut hashes: Vec<_> = observed(record)
        .into_iter()
        .flat_map(|observed| [Some(observed.stdout.hash), Some(observed.stderr.hash), observed.output])
        .flatten()
        .collect();
    if extent == Extent::Full {
        hashes.extend([record.submitted.code, record.submitted.input]);
    }
    hashes
}

/// How many bytes of text a view shows at most; code and input count by their limits elsewhere.
pub fn shown_bytes(record: &ExecutionRecord) -> u64 {
    let Some(observed) = observed(record) else { return 0 };
    let is_output = |hash: &Digest| observed.output.as_ref() == Some(hash);
    let output = observed.artifacts.iter().find(|artifact| is_output(&artifact.hash)).map_or(0, |made| made.bytes);
    observed.stdout.bytes + observed.stderr.bytes + output
}

/// When an execution was claimed, started and ended, as far as it got.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    pub dequeued_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Moments {
    pub fn of(record: &ExecutionRecord) -> Self {
        let (dequeued_at, started_at, ended_at) = match &record.state {
            JobState::Queued { .. } => (None, None, None),
            JobState::Dequeued { dequeued_at, .. } => (Some(*dequeued_at), None, None),
            JobState::Running { dequeued_at, started_at, .. } => (Some(*dequeued_at), Some(*started_at), None),
            JobState::Ended { dequeued_at, started_at, ended_at, .. } => (*dequeued_at, *started_at, Some(*ended_at)),
        };
        Self { dequeued_at, started_at, ended_at }
    }
}

pub fn observed(record: &ExecutionRecord) -> Option<&Observed> {
    record.ending().and_then(Ending::observed)
}

/// Kept as text, so that numbers arrive as the job wrote them.
pub fn json(bytes: &Bytes) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(bytes.to_vec()).ok()?).ok()
}

/// What went wrong, for every end but success.
pub fn fault(record: &ExecutionRecord) -> Option<Fault> {
    let ending = record.ending()?;
    let phase = match (ending.observed(), Moments::of(record)) {
        (Some(observed), _) => observed.timing.phase_at_exit,
        (None, Moments { started_at: Some(_), .. }) => Phase::Execution,
        (None, Moments { dequeued_at: Some(_), .. }) => Phase::Startup,
        (None, _) => Phase::Queue,
    };
    let (error_type, message, phase, exception) = match ending {
        Ending::Succeeded { .. } => return None,
        Ending::Failed { error, .. } => (error.error_type, error.message.clone(), error.phase, error.exception.clone()),
        Ending::TimedOut { phase, limit_ms, .. } => {
            let (error_type, what) = match phase {
                Phase::Queue => (ErrorType::Timeout, "waited"),
                Phase::Startup => (ErrorType::StartupTimeout, "took to start"),
                Phase::Execution => (ErrorType::ExecutionTimeout, "ran"),
            };
            let limit = std::time::Duration::from_millis(*limit_ms).as_secs_f64();
            (error_type, format!("the job {what} longer than its limit of {limit} s"), *phase, None)
        }
        Ending::OutOfMemory { limit_bytes, .. } => {
            let limit = limit_bytes / (1 << 20);
            (ErrorType::Oom, format!("the job needed more than its {limit} MiB of memory"), phase, None)
        }
        Ending::Cancelled { by, reason, .. } => {
            let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
            let reason = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            (ErrorType::Cancelled, format!("the job was cancelled{by}{reason}"), phase, None)
        }
    };
    Some(Fault { error_type, message, phase, exception })
}
