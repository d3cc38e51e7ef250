//! The event log and what is derived from it, in PostgreSQL: the only room with SQL.
//!
//! Everything that changes an execution goes through [`Store::append_batch`]: events, record,
//! queue row, idempotency key, dead letter and small blobs of an item are one transaction. The
//! log is numbered in the order of commits, can only grow, and chains each stream's events by
//! hash ([`chain`]). Everything else here reads, or keeps what is no part of the log's truth:
//! claims, heartbeats, blobs, of which the large ones are [`Objects`] elsewhere.

mod append;
pub mod audit;
mod batch;
mod blob_puts;
mod blobs;
mod build_wishes;
mod builds_under_way;
pub mod chain;
mod claim_rules;
mod codec;
mod copy;
mod database;
mod dead_letters;
mod dependencies;
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
mod objects;
mod output_feed;
mod partitions;
mod pauses;
mod payload_keys;
mod private;
mod projected;
mod projections;
mod queue;
mod rebuild;
mod retention;
mod row;
mod row_functions;
mod schedules;
mod secrets;
mod status_counts;
mod upcast;
mod vault_key;

pub use append::{
    Append, Appended, Blob, DeadLetterChange, DeadLetterRow, Idempotency, NewEvent, Outcome, QueueChange, RecordRow,
    StreamKind,
};
pub use blob_puts::OldPut;
pub use blobs::Put;
pub use build_wishes::{BuildWish, WishState};
pub use builds_under_way::BuildUnderWay;
pub use claim_rules::{Advert, ClaimSettings, JobTypeRule};
pub use codec::{Unreadable, event_of, new_events};
pub use database::{Options, Store, migrate};
pub use dead_letters::DeadLetterFilter;
pub use dependencies::held_back;
pub use error::Error;
pub use events::{LogFilter, StoredEvent};
pub use executions::{Filter, Page, Stored};
pub use invariants::{Checked, Violation};
pub use job_type_definitions::DefinedJobType;
pub use job_type_versions::{JobTypeVersion, StoredRecipe};
pub use lineage::{Family, Member, Reach};
pub use listener::{Listener, Wake};
pub use nodes::{LiveRoles, Member as NodeMember, Node, NodeState};
pub use objects::{ObjectOptions, ObjectPlace, Objects, ObjectsHealth, S3Options, SecretText};
pub use output_feed::OutputPart;
pub use partitions::{Holds, Partition};
pub use pauses::{EVERY_JOB_TYPE, Pause};
pub use payload_keys::Privacy;
pub use private::SecretKey;
pub use projections::{BuildingVersion, Projections};
pub use queue::{Claim, HeldClaim, Hindrance, QueueStats};
pub use rebuild::{Compared, Content, Rebuilding, Rebuilt};
pub use retention::{Listed, Naming, Removed};
pub use schedules::{SchedulePage, Scheduled};
pub use secrets::SecretRow;
pub use status_counts::StatusCounts;
pub use vault_key::{NotAVaultKey, VaultKey};
