//! The parts of which events and records are made.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Digest, ErrorType};

/// All limits of a job, complete, so that a replay needs no configuration of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLimits {
    /// From the start of the code to its end, milliseconds.
    pub timeout_ms: u64,
    /// From asking for a sandbox to its interpreter being ready, milliseconds.
    pub startup_timeout_ms: u64,
    pub memory_bytes: u64,
    /// Thousandths of one CPU.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids: u32,
    pub open_files: u32,
    pub tmp_bytes: u64,
    pub output_bytes: u64,
    /// Kept of standard output and of standard error, each.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub artifact_count: u32,
    pub artifact_bytes: u64,
    pub artifacts_total_bytes: u64,
}

/// A file given to the job below `/input`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    pub name: String,
    pub hash: Digest,
    pub bytes: u64,
    /// The artifact it was taken from; absent for bytes that came with the submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<FileSource>,
}

/// An artifact of another execution, by place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSource {
    pub execution_id: Uuid,
    /// Relative to that execution's `/output`.
    pub name: String,
}

/// How an execution came from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relationship {
    /// Same code, same input, present job type.
    Rerun,
    /// New code, same input.
    Fork,
    /// Out of the dead letter queue.
    Requeue,
    /// Everything pinned, to compare the results.
    Replay,
}

impl Relationship {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rerun => "rerun",
            Self::Fork => "fork",
            Self::Requeue => "requeue",
            Self::Replay => "replay",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub execution_id: Uuid,
    pub relationship: Relationship,
}

/// A client's own name for a submission, and what it was a name for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// 1 to 128 characters.
    pub key: String,
    /// Of everything the client asked for; a repeat with another fingerprint is refused.
    pub fingerprint: Digest,
}

/// Whether the sandbox was ready before the job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmth {
    Warm,
    Cold,
}

/// The sandbox of an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    pub id: String,
    /// `docker`, `native` or `scripted`.
    pub engine: String,
    /// `runc`, `runsc`, `namespaces`.
    pub runtime: String,
    pub image: String,
    /// `sha256:<64 hex>`.
    pub image_digest: String,
    pub warmth: Warmth,
    pub startup_ms: u64,
    /// `PYTHONHASHSEED` of the code; absent when it was not recorded.
    pub hash_seed: Option<String>,
}

/// Where an execution was when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Queue,
    Startup,
    Execution,
}

/// Durations in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Until the interpreter was ready. A warm sandbox paid it before the job came.
    pub startup_ms: u64,
    pub dep_install_ms: u64,
    pub execution_ms: u64,
    /// From the claim to the end of the sandbox.
    pub total_ms: u64,
    pub phase_at_exit: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub max_rss_bytes: u64,
    pub cpu_time_ms: u64,
    pub wall_time_ms: u64,
    /// The OOM killer struck in the sandbox, whether or not that ended the job.
    pub oom_killed: bool,
}

/// One of the two output streams, by hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    pub hash: Digest,
    /// Kept bytes.
    pub bytes: u64,
    /// More was written than kept.
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to `/output`.
    pub name: String,
    pub hash: Digest,
    pub bytes: u64,
}

/// What was seen of code that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Absent when a signal ended it.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub timing: Timing,
    pub usage: Usage,
    pub stdout: Output,
    pub stderr: Output,
    /// Of `/output/result.json`, when it is JSON.
    pub output: Option<Digest>,
    pub artifacts: Vec<Artifact>,
    /// Entries of `/output` that were not collected: name and reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_artifacts: Vec<(String, String)>,
}

/// Why an execution failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    #[serde(rename = "type")]
    pub error_type: ErrorType,
    /// Scrubbed of host paths, addresses and container ids.
    pub message: String,
    pub phase: Phase,
    /// The uncaught exception's class, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
}

impl Failure {
    /// The service's own failure; its words are scrubbed.
    pub fn of_service(error_type: ErrorType, phase: Phase, message: &str) -> Self {
        Self { error_type, message: super::scrub(message), phase, exception: None }
    }
}
