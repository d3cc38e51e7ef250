//! The event log and what is derived from it, in PostgreSQL: the only room with SQL.
//!
//! Everything that changes an execution goes through [`Store::append_batch`]: events, record,
//! queue row, idempotency key, dead letter and small blobs of an item are one transaction. The
//! log is numbered in the order of commits, can only grow, and chains each stream's events by
//! hash ([`chain`]). Everything else here reads, or keeps what is no part of the log's truth:
//! claims, heartbeats, blobs.

mod append;
pub mod audit;
mod batch;
mod blobs;
mod builds_under_way;
pub mod chain;
mod codec;
mod copy;
mod database;
mod dead_letters;
mod error;
mod event_log;
mod events;
mod executions;
mod idempotency;
mod invariants;
mod job_type_definitions;
mod job_type_versions;
mod lineage;
mod listener;
mod nodes;
mod partitions;
mod payload_keys;
mod private;
mod projected;
mod projections;
mod queue;
mod rebuild;
mod retention;
mod row;
mod secrets;
mod status_counts;
mod upcast;
mod vault_key;

pub use append::{
    Append, Appended, Blob, DeadLetterChange, DeadLetterRow, Idempotency, NewEvent, Outcome, QueueChange, RecordRow,
    StreamKind,
};
pub use builds_under_way::BuildUnderWay;
pub use codec::{Unreadable, event_of, new_events};
pub use database::{Options, Store, migrate};
pub use dead_letters::DeadLetterFilter;
pub use error::Error;
pub use events::{LogFilter, StoredEvent};
pub use executions::{Filter, Page, Stored};
pub use invariants::{Checked, Violation};
pub use job_type_definitions::DefinedJobType;
pub use job_type_versions::{JobTypeVersion, StoredRecipe};
pub use lineage::{Family, Member, Reach};
pub use listener::{Listener, Wake};
pub use nodes::{Node, NodeState};
pub use partitions::{Holds, Partition};
pub use payload_keys::Privacy;
pub use private::SecretKey;
pub use projections::{BuildingVersion, Projections};
pub use queue::{Claim, HeldClaim, QueueStats};
pub use rebuild::{Compared, Content, Rebuilding, Rebuilt};
pub use retention::{Listed, Naming, Removed};
pub use secrets::SecretRow;
pub use status_counts::StatusCounts;
pub use vault_key::{NotAVaultKey, VaultKey};
