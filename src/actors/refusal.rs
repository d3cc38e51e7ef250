//! Why a client's wish is not granted, and how an actor answers one.

use std::time::Duration;

use actix::ResponseFuture;
use tokio::runtime;
use tokio::task::JoinError;
use uuid::Uuid;

use super::job_types::{NoSuchJobType, Unresolved};
use super::ledger;
use super::submission::FieldFault;
use crate::domain::{RefusalCause, Rejection, Status};
use crate::store;

/// Why a wish was not granted. Nothing was changed, unless it says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("{}", faults.iter().map(|fault| format!("{} {}", fault.field, fault.message)).collect::<Vec<_>>().join("; "))]
    Invalid { faults: Vec<FieldFault> },
    #[error(transparent)]
    JobType(#[from] NoSuchJobType),
    #[error("idempotency key {key:?} was used for another payload by execution {existing}")]
    IdempotencyConflict { key: String, existing: Uuid },
    #[error("execution {0} does not exist")]
    NotFound(Uuid),
    #[error("execution {execution_id} has already ended: {status}")]
    AlreadyEnded { execution_id: Uuid, status: Status },
    /// Its stream is still in the log, and proves what it was.
    #[error("execution {0} has expired: its record is no longer kept")]
    Expired(Uuid),
    #[error("execution {0} has not ended yet; wait for its result first")]
    NotEnded(Uuid),
    #[error("tenant {tenant} has {count} executions in progress: let them end, or cancel them, first")]
    InProgress { tenant: String, count: u64 },
    #[error("execution {0} is not waiting in the dead letter queue")]
    NotADeadLetter(Uuid),
    /// The code or input of the original is no longer kept.
    #[error("execution {execution_id} cannot be run again: {reason}")]
    NotRepeatable { execution_id: Uuid, reason: String },
    /// The refusal is in the original's stream.
    #[error("execution {execution_id} cannot be replayed: {reason}")]
    ReplayRefused { execution_id: Uuid, cause: RefusalCause, reason: String },
    #[error("schedule {name:?} does not exist")]
    NoSchedule { name: String },
    #[error("schedule {name:?} exists already; change it with PUT /schedules/{name}")]
    ScheduleExists { name: String },
    #[error("schedule {name:?} was changed by somebody else at the same time; look at it and try again")]
    ScheduleRaced { name: String },
    #[error("a tenant may have {most} schedules; remove one, or raise schedules.max_per_tenant")]
    TooManySchedules { most: u64 },
    #[error("secret {name} is not set; set it with PUT /secrets/{name}")]
    NoSecret { name: String },
    #[error("{}", super::custody::Error::NoKey)]
    NoSecretKey,
    #[error("the queue holds {waiting} jobs, as many as it may; try again later")]
    QueueFull { waiting: u64, retry_after: Duration },
    /// What the service stands on does not answer, or too much is under way.
    #[error("{cause}; try again later")]
    Unavailable { cause: &'static str, retry_after: Duration },
    /// A defect; the log has the details under the correlation id.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    pub(super) fn unavailable() -> Self {
        Self::without("the service is busy or its database does not answer")
    }

    fn without(cause: &'static str) -> Self {
        Self::Unavailable { cause, retry_after: Duration::from_secs(2) }
    }

    pub(super) fn of(error: ledger::Error, execution_id: Uuid) -> Self {
        match error {
            ledger::Error::Rejected(rejection) => match rejection {
                Rejection::Unknown => Self::NotFound(execution_id),
                Rejection::AlreadyEnded(status) => Self::AlreadyEnded { execution_id, status },
                Rejection::NotEnded => Self::NotEnded(execution_id),
                Rejection::NotADeadLetter => Self::NotADeadLetter(execution_id),
                Rejection::Expired => Self::Expired(execution_id),
                Rejection::AlreadyExists
                | Rejection::LeaseLost { .. }
                | Rejection::NotQueued
                | Rejection::NotStarted => Self::internal(&rejection),
            },
            ledger::Error::Overloaded | ledger::Error::Stopped => Self::unavailable(),
            ledger::Error::Store(error) => Self::from(error),
            ledger::Error::IdempotencyTaken { .. } | ledger::Error::LeaseLost | ledger::Error::Corrupt(_) => {
                Self::internal(&error)
            }
        }
    }

    /// One field that is wrong; `message` continues a sentence that begins with its name.
    pub(super) fn field(field: &str, message: String) -> Self {
        Self::Invalid { faults: vec![FieldFault { field: field.to_owned(), message, is_size: false }] }
    }

    pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a client's wish failed for a reason that is no client's");
        Self::Internal
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        if !error.is_transient() {
            return Self::internal(&error);
        }
        tracing::warn!(error = %error, "a client's wish could not be stored for now");
        match error.is_of_objects() {
            true => Self::without("large blobs cannot be stored for now"),
            false => Self::unavailable(),
        }
    }
}

impl From<Unresolved> for Refusal {
    fn from(error: Unresolved) -> Self {
        match error {
            Unresolved::NoSuchJobType(error) => error.into(),
            Unresolved::Store(error) => error.into(),
        }
    }
}

impl From<JoinError> for Refusal {
    fn from(lost: JoinError) -> Self {
        Self::internal(&lost)
    }
}

/// Grants a wish as a task on the I/O runtime; an answer that is lost is a refusal.
pub(super) fn answer<T: Send + 'static, E: From<JoinError> + Send + 'static>(
    io: &runtime::Handle,
    task: impl Future<Output = Result<T, E>> + Send + 'static,
) -> ResponseFuture<Result<T, E>> {
    let task = io.spawn(task);
    Box::pin(async move { task.await? })
}
