//! One item of an append and its outcome.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::Digest;

/// What a stream is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum StreamKind {
    Execution = 1,
    Build = 2,
    Node = 3,
    /// What an installation does with its own log.
    Upkeep = 4,
    /// The definitions of a job type.
    JobType = 5,
    Schedule = 6,
}

impl StreamKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Execution => "execution",
            Self::Build => "build",
            Self::Node => "node",
            Self::Upkeep => "upkeep",
            Self::JobType => "job_type",
            Self::Schedule => "schedule",
        }
    }

    const ALL: [Self; 6] = [Self::Execution, Self::Build, Self::Node, Self::Upkeep, Self::JobType, Self::Schedule];

    pub(super) fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i16 == code)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// An event before it has a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Made by the client (UUIDv7); repeating it repeats the append's first result.
    pub event_id: Uuid,
    pub event_type: Cow<'static, str>,
    pub schema_version: i16,
    /// Cut to whole microseconds, the database's resolution.
    pub recorded_at: DateTime<Utc>,
    /// Which part spoke, on which node.
    pub actor: String,
    pub correlation_id: Option<String>,
    pub causation_id: Option<Uuid>,
    /// JSON text, kept to the byte.
    pub payload: String,
}

/// Events of one stream and all that is written with them, or none of it.
#[derive(Debug, Clone)]
pub struct Append {
    pub stream_id: Uuid,
    pub stream_kind: StreamKind,
    /// The stream's version that the events follow; 0 begins a stream.
    pub expected_version: i32,
    /// The hash of the event at `expected_version`; `None` begins a stream.
    pub prev_hash: Option<Digest>,
    /// At least one.
    pub events: Vec<NewEvent>,
    /// What lists know after these events. The row is made with the stream's first event and must
    /// be there for every later one.
    pub record: Option<RecordRow>,
    pub queue: QueueChange,
    /// The lease that must hold the stream's queue row.
    pub lease: Option<i64>,
    pub idempotency: Option<Idempotency>,
    pub dead_letter: DeadLetterChange,
    /// Small ones; a large blob is put before the append, outside the log's lock.
    pub blobs: Vec<Blob>,
}

impl Append {
    /// Events of a stream with nothing beside them.
    pub fn events(stream_id: Uuid, stream_kind: StreamKind, events: Vec<NewEvent>) -> Self {
        Self {
            stream_id,
            stream_kind,
            expected_version: 0,
            prev_hash: None,
            events,
            record: None,
            queue: QueueChange::None,
            lease: None,
            idempotency: None,
            dead_letter: DeadLetterChange::None,
            blobs: Vec::new(),
        }
    }

    /// The same after a known head of the stream.
    #[must_use]
    pub fn after(mut self, version: i32, head: Digest) -> Self {
        self.expected_version = version;
        self.prev_hash = Some(head);
        self
    }
}

/// What lists know of an execution. The record itself is read from its events.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RecordRow {
    pub tenant: String,
    pub job_type: String,
    pub created_at: DateTime<Utc>,
    pub parent_execution_id: Option<Uuid>,
    /// This and `ended_at` change from one append to the next; the others are kept from the first.
    pub status: String,
    /// Set by the terminal event; wakes those who wait for the end.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What becomes of the execution's queue row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueChange {
    None,
    /// A new row, claimable from `not_before` on.
    Enqueue {
        tenant: String,
        job_type: String,
        /// 0 to 9; 9 is claimed first.
        priority: i16,
        not_before: Option<DateTime<Utc>>,
        /// Whether the appended `JobSubmitted` names a concurrency key, which the row then has.
        is_keyed: bool,
    },
    /// Nobody's again, at the end of its priority, after `attempt` attempts.
    Release {
        not_before: Option<DateTime<Utc>>,
        attempt: u32,
    },
    /// Gone: the execution has ended.
    Remove,
    /// Asks the claimant to cancel.
    FlagCancel,
}

/// A key under which a tenant may repeat a submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub tenant: String,
    pub key: String,
    /// Of the submitted payload.
    pub fingerprint: Digest,
}

/// What becomes of the execution's dead letter, of which it has at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterChange {
    None,
    Insert(DeadLetterRow),
    Remove,
}

/// A job that the service failed for good. Its id is the execution's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    pub execution_id: Uuid,
    pub tenant: String,
    pub job_type: String,
    pub error_type: String,
    pub error_message: String,
    pub retry_count: u32,
    pub created_at: DateTime<Utc>,
    pub client_ip: Option<String>,
    pub correlation_id: Option<String>,
}

/// Bytes under the SHA-256 of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    hash: Digest,
    bytes: Bytes,
}

impl Blob {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { hash: Digest::of(&bytes), bytes }
    }

    pub fn hash(&self) -> Digest {
        self.hash
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Where an item's events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub first_position: i64,
    pub last_position: i64,
    /// The stream's version after the item.
    pub version: i32,
    /// The hash of its last event.
    pub head_hash: Digest,
}

/// What became of an item. Only [`Outcome::Appended`] wrote anything, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Appended(Appended),
    /// The same event ids were appended before, with this result.
    Duplicate(Appended),
    /// The stream has another version, or another hash at that version.
    VersionConflict {
        expected: i32,
        actual: i32,
    },
    /// The queue row is held by another lease, by none, or is gone.
    LeaseLost {
        held: Option<i64>,
    },
    /// The key stands for an execution already.
    IdempotencyTaken {
        execution_id: Uuid,
        fingerprint: Digest,
    },
}
