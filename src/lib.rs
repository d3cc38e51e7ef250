//! Tako VM runs untrusted Python as jobs, each in its own single-use sandbox, and keeps every
//! transition in an append-only event log from which records, lineage and replay are derived.
//!
//! The rooms, in reading order: [`engine`], [`config`], [`telemetry`], [`cli`].

pub mod cli;
pub mod config;
pub mod engine;
pub mod telemetry;
