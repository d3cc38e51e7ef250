//! Tako VM runs untrusted Python as jobs, each in its own single-use sandbox, and keeps every
//! transition in an append-only event log from which records, lineage and replay are derived.
//!
//! The rooms, in reading order: [`engine`].

pub mod engine;
pub mod store;
