//! What each attempt at a job came to.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::event::Event;
use super::execution_record::Envelope;

/// One claim of a job and its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// 1 for the first.
    pub attempt: u32,
    pub node_id: Uuid,
    pub dequeued_at: DateTime<Utc>,
    /// Absent when no code ran.
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Absent while it goes on; `ended` when the job ended with it, `retried` and
    /// `lease_expired` when the next one followed.
    pub outcome: Option<&'static str>,
}

impl Attempt {
    /// The attempts of an execution, from its events.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Envelope>) -> Vec<Self> {
        let mut attempts: Vec<Self> = Vec::new();
        for envelope in events {
            let at = envelope.recorded_at;
            let outcome = match &envelope.event {
                Event::JobDequeued(dequeued) => {
                    attempts.push(Self {
                        attempt: dequeued.attempt,
                        node_id: dequeued.node_id,
                        dequeued_at: at,
                        started_at: None,
                        ended_at: None,
                        outcome: None,
                    });
                    continue;
                }
                Event::ExecutionStarted(_) => {
                    if let Some(attempt) = attempts.last_mut() {
                        attempt.started_at = Some(at);
                    }
                    continue;
                }
                Event::RetryScheduled(_) => "retried",
                Event::LeaseExpired(_) => "lease_expired",
                Event::ExecutionSucceeded(_)
                | Event::ExecutionFailed(_)
                | Event::ExecutionTimedOut(_)
                | Event::ExecutionOutOfMemory(_)
                | Event::ExecutionCancelled(_) => "ended",
                Event::JobSubmitted(_)
                | Event::JobRejected(_)
                | Event::DependenciesDeclared(_)
                | Event::DependenciesMet(_)
                | Event::JobScheduled(_)
                | Event::ScheduleDefined(_)
                | Event::ScheduleChanged(_)
                | Event::SchedulePaused(_)
                | Event::ScheduleResumed(_)
                | Event::ScheduleRemoved(_)
                | Event::ScheduleFired(_)
                | Event::ScheduleSkipped(_)
                | Event::CancelRequested(_)
                | Event::JobDeadLettered(_)
                | Event::DeadLetterRequeued(_)
                | Event::DeadLetterDiscarded(_)
                | Event::ReplayVerdictRecorded(_)
                | Event::SecretsDelivered(_)
                | Event::EgressObserved(_)
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
                | Event::ExecutionExpired(_)
                | Event::PayloadShredded(_)
                | Event::TenantShredded(_)
                | Event::RetentionApplied(_)
                | Event::LogArchived(_) => continue,
            };
            // The end after an expired lease is nobody's attempt.
            if let Some(attempt) = attempts.last_mut().filter(|attempt| attempt.ended_at.is_none()) {
                (attempt.ended_at, attempt.outcome) = (Some(at), Some(outcome));
            }
        }
        attempts
    }
}
