//! What is said in the log when something is let go: records, payloads, old parts of the log itself.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Digest;
use super::event::Event;

/// The time of an ended execution's record is over: no list shows it any more. Its stream stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionExpired {
    /// How long records of its tenant and job type are kept.
    pub records_days: u32,
}

/// The keys of an ended execution's private payload were destroyed, and the bytes that only it
/// needed removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadShredded {
    pub by: String,
    pub reason: Option<String>,
    /// 0 when nothing of it was encrypted, or its tenant's key alone was destroyed.
    pub keys: u64,
}

/// The same for everything of a tenant so far, of which nothing was in progress. In a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantShredded {
    pub tenant: String,
    pub by: String,
    pub reason: Option<String>,
    /// 0 when nothing of it was encrypted.
    pub keys: u64,
}

/// A node removed what its retention rules no longer keep. In the node's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionApplied {
    pub expired_records: u64,
    pub removed_blobs: u64,
    pub removed_bytes: u64,
    pub duration_ms: u64,
}

/// Whole streams of the log were written to an archive that verified, and dropped. In a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogArchived {
    /// Streams with ids from here on, up to the next, which is not among them.
    pub from_stream: Uuid,
    pub to_stream: Uuid,
    pub events: u64,
    /// Under the first and the last seal of the archive.
    pub first_position: i64,
    pub last_position: i64,
    /// SHA-256 of the archive's bytes.
    pub archive: Digest,
    pub by: String,
}

impl Event {
    /// Everything that the event names in the store of bytes.
    pub fn blobs(&self) -> Vec<Digest> {
        let observed = match self {
            Self::JobSubmitted(submitted) => {
                let own = [submitted.code, submitted.input];
                return own.into_iter().chain(submitted.files.iter().map(|file| file.hash)).collect();
            }
            Self::ExecutionSucceeded(end) => Some(&end.observed),
            Self::ExecutionFailed(end) => end.observed.as_ref(),
            Self::ExecutionTimedOut(end) => end.observed.as_ref(),
            Self::ExecutionOutOfMemory(end) => end.observed.as_ref(),
            Self::ExecutionCancelled(end) => end.observed.as_ref(),
            Self::RetryScheduled(retry) => retry.observed.as_ref(),
            Self::JobRejected(_)
            | Self::JobDequeued(_)
            | Self::DependenciesDeclared(_)
            | Self::DependenciesMet(_)
            | Self::JobScheduled(_)
            | Self::ScheduleDefined(_)
            | Self::ScheduleChanged(_)
            | Self::SchedulePaused(_)
            | Self::ScheduleResumed(_)
            | Self::ScheduleRemoved(_)
            | Self::ScheduleFired(_)
            | Self::ScheduleSkipped(_)
            | Self::ExecutionStarted(_)
            | Self::CancelRequested(_)
            | Self::LeaseExpired(_)
            | Self::JobDeadLettered(_)
            | Self::DeadLetterRequeued(_)
            | Self::DeadLetterDiscarded(_)
            | Self::ReplayVerdictRecorded(_)
            | Self::BuildRequested(_)
            | Self::BuildStarted(_)
            | Self::BuildSucceeded(_)
            | Self::BuildFailed(_)
            | Self::NodeStarted(_)
            | Self::NodeDraining(_)
            | Self::NodeStopped(_)
            | Self::JobTypeDefined(_)
            | Self::JobTypePaused(_)
            | Self::JobTypeResumed(_)
            | Self::SecretsDelivered(_)
            | Self::EgressObserved(_)
            | Self::SecretSet(_)
            | Self::SecretRemoved(_)
            | Self::ExecutionExpired(_)
            | Self::PayloadShredded(_)
            | Self::TenantShredded(_)
            | Self::RetentionApplied(_)
            | Self::LogArchived(_) => None,
        };
        let named = |observed: &super::Observed| {
            let texts = [observed.stdout.hash, observed.stderr.hash];
            let artifacts = observed.artifacts.iter().map(|artifact| artifact.hash);
            texts.into_iter().chain(observed.output).chain(artifacts).collect()
        };
        observed.map(named).unwrap_or_default()
    }
}
