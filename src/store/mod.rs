//! The event log and what is derived from it, in PostgreSQL: the only room with SQL.

mod append;
mod batch;
pub mod chain;
mod database;
mod error;
mod event_log;

pub use append::{
    Append, Appended, Blob, DeadLetter, DeadLetterChange, Idempotency, NewEvent, Outcome,
    QueueChange, RecordRow, StreamKind,
};
pub use database::{Options, Store, migrate};
pub use error::Error;
pub use event_log::EventLog;
