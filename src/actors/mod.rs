//! Who decides and who does: the actors of a node.
//!
//! A client's wish enters by [`intake`], becomes events through the [`ledger`], which the
//! [`appender`] makes durable. The [`queue`] claims jobs for free [`slot`]s; a slot's [`attempt`]
//! runs one in a sandbox and says how it ended. The [`builder`] provides environments, [`dlq`]
//! handles jobs the service failed, [`dependents`] lets jobs go that waited for others, [`schedules`] submits jobs at
//! their times, the [`vault`] keeps secrets, the [`reaper`] keeps leases, the [`sealer`] seals the log. What one node wants
//! of others goes by [`broadcast`] and builds' errands. [`topology`] starts and stops
//! them, [`root`] watches them.
//!
//! Actors hold decisions; whatever waits for the database or the engine runs as a task on the
//! I/O runtime and answers by message.

pub mod appender;
pub mod attempt;
pub mod broadcast;
mod build_run;
pub mod builder;
pub mod builds;
mod code_retry;
mod custody;
mod definitions;
mod delivery;
pub mod dependents;
pub mod dlq;
mod errands;
pub mod fleet;
mod given_files;
pub mod images;
pub mod intake;
mod interrupted;
pub mod job_types;
mod journal;
pub mod ledger;
pub mod live_output;
mod observation;
pub mod pauses;
pub mod queue;
pub mod reaper;
mod redaction;
pub mod refusal;
mod repeat;
mod replay;
mod resolved_images;
pub mod retention;
mod room;
pub mod root;
mod sandbox_spec;
mod scheduled;
pub mod schedules;
pub mod sealer;
pub mod shredding;
pub mod slot;
pub mod submission;
mod told_warm;
pub mod topology;
pub mod vault;
pub mod waiters;
pub mod writes;
