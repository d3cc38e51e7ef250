//! What may be asked of an execution.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::dependency::{DependenciesDeclared, DependencyEnd};
use super::egress_observed::EgressObserved;
use super::event::{JobSubmitted, ReplayVerdictRecorded};
use super::execution_record::{Claim, Ending};
use super::job::{Failure, Sandbox};
use super::schedule::JobScheduled;
use super::secret::SecretVersion;

/// A wish; [`super::decide()`] turns it into events or refuses it.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    SubmitJob(Box<JobSubmitted>),
    RejectJob {
        reason: String,
    },
    /// Others must end before the job runs.
    DeclareDependencies(DependenciesDeclared),
    /// Some that the job waits for have ended: all of those that have.
    SettleDependencies {
        ended: Vec<DependencyEnd>,
    },
    /// A schedule submits it.
    Schedule(JobScheduled),
    /// A slot has claimed the job under a new lease.
    Dequeue {
        claim: Claim,
    },
    Start {
        lease: i64,
        sandbox: Sandbox,
    },
    /// The code is about to get these.
    DeliverSecrets {
        lease: i64,
        secrets: Vec<SecretVersion>,
    },
    /// The code's traffic, once it has ended.
    RecordEgress {
        lease: i64,
        observed: EgressObserved,
    },
    /// The code ended, or a limit ended it.
    Finish {
        lease: i64,
        ending: Box<Ending>,
    },
    /// The same of a job whose type tries again after such an end, should an attempt be left.
    FinishOrRetry {
        lease: i64,
        ending: Box<Ending>,
        /// The end in the words of a failure.
        cause: Failure,
        retry: Retry,
    },
    /// The service failed. `retry` is when to try again, should an attempt be left.
    FailAttempt {
        lease: i64,
        error: Failure,
        retry: Retry,
    },
    RequestCancel {
        by: String,
        reason: Option<String>,
    },
    /// The claimant is gone or gives the job back.
    ExpireLease {
        lease: i64,
        cause: String,
    },
    RequeueDeadLetter {
        by: String,
        execution_id: Uuid,
    },
    DiscardDeadLetter {
        by: String,
        reason: Option<String>,
    },
    RecordReplayVerdict(ReplayVerdictRecorded),
    /// Its time in the records is over.
    Expire {
        records_days: u32,
    },
    /// The keys of its private payload are gone.
    Shred {
        by: String,
        reason: Option<String>,
        /// How many there were.
        keys: u64,
    },
}

/// When a failed attempt may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    At {
        not_before: DateTime<Utc>,
        delay_ms: u64,
    },
    /// Trying again would fail again.
    Never,
}
