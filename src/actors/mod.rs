//! Who decides and who does: the actors of a node.
//!
//! A client's wish enters by [`intake`], becomes events through the [`ledger`], which the
//! [`appender`] makes durable. The [`queue`] claims jobs for free [`slot`]s; a slot's [`attempt`]
//! runs one in a sandbox and says how it ended. The [`builder`] provides environments, [`dlq`]
//! handles jobs the service failed, the [`vault`] keeps secrets, the [`reaper`] keeps leases, the [`sealer`]
//! seals the log. [`topology`] starts and stops
//! them, [`root`] watches them.
//!
//! Actors hold decisions; whatever waits for the database or the engine runs as a task on the
//! I/O runtime and answers by message.

pub mod appender;
pub mod attempt;
mod build_run;
pub mod builder;
pub mod builds;
mod custody;
mod definitions;
mod delivery;
pub mod dlq;
mod given_files;
pub mod images;
pub mod intake;
mod interrupted;
pub mod job_types;
mod journal;
pub mod ledger;
pub mod live_output;
mod observation;
pub mod queue;
pub mod reaper;
mod redaction;
mod repeat;
mod replay;
pub mod retention;
pub mod root;
mod sandbox_spec;
pub mod sealer;
pub mod shredding;
pub mod slot;
pub mod submission;
pub mod topology;
pub mod vault;
pub mod waiters;
