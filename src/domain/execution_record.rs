//! The execution record: the fold of an execution's events.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dependency::{Dependencies, DependenciesDeclared};
use super::event::{CancelRequested, Event, EventKind, JobSubmitted, ReplayVerdictRecorded};
use super::job::{Failure, Observed, Phase, Sandbox};
use super::schedule::JobScheduled;
use super::secret::SecretVersion;

/// An event as it stands in its stream, without the hashes.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub event_id: Uuid,
    pub stream_id: Uuid,
    /// 1 for the first event of its stream.
    pub version: i32,
    pub recorded_at: DateTime<Utc>,
    pub correlation_id: Option<String>,
    pub event: Event,
}

/// The word a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    Running,
    Succeeded,
    Failed,
    Timeout,
    Oom,
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Timeout, Self::Oom, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Oom => "oom",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who works on an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub node_id: Uuid,
    pub slot: u32,
    pub lease: i64,
}

/// Where an execution is in its life; each state carries what is known in it and no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one per record, and a box would be in every pattern")]
pub enum JobState {
    Queued {
        /// Not to be started before.
        not_before: Option<DateTime<Utc>>,
    },
    Dequeued {
        dequeued_at: DateTime<Utc>,
        claim: Claim,
    },
    Running {
        dequeued_at: DateTime<Utc>,
        started_at: DateTime<Utc>,
        claim: Claim,
        sandbox: Sandbox,
    },
    Ended {
        /// Absent when it never left the queue.
        dequeued_at: Option<DateTime<Utc>>,
        /// Absent when no code ran.
        started_at: Option<DateTime<Utc>>,
        ended_at: DateTime<Utc>,
        claim: Option<Claim>,
        sandbox: Option<Sandbox>,
        ending: Ending,
    },
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "snake_case")]
pub enum Ending {
    Succeeded { observed: Observed },
    Failed { error: Failure, observed: Option<Observed> },
    TimedOut { phase: Phase, limit_ms: u64, observed: Option<Observed> },
    OutOfMemory { limit_bytes: u64, peak_bytes: u64, observed: Option<Observed> },
    Cancelled { by: String, reason: Option<String>, observed: Option<Observed> },
}

impl Ending {
    pub fn status(&self) -> Status {
        match self {
            Self::Succeeded { .. } => Status::Succeeded,
            Self::Failed { .. } => Status::Failed,
            Self::TimedOut { .. } => Status::Timeout,
            Self::OutOfMemory { .. } => Status::Oom,
            Self::Cancelled { .. } => Status::Cancelled,
        }
    }

    /// What was seen of the code, if any ran.
    pub fn observed(&self) -> Option<&Observed> {
        match self {
            Self::Succeeded { observed } => Some(observed),
            Self::Failed { observed, .. }
            | Self::TimedOut { observed, .. }
            | Self::OutOfMemory { observed, .. }
            | Self::Cancelled { observed, .. } => observed.as_ref(),
        }
    }
}

/// What became of a job that the service failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "dead_letter", rename_all = "snake_case")]
pub enum DeadLetter {
    Waiting,
    Requeued { execution_id: Uuid },
    Discarded,
}

/// All that is known of one execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecutionRecord {
    pub execution_id: Uuid,
    /// Events folded so far: the stream's version.
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub correlation_id: Option<String>,
    pub submitted: JobSubmitted,
    /// Claims so far; 0 while it was never claimed.
    pub attempt: u32,
    /// When it last entered the queue.
    pub queued_at: DateTime<Utc>,
    pub state: JobState,
    pub cancel_requested: Option<CancelRequested>,
    pub dead_letter: Option<DeadLetter>,
    /// Of this replay against its original, or why this execution could not be replayed.
    pub replay_verdict: Option<ReplayVerdictRecorded>,
    /// What the latest attempt whose code ran was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretVersion>,
    /// The executions that had to end before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Dependencies>,
    /// The schedule that submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<JobScheduled>,
    /// When its time in the records was over; nothing more may happen to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<DateTime<Utc>>,
    /// When the keys of its private payload were destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shredded_at: Option<DateTime<Utc>>,
}

/// An event does not fit the record it is folded into. The store never appends such an event,
/// so this means a log that was altered or a newer writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {version} of execution {stream_id} ({}) does not follow from the events before it", kind.as_str())]
pub struct NotFoldable {
    pub stream_id: Uuid,
    pub version: i32,
    pub kind: EventKind,
}

impl ExecutionRecord {
    /// Folds a whole stream; `None` for an empty one and for a job that was rejected.
    ///
    /// # Errors
    /// [`NotFoldable`] at the first event that does not follow.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Envelope>) -> Result<Option<Self>, NotFoldable> {
        events.into_iter().try_fold(None, Self::evolve)
    }

    /// The record after one more event.
    ///
    /// # Errors
    /// [`NotFoldable`]; never a panic.
    pub fn evolve(record: Option<Self>, envelope: &Envelope) -> Result<Option<Self>, NotFoldable> {
        let refused =
            || NotFoldable { stream_id: envelope.stream_id, version: envelope.version, kind: envelope.event.kind() };
        let Some(mut record) = record else {
            return match &envelope.event {
                Event::JobSubmitted(submitted) if envelope.version == 1 => {
                    Ok(Some(Self::submitted(submitted.clone(), envelope)))
                }
                Event::JobRejected(_) if envelope.version == 1 => Ok(None),
                _ => Err(refused()),
            };
        };
        if envelope.stream_id != record.execution_id || envelope.version != record.version + 1 {
            return Err(refused());
        }
        record.apply(envelope).ok_or_else(refused)?;
        record.version = envelope.version;
        Ok(Some(record))
    }

    pub fn status(&self) -> Status {
        match &self.state {
            JobState::Queued { .. } | JobState::Dequeued { .. } => Status::Queued,
            JobState::Running { .. } => Status::Running,
            JobState::Ended { ending, .. } => ending.status(),
        }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.state, JobState::Ended { .. })
    }

    /// The claim that may append now.
    pub fn claim(&self) -> Option<&Claim> {
        match &self.state {
            JobState::Queued { .. } => None,
            JobState::Dequeued { claim, .. } | JobState::Running { claim, .. } => Some(claim),
            JobState::Ended { claim, .. } => claim.as_ref(),
        }
    }

    /// The sandbox of the latest attempt whose code ran.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        match &self.state {
            JobState::Queued { .. } | JobState::Dequeued { .. } => None,
            JobState::Running { sandbox, .. } => Some(sandbox),
            JobState::Ended { sandbox, .. } => sandbox.as_ref(),
        }
    }

    pub fn ending(&self) -> Option<&Ending> {
        match &self.state {
            JobState::Ended { ending, .. } => Some(ending),
            JobState::Queued { .. } | JobState::Dequeued { .. } | JobState::Running { .. } => None,
        }
    }

    fn submitted(submitted: JobSubmitted, envelope: &Envelope) -> Self {
        Self {
            execution_id: envelope.stream_id,
            version: 1,
            created_at: envelope.recorded_at,
            correlation_id: envelope.correlation_id.clone(),
            attempt: 0,
            queued_at: envelope.recorded_at,
            state: JobState::Queued { not_before: submitted.not_before },
            submitted,
            cancel_requested: None,
            dead_letter: None,
            replay_verdict: None,
            secrets: Vec::new(),
            dependencies: None,
            schedule: None,
            expired_at: None,
            shredded_at: None,
        }
    }

    /// `None` when the event does not fit the state.
    fn apply(&mut self, envelope: &Envelope) -> Option<()> {
        let at = envelope.recorded_at;
        if self.expired_at.is_some() && !matches!(envelope.event, Event::PayloadShredded(_)) {
            return None;
        }
        match &envelope.event {
            Event::JobDequeued(dequeued) => {
                let JobState::Queued { .. } = self.state else { return None };
                if self.attempt.checked_add(1) != Some(dequeued.attempt) || self.is_waiting() {
                    return None;
                }
                self.attempt = dequeued.attempt;
                let claim = Claim { node_id: dequeued.node_id, slot: dequeued.slot, lease: dequeued.lease };
                self.state = JobState::Dequeued { dequeued_at: at, claim };
            }
            Event::DependenciesDeclared(declared) => {
                let DependenciesDeclared { after, policy } = declared.clone();
                if !self.is_untouched() || self.dependencies.is_some() || after.is_empty() {
                    return None;
                }
                self.dependencies = Some(Dependencies { after, policy, met_at: None });
            }
            Event::DependenciesMet(_) => {
                let is_waiting = self.is_waiting();
                self.dependencies.as_mut().filter(|_| is_waiting)?.met_at = Some(at);
                self.queued_at = at;
            }
            Event::JobScheduled(scheduled) => {
                if !self.is_untouched() || self.schedule.is_some() {
                    return None;
                }
                self.schedule = Some(scheduled.clone());
            }
            Event::ExecutionStarted(started) => {
                let JobState::Dequeued { dequeued_at, claim } = &self.state else { return None };
                self.state = JobState::Running {
                    dequeued_at: *dequeued_at,
                    started_at: at,
                    claim: claim.clone(),
                    sandbox: started.sandbox.clone(),
                };
            }
            Event::ExecutionSucceeded(succeeded) => {
                let JobState::Running { .. } = self.state else { return None };
                self.end(at, Ending::Succeeded { observed: succeeded.observed.clone() })?;
            }
            Event::ExecutionFailed(failed) => {
                self.end(at, Ending::Failed { error: failed.error.clone(), observed: failed.observed.clone() })?
            }
            Event::ExecutionTimedOut(timed_out) => self.end(
                at,
                Ending::TimedOut {
                    phase: timed_out.phase,
                    limit_ms: timed_out.limit_ms,
                    observed: timed_out.observed.clone(),
                },
            )?,
            Event::ExecutionOutOfMemory(oom) => self.end(
                at,
                Ending::OutOfMemory {
                    limit_bytes: oom.limit_bytes,
                    peak_bytes: oom.peak_bytes,
                    observed: oom.observed.clone(),
                },
            )?,
            Event::ExecutionCancelled(cancelled) => self.end(
                at,
                Ending::Cancelled {
                    by: cancelled.by.clone(),
                    reason: cancelled.reason.clone(),
                    observed: cancelled.observed.clone(),
                },
            )?,
            Event::CancelRequested(cancel) => {
                if self.is_ended() {
                    return None;
                }
                self.cancel_requested = Some(cancel.clone());
            }
            Event::LeaseExpired(expired) => {
                self.leave_claim(expired.lease)?;
                self.queued_at = at;
                self.state = JobState::Queued { not_before: None };
            }
            Event::RetryScheduled(retry) => {
                let lease = self.claim()?.lease;
                self.leave_claim(lease)?;
                self.queued_at = at;
                self.state = JobState::Queued { not_before: Some(retry.not_before) };
            }
            Event::JobDeadLettered(_) => {
                let JobState::Ended { ending: Ending::Failed { .. }, .. } = self.state else { return None };
                if self.dead_letter.is_some() {
                    return None;
                }
                self.dead_letter = Some(DeadLetter::Waiting);
            }
            Event::DeadLetterRequeued(requeued) => {
                let Some(DeadLetter::Waiting) = self.dead_letter else { return None };
                self.dead_letter = Some(DeadLetter::Requeued { execution_id: requeued.execution_id });
            }
            Event::DeadLetterDiscarded(_) => {
                let Some(DeadLetter::Waiting) = self.dead_letter else { return None };
                self.dead_letter = Some(DeadLetter::Discarded);
            }
            Event::ReplayVerdictRecorded(verdict) => {
                if !self.is_ended() {
                    return None;
                }
                self.replay_verdict = Some(verdict.clone());
            }
            Event::SecretsDelivered(delivered) => {
                let JobState::Running { .. } = self.state else { return None };
                self.secrets = delivered.secrets.clone();
            }
            Event::EgressObserved(_) => {
                let JobState::Running { .. } = self.state else { return None };
            }
            Event::ExecutionExpired(_) => {
                if !self.is_ended() {
                    return None;
                }
                self.expired_at = Some(at);
            }
            Event::PayloadShredded(_) => {
                if !self.is_ended() || self.shredded_at.is_some() {
                    return None;
                }
                self.shredded_at = Some(at);
            }
            Event::JobSubmitted(_)
            | Event::JobRejected(_)
            | Event::BuildRequested(_)
            | Event::BuildStarted(_)
            | Event::BuildSucceeded(_)
            | Event::BuildFailed(_)
            | Event::JobTypeDefined(_)
            | Event::JobTypePaused(_)
            | Event::JobTypeResumed(_)
            | Event::NodeStarted(_)
            | Event::NodeDraining(_)
            | Event::NodeStopped(_)
            | Event::SecretSet(_)
            | Event::SecretRemoved(_)
            | Event::ScheduleDefined(_)
            | Event::ScheduleChanged(_)
            | Event::SchedulePaused(_)
            | Event::ScheduleResumed(_)
            | Event::ScheduleRemoved(_)
            | Event::ScheduleFired(_)
            | Event::ScheduleSkipped(_)
            | Event::TenantShredded(_)
            | Event::RetentionApplied(_)
            | Event::LogArchived(_) => return None,
        }
        Some(())
    }

    /// Nobody has claimed it yet, nor asked for its end.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.state, JobState::Queued { .. }) && self.attempt == 0 && self.cancel_requested.is_none()
    }

    fn leave_claim(&self, lease: i64) -> Option<()> {
        match &self.state {
            JobState::Dequeued { claim, .. } | JobState::Running { claim, .. } if claim.lease == lease => Some(()),
            JobState::Queued { .. } | JobState::Dequeued { .. } | JobState::Running { .. } | JobState::Ended { .. } => {
                None
            }
        }
    }

    fn end(&mut self, ended_at: DateTime<Utc>, ending: Ending) -> Option<()> {
        let (dequeued_at, started_at, claim, sandbox) = match &self.state {
            JobState::Queued { .. } => (None, None, None, None),
            JobState::Dequeued { dequeued_at, claim } => (Some(*dequeued_at), None, Some(claim.clone()), None),
            JobState::Running { dequeued_at, started_at, claim, sandbox } => {
                (Some(*dequeued_at), Some(*started_at), Some(claim.clone()), Some(sandbox.clone()))
            }
            JobState::Ended { .. } => return None,
        };
        self.state = JobState::Ended { dequeued_at, started_at, ended_at, claim, sandbox, ending };
        Some(())
    }
}
