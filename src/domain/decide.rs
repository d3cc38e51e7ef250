//! Which events a command causes.

use uuid::Uuid;

use super::command::{Command, Retry};
use super::error_type::ErrorType;
use super::event::{
    CancelRequested, DeadLetterDiscarded, DeadLetterRequeued, Event, ExecutionCancelled, ExecutionFailed,
    ExecutionOutOfMemory, ExecutionStarted, ExecutionSucceeded, ExecutionTimedOut, JobDeadLettered, JobDequeued,
    JobRejected, LeaseExpired, RefusalCause, ReplayVerdictRecorded, RetryScheduled, Verdict,
};
use super::execution_record::{Claim, DeadLetter, Ending, ExecutionRecord, JobState, Status};
use super::job::{Failure, Observed, Phase, Relationship};
use super::secret::SecretsDelivered;
use super::upkeep::{ExecutionExpired, PayloadShredded};

/// The domain says no. Nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("execution already exists")]
    AlreadyExists,
    #[error("execution does not exist")]
    Unknown,
    /// It has a terminal status; nothing but a requeue or a verdict is possible.
    #[error("execution has already ended: {0}")]
    AlreadyEnded(Status),
    /// The claimant no longer holds the job, and must end its sandbox and append nothing.
    #[error("lease {lease} no longer holds the execution")]
    LeaseLost { lease: i64 },
    #[error("execution is not queued")]
    NotQueued,
    #[error("execution has not started yet")]
    NotStarted,
    #[error("execution has not ended yet")]
    NotEnded,
    #[error("execution is not waiting in the dead letter queue")]
    NotADeadLetter,
    #[error("execution has expired")]
    Expired,
}

/// Answers a command with its events, in order. No events means that the wish is already true.
///
/// # Errors
/// [`Rejection`], which never changes anything.
pub fn decide(record: Option<&ExecutionRecord>, command: Command) -> Result<Vec<Event>, Rejection> {
    match (record, command) {
        (None, Command::SubmitJob(submitted)) => Ok(vec![Event::JobSubmitted(*submitted)]),
        (None, Command::RejectJob { reason }) => Ok(vec![JobRejected { reason }.into()]),
        (None, _) => Err(Rejection::Unknown),
        (Some(record), command) => decide_for(record, command),
    }
}

fn decide_for(record: &ExecutionRecord, command: Command) -> Result<Vec<Event>, Rejection> {
    if record.expired_at.is_some() {
        return match command {
            Command::Expire { .. } => Ok(Vec::new()),
            Command::SubmitJob(_) | Command::RejectJob { .. } => Err(Rejection::AlreadyExists),
            Command::Shred { by, reason, keys } => Ok(shred(record, by, reason, keys)),
            _ => Err(Rejection::Expired),
        };
    }
    match command {
        Command::SubmitJob(_) | Command::RejectJob { .. } => Err(Rejection::AlreadyExists),
        Command::DeclareDependencies(declared) => begin_with(record, declared.into()),
        Command::Schedule(scheduled) => begin_with(record, scheduled.into()),
        Command::SettleDependencies { ended } => Ok(record.settle(ended)),
        Command::Dequeue { claim } => dequeue(record, claim),
        Command::Start { lease, sandbox } => {
            let JobState::Dequeued { claim, .. } = &record.state else {
                return Err(Rejection::LeaseLost { lease });
            };
            if claim.lease != lease {
                return Err(Rejection::LeaseLost { lease });
            }
            // The sandbox came too late: nothing may run that somebody has cancelled.
            if record.cancel_requested.is_some() {
                return Ok(end_cancelled(record, None));
            }
            Ok(vec![ExecutionStarted { sandbox }.into()])
        }
        Command::DeliverSecrets { lease, secrets } => {
            held(record, lease)?;
            if !matches!(record.state, JobState::Running { .. }) {
                return Err(Rejection::NotStarted);
            }
            Ok(vec![SecretsDelivered { secrets }.into()])
        }
        Command::RecordEgress { lease, observed } => {
            held(record, lease)?;
            if !matches!(record.state, JobState::Running { .. }) {
                return Err(Rejection::NotStarted);
            }
            Ok(vec![observed.into()])
        }
        Command::Finish { lease, ending } => {
            held(record, lease)?;
            may_end(record, &ending)?;
            Ok(end(record, *ending))
        }
        Command::FinishOrRetry { lease, ending, cause, retry } => {
            held(record, lease)?;
            may_end(record, &ending)?;
            Ok(finish_or_retry(record, *ending, cause, retry))
        }
        Command::FailAttempt { lease, error, retry } => {
            held(record, lease)?;
            Ok(fail_attempt(record, error, retry))
        }
        Command::RequestCancel { by, reason } => request_cancel(record, by, reason),
        Command::ExpireLease { lease, cause } => {
            let node_id = held(record, lease)?.node_id;
            Ok(expire(record, node_id, lease, cause))
        }
        Command::RequeueDeadLetter { by, execution_id } => {
            dead_letter(record)?;
            Ok(vec![DeadLetterRequeued { by, execution_id }.into()])
        }
        Command::DiscardDeadLetter { by, reason } => {
            dead_letter(record)?;
            Ok(vec![DeadLetterDiscarded { by, reason }.into()])
        }
        Command::RecordReplayVerdict(verdict) => {
            if !record.is_ended() {
                return Err(Rejection::NotEnded);
            }
            Ok(vec![verdict.into()])
        }
        Command::Expire { .. } | Command::Shred { .. } if !record.is_ended() => Err(Rejection::NotEnded),
        Command::Expire { records_days } => Ok(vec![ExecutionExpired { records_days }.into()]),
        Command::Shred { by, reason, keys } => Ok(shred(record, by, reason, keys)),
    }
}

/// What is shredded once stays so; a second wish is true already.
fn shred(record: &ExecutionRecord, by: String, reason: Option<String>, keys: u64) -> Vec<Event> {
    if record.shredded_at.is_some() { Vec::new() } else { vec![PayloadShredded { by, reason, keys }.into()] }
}

/// What belongs to the submission itself.
fn begin_with(record: &ExecutionRecord, event: Event) -> Result<Vec<Event>, Rejection> {
    let is_taken = match &event {
        Event::DependenciesDeclared(declared) => record.dependencies.is_some() || declared.after.is_empty(),
        _ => record.schedule.is_some(),
    };
    if is_taken || !record.is_untouched() { Err(Rejection::AlreadyExists) } else { Ok(vec![event]) }
}

fn dequeue(record: &ExecutionRecord, claim: Claim) -> Result<Vec<Event>, Rejection> {
    match &record.state {
        JobState::Queued { .. } if record.is_waiting() => return Err(Rejection::NotQueued),
        JobState::Queued { .. } => {}
        JobState::Dequeued { .. } | JobState::Running { .. } => return Err(Rejection::NotQueued),
        JobState::Ended { ending, .. } => return Err(Rejection::AlreadyEnded(ending.status())),
    }
    Ok(vec![
        JobDequeued { node_id: claim.node_id, slot: claim.slot, lease: claim.lease, attempt: record.attempt + 1 }
            .into(),
    ])
}

/// The claim, if it is the one of that lease.
fn held(record: &ExecutionRecord, lease: i64) -> Result<&Claim, Rejection> {
    match &record.state {
        JobState::Dequeued { claim, .. } | JobState::Running { claim, .. } if claim.lease == lease => Ok(claim),
        JobState::Ended { ending, .. } => Err(Rejection::AlreadyEnded(ending.status())),
        JobState::Queued { .. } | JobState::Dequeued { .. } | JobState::Running { .. } => {
            Err(Rejection::LeaseLost { lease })
        }
    }
}

/// Code that never started has not succeeded.
fn may_end(record: &ExecutionRecord, ending: &Ending) -> Result<(), Rejection> {
    match (&record.state, ending) {
        (JobState::Dequeued { .. }, Ending::Succeeded { .. }) => Err(Rejection::NotStarted),
        _ => Ok(()),
    }
}

fn end(record: &ExecutionRecord, ending: Ending) -> Vec<Event> {
    vec![match ending {
        Ending::Succeeded { observed } => ExecutionSucceeded { observed }.into(),
        Ending::Failed { error, observed } => ExecutionFailed { error, observed }.into(),
        Ending::TimedOut { phase, limit_ms, observed } => ExecutionTimedOut { phase, limit_ms, observed }.into(),
        Ending::OutOfMemory { limit_bytes, peak_bytes, observed } => {
            ExecutionOutOfMemory { limit_bytes, peak_bytes, observed }.into()
        }
        Ending::Cancelled { observed, .. } => return end_cancelled(record, observed),
    }]
}

/// Who cancelled is what the log says, not what the sandbox's end says.
fn end_cancelled(record: &ExecutionRecord, observed: Option<Observed>) -> Vec<Event> {
    let (by, reason) = match &record.cancel_requested {
        Some(request) => (request.by.clone(), request.reason.clone()),
        None => ("service".to_owned(), None),
    };
    cancelled(record, by, reason, observed)
}

fn cancelled(record: &ExecutionRecord, by: String, reason: Option<String>, observed: Option<Observed>) -> Vec<Event> {
    let end = ExecutionCancelled { by, reason, observed }.into();
    std::iter::once(end).chain(not_finished(record, || "the replay was cancelled".to_owned())).collect()
}

/// A replay that ended without a result of its code has a verdict all the same.
fn not_finished(record: &ExecutionRecord, reason: impl FnOnce() -> String) -> Option<Event> {
    let parent = record.submitted.parent.filter(|parent| parent.relationship == Relationship::Replay)?;
    let verdict = Verdict::Refused { cause: RefusalCause::NotFinished, reason: reason() };
    Some(ReplayVerdictRecorded { original_id: parent.execution_id, verdict, rules: Vec::new() }.into())
}

fn fail_attempt(record: &ExecutionRecord, error: Failure, retry: Retry) -> Vec<Event> {
    if record.cancel_requested.is_some() {
        return end_cancelled(record, None);
    }
    match retry {
        Retry::At { not_before, delay_ms }
            if error.error_type.is_infrastructure() && record.attempt < record.submitted.max_attempts =>
        {
            let attempt = record.attempt;
            vec![RetryScheduled { attempt, delay_ms, not_before, cause: error, observed: None }.into()]
        }
        Retry::At { .. } | Retry::Never => fail_for_good(record, error),
    }
}

/// The end of code that ran, or another attempt. A replay is one attempt by nature.
fn finish_or_retry(record: &ExecutionRecord, ending: Ending, cause: Failure, retry: Retry) -> Vec<Event> {
    let is_replay = record.submitted.parent.is_some_and(|parent| parent.relationship == Relationship::Replay);
    let may_retry = match ending {
        Ending::Failed { .. } | Ending::TimedOut { .. } | Ending::OutOfMemory { .. } => !is_replay,
        Ending::Succeeded { .. } | Ending::Cancelled { .. } => false,
    };
    match retry {
        Retry::At { not_before, delay_ms }
            if may_retry && record.cancel_requested.is_none() && record.attempt < record.submitted.max_attempts =>
        {
            let (attempt, observed) = (record.attempt, ending.observed().cloned());
            vec![RetryScheduled { attempt, delay_ms, not_before, cause, observed }.into()]
        }
        Retry::At { .. } | Retry::Never => end(record, ending),
    }
}

fn fail_for_good(record: &ExecutionRecord, error: Failure) -> Vec<Event> {
    let letter =
        JobDeadLettered { error_type: error.error_type, message: error.message.clone(), attempts: record.attempt };
    let is_dead_letter = error.error_type.is_infrastructure();
    let verdict = not_finished(record, || error.message.clone());
    let mut events = vec![ExecutionFailed { error, observed: None }.into()];
    if is_dead_letter {
        events.push(letter.into());
    }
    events.extend(verdict);
    events
}

fn request_cancel(record: &ExecutionRecord, by: String, reason: Option<String>) -> Result<Vec<Event>, Rejection> {
    let request = CancelRequested { by: by.clone(), reason: reason.clone() };
    match &record.state {
        JobState::Ended { ending, .. } => Err(Rejection::AlreadyEnded(ending.status())),
        JobState::Queued { .. } => {
            Ok(std::iter::once(request.into()).chain(cancelled(record, by, reason, None)).collect())
        }
        JobState::Dequeued { .. } | JobState::Running { .. } if record.cancel_requested.is_some() => Ok(Vec::new()),
        JobState::Dequeued { .. } | JobState::Running { .. } => Ok(vec![request.into()]),
    }
}

/// A job whose claimants keep dying is failed once its attempts are used up: it may be the
/// job that kills them.
fn expire(record: &ExecutionRecord, node_id: Uuid, lease: i64, cause: String) -> Vec<Event> {
    let mut events: Vec<Event> = vec![LeaseExpired { node_id, lease, cause: cause.clone() }.into()];
    if record.cancel_requested.is_some() {
        events.extend(end_cancelled(record, None));
    } else if record.attempt >= record.submitted.max_attempts {
        let message = format!("the service lost this job {} times, last because {cause}", record.attempt);
        let error = Failure { error_type: ErrorType::Interrupted, message, phase: Phase::Execution, exception: None };
        events.extend(fail_for_good(record, error));
    }
    events
}

fn dead_letter(record: &ExecutionRecord) -> Result<(), Rejection> {
    match record.dead_letter {
        Some(DeadLetter::Waiting) => Ok(()),
        Some(DeadLetter::Requeued { .. } | DeadLetter::Discarded) | None => Err(Rejection::NotADeadLetter),
    }
}
