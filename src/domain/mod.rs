//! What a job is and what may happen to it: pure, synchronous, without I/O or a clock.
//!
//! [`decide()`] answers a [`Command`] with the events it causes, or says why not;
//! [`ExecutionRecord::evolve`] folds events into the record. The projection in the database is
//! that fold's result, so what a client reads and what a replay of the log gives are the same
//! code.

mod attempts;
mod catalog;
mod command;
mod comparison;
mod cron;
mod decide;
mod dependency;
mod digest;
mod egress_observed;
mod error_type;
mod event;
mod execution_record;
mod gpu;
mod header_use;
mod host_rule;
mod job;
mod json_text;
mod normaliser;
pub mod outcome;
mod pause;
mod recipe;
mod redactor;
mod requirement;
mod retry;
mod schedule;
mod scrub;
mod secret;
mod upkeep;

pub use attempts::Attempt;
pub use catalog::{Edition, Explained, Field};
pub use command::{Command, Retry};
pub use comparison::{Comparison, JsonDifference, first_difference};
pub use cron::{Calendar, NotACalendar};
pub use decide::{Rejection, decide};
pub use dependency::{AfterPolicy, Dependencies, DependenciesDeclared, DependenciesMet, DependencyEnd, MAX_AFTER};
pub use digest::{Digest, NotADigest, canonical_json, canonical_json_digest};
pub use egress_observed::{EgressObserved, EgressRefusal, EgressRefused, HostTraffic};
pub use error_type::ErrorType;
pub use event::{
    BuildFailed, BuildRequested, BuildStarted, BuildSucceeded, CancelRequested, ConcurrencyKey, DeadLetterDiscarded,
    DeadLetterRequeued, Difference, Event, EventKind, ExecutionCancelled, ExecutionFailed, ExecutionOutOfMemory,
    ExecutionStarted, ExecutionSucceeded, ExecutionTimedOut, JobDeadLettered, JobDequeued, JobRejected, JobSubmitted,
    JobTypeDefined, LeaseExpired, NodeDraining, NodeStarted, NodeStopped, Part, PinnedImage, RefusalCause,
    ReplayVerdictRecorded, RetryScheduled, Verdict,
};
pub use execution_record::{Claim, DeadLetter, Ending, Envelope, ExecutionRecord, JobState, NotFoldable, Status};
pub use gpu::{GpuDevices, GpuRequest, GpuVendor};
pub use header_use::HeaderUse;
pub use host_rule::{HostRule, NotAHostRule, host_name, port_of};
pub use job::{
    Artifact, Failure, FileSource, Idempotency, InputFile, JobLimits, Observed, Output, Parent, Phase, Relationship,
    Sandbox, Timing, Usage, Warmth,
};
pub use json_text::{JsonObject, JsonTextError, MAX_DEPTH};
pub use normaliser::{Normaliser, NotARule};
pub use pause::{JobTypePaused, JobTypeResumed};
pub use recipe::{Recipe, Reference, Version};
pub use redactor::{RedactedStream, Redactor};
pub use requirement::{NotARequirement, Requirement};
pub use retry::RetryPolicy;
pub use schedule::{
    Due, JobScheduled, Missed, NotASchedule, Overlap, Schedule, ScheduleChanged, ScheduleDefined, ScheduleFired,
    SchedulePaused, ScheduleRemoved, ScheduleResumed, ScheduleSkipped, ScheduleTerms, SkipCause,
};
pub use scrub::{causes, scrub};
pub use secret::{
    Delivery, MAX_SECRET_ENVIRONMENT_BYTES, MAX_SECRETS, SECRETS_FOLDER, SecretRemoved, SecretSet, SecretUse,
    SecretValue, SecretVersion, SecretsDelivered, secret_name_fault, secret_value_fault,
};
pub use upkeep::{ExecutionExpired, LogArchived, PayloadShredded, RetentionApplied, TenantShredded};

#[cfg(test)]
mod tests;
