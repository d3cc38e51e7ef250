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
mod decide;
mod digest;
mod error_type;
mod event;
mod execution_record;
mod job;
mod json_text;
mod normaliser;
pub mod outcome;
mod retry;
mod scrub;

pub use attempts::Attempt;
pub use catalog::{Edition, Explained, Field};
pub use command::{Command, Retry};
pub use comparison::{Comparison, JsonDifference, first_difference};
pub use decide::{Rejection, decide};
pub use digest::{Digest, NotADigest, canonical_json, canonical_json_digest};
pub use error_type::ErrorType;
pub use event::{
    BuildFailed, BuildRequested, BuildStarted, BuildSucceeded, CancelRequested, DeadLetterDiscarded,
    DeadLetterRequeued, Difference, Event, EventKind, ExecutionCancelled, ExecutionFailed, ExecutionOutOfMemory,
    ExecutionStarted, ExecutionSucceeded, ExecutionTimedOut, JobDeadLettered, JobDequeued, JobRejected, JobSubmitted,
    LeaseExpired, NodeDraining, NodeStarted, NodeStopped, Part, PinnedImage, RefusalCause, ReplayVerdictRecorded,
    RetryScheduled, Verdict,
};
pub use execution_record::{Claim, DeadLetter, Ending, Envelope, ExecutionRecord, JobState, NotFoldable, Status};
pub use job::{
    Artifact, Failure, FileSource, Idempotency, InputFile, JobLimits, Observed, Output, Parent, Phase, Relationship,
    Sandbox, Timing, Usage, Warmth,
};
pub use json_text::{JsonObject, JsonTextError, MAX_DEPTH};
pub use normaliser::{Normaliser, NotARule};
pub use retry::RetryPolicy;
pub use scrub::scrub;

#[cfg(test)]
mod tests;
