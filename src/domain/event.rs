//! Everything that can be said in the log. `events/` describes the stored form of each.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dependency::{DependenciesDeclared, DependenciesMet};
use super::egress_observed::EgressObserved;
use super::job::{Failure, Idempotency, InputFile, JobLimits, Observed, Parent, Phase, Sandbox};
use super::pause::{JobTypePaused, JobTypeResumed};
use super::schedule::{
    JobScheduled, ScheduleChanged, ScheduleDefined, ScheduleFired, SchedulePaused, ScheduleRemoved, ScheduleResumed,
    ScheduleSkipped,
};
use super::secret::{SecretRemoved, SecretSet, SecretUse, SecretsDelivered};
use super::upkeep::{ExecutionExpired, LogArchived, PayloadShredded, RetentionApplied, TenantShredded};
use super::{Digest, ErrorType};

macro_rules! events {
    ($($name:ident),* $(,)?) => {
        /// A fact, with its payload. Stored by kind, schema version and payload.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "payload")]
        #[expect(clippy::large_enum_variant, reason = "few live at a time, and boxes would be in every pattern")]
        pub enum Event {
            $($name($name),)*
        }

        /// An event's type without its payload.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventKind {
            $($name,)*
        }

        impl EventKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in the log.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The kind of that name in the log.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl Event {
            pub fn kind(&self) -> EventKind {
                match self {
                    $(Self::$name(_) => EventKind::$name,)*
                }
            }

            /// The payload as JSON text, as it is stored and hashed.
            pub fn payload(&self) -> Result<String, serde_json::Error> {
                match self {
                    $(Self::$name(payload) => serde_json::to_string(payload),)*
                }
            }

            /// Reads a payload of the present schema version.
            pub fn from_payload(kind: EventKind, payload: &str) -> Result<Self, serde_json::Error> {
                match kind {
                    $(EventKind::$name => serde_json::from_str(payload).map(Self::$name),)*
                }
            }
        }

        $(
            impl From<$name> for Event {
                fn from(payload: $name) -> Self {
                    Self::$name(payload)
                }
            }
        )*
    };
}

events! {
    JobSubmitted,
    JobRejected,
    DependenciesDeclared,
    DependenciesMet,
    JobScheduled,
    JobDequeued,
    ExecutionStarted,
    ExecutionSucceeded,
    ExecutionFailed,
    ExecutionTimedOut,
    ExecutionOutOfMemory,
    CancelRequested,
    ExecutionCancelled,
    LeaseExpired,
    RetryScheduled,
    JobDeadLettered,
    DeadLetterRequeued,
    DeadLetterDiscarded,
    ReplayVerdictRecorded,
    SecretsDelivered,
    EgressObserved,
    BuildRequested,
    BuildStarted,
    BuildSucceeded,
    BuildFailed,
    JobTypeDefined,
    JobTypePaused,
    JobTypeResumed,
    NodeStarted,
    NodeDraining,
    NodeStopped,
    SecretSet,
    SecretRemoved,
    ScheduleDefined,
    ScheduleChanged,
    SchedulePaused,
    ScheduleResumed,
    ScheduleRemoved,
    ScheduleFired,
    ScheduleSkipped,
    ExecutionExpired,
    PayloadShredded,
    TenantShredded,
    RetentionApplied,
    LogArchived,
}

/// A job was accepted. The first event of an execution's stream, and complete: with the blobs
/// it names, the job can be run again from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSubmitted {
    pub tenant: String,
    pub job_type: String,
    /// `name@sha256:<12 hex>` of the job type as it was at submission.
    pub job_version: String,
    /// Of `/code/main.py`.
    pub code: Digest,
    /// Of the bytes of `/input/data.json`.
    pub input: Digest,
    /// Of the canonical JSON of the input, whatever the order of its keys.
    pub input_canonical: Digest,
    /// Of the canonical JSON of what else shapes the result.
    pub params: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<InputFile>,
    /// Of the canonical JSON of name → hash of `files`.
    pub input_artifacts: Option<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<String>,
    pub limits: JobLimits,
    /// 0 to 9; 9 runs first.
    pub priority: i16,
    pub not_before: Option<DateTime<Utc>>,
    pub max_attempts: u32,
    pub idempotency: Option<Idempotency>,
    pub client_ip: Option<String>,
    pub parent: Option<Parent>,
    /// The image to run on, whatever the job type says now; a replay pins it.
    pub pinned_image: Option<PinnedImage>,
    /// `PYTHONHASHSEED` to run with, whatever the job type says now; a replay pins it.
    pub hash_seed: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    pub callback_url: Option<String>,
    /// The tenant's secrets that the code gets, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// Bounds how many jobs of the tenant with the same key run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyKey>,
}

/// A name that jobs of a tenant share, and how many of them may run when this one starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConcurrencyKey {
    pub key: String,
    /// With this one.
    pub limit: u32,
}

/// An image to run on, and the engine and runtime to run it with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    pub engine: String,
    /// Absent when any will do.
    pub runtime: Option<String>,
    pub reference: String,
    /// Absent for an image that is tried out: whatever the reference names at the start.
    pub digest: Option<String>,
}

/// A job was refused after it got an id, and never reached the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRejected {
    pub reason: String,
}

/// A slot claimed the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDequeued {
    pub node_id: Uuid,
    pub slot: u32,
    /// Grows with every claim in the installation, whatever the job.
    pub lease: i64,
    /// 1 for the first.
    pub attempt: u32,
}

/// The code was handed to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionStarted {
    pub sandbox: Sandbox,
}

/// The code ended with exit code 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionSucceeded {
    pub observed: Observed,
}

/// The code or the service failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionFailed {
    pub error: Failure,
    /// Absent when no code ran.
    pub observed: Option<Observed>,
}

/// A time limit ended it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionTimedOut {
    pub phase: Phase,
    pub limit_ms: u64,
    pub observed: Option<Observed>,
}

/// The OOM killer of its cgroup ended the interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionOutOfMemory {
    pub limit_bytes: u64,
    pub peak_bytes: u64,
    pub observed: Option<Observed>,
}

/// Somebody asked for the end of a job that had not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequested {
    /// Who asked: an API key's name, or `anonymous`.
    pub by: String,
    pub reason: Option<String>,
}

/// It ended because somebody asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionCancelled {
    pub by: String,
    pub reason: Option<String>,
    /// Absent when no code ran.
    pub observed: Option<Observed>,
}

/// The node that had claimed the job is gone, or let it go; the job is queued again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseExpired {
    pub node_id: Uuid,
    pub lease: i64,
    pub cause: String,
}

/// An attempt failed and another follows: the service's failure, or one of the code that its job type retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryScheduled {
    /// The attempt that failed.
    pub attempt: u32,
    pub delay_ms: u64,
    pub not_before: DateTime<Utc>,
    pub cause: Failure,
    /// What was seen of the code; absent when none ran, or when it is the service that failed.
    pub observed: Option<Observed>,
}

/// The service failed the job for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDeadLettered {
    pub error_type: ErrorType,
    pub message: String,
    pub attempts: u32,
}

/// A dead letter was submitted again as a new execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRequeued {
    pub by: String,
    pub execution_id: Uuid,
}

/// A dead letter was put away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterDiscarded {
    pub by: String,
    pub reason: Option<String>,
}

/// A replay was compared with the execution it repeats. Stands in the replay's stream; when
/// there could be no replay, in the original's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayVerdictRecorded {
    pub original_id: Uuid,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What both sides were rid of before they were compared, as the job type declared it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

/// What a replay showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Identical {
        /// Not byte for byte: equal once the rules were applied to both sides.
        normalised: bool,
    },
    Diverged {
        differences: Vec<Difference>,
    },
    Refused {
        cause: RefusalCause,
        reason: String,
    },
}

/// One part of a result that is not what it was, by its facts alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub part: Part,
    /// The original's: a digest, a status, an exit code. Absent when it had none, and in
    /// verdicts that did not record it.
    pub original: Option<String>,
    /// The replay's, likewise.
    pub replay: Option<String>,
    /// JSON Pointer (RFC 6901) to the first difference of two outputs that are JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The first artifact, by name, that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
}

/// What of a result is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Status,
    ExitCode,
    Stdout,
    Stderr,
    Output,
    Artifacts,
}

impl Part {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::ExitCode => "exit_code",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Output => "output",
            Self::Artifacts => "artifacts",
        }
    }
}

/// Why there could be no replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCause {
    /// No code of the original ran, so there is nothing to compare with.
    NothingRan,
    /// Its code, input or a file is no longer kept.
    BlobGone,
    /// Its image is gone, or is another one now.
    ImageGone,
    /// It ran on another engine than this installation's.
    EngineMissing,
    /// It ran on another runtime than this installation's.
    RuntimeMissing,
    /// Its job type is no longer configured.
    JobTypeMissing,
    /// A secret it was given is gone, or has another value now.
    SecretGone,
    /// The replay was cancelled, or the service failed it: there is no result to compare.
    NotFinished,
    /// A verdict of the time before causes were recorded; its reason says it in words.
    Unrecorded,
}

/// A version of a job type is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRequested {
    pub job_type: String,
    pub digest: String,
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildStarted {
    pub node_id: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSucceeded {
    pub image_ref: String,
    pub image_digest: String,
    pub dockerfile_hash: Option<Digest>,
    pub requirements_hash: Digest,
    pub version_tag: Option<String>,
    pub duration_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFailed {
    pub error: String,
    /// The last lines of the build's output.
    pub log_tail: String,
    pub duration_ms: u64,
}

/// An administrator made a job type or gave it another definition; the newest is the present one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTypeDefined {
    pub name: String,
    /// Of the canonical JSON of the whole definition, which is kept beside the log.
    pub definition: Digest,
    pub python_version: String,
    pub requirements: Vec<String>,
    pub by: String,
}

/// A node joined. The first event of a node's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStarted {
    pub version: String,
    pub slots: u32,
    pub engine: String,
    pub runtime: String,
}

/// A node takes no more jobs and finishes the ones it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDraining {
    pub running: u32,
}

/// A node is gone, having said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStopped {
    /// Jobs it gave back to the queue.
    pub released: u32,
}
