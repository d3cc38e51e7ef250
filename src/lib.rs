//! Tako VM runs untrusted Python as jobs, each in its own single-use sandbox, and keeps every
//! transition in an append-only event log from which records, lineage and replay are derived.
//!
//! The rooms, in reading order: [`domain`], [`clock`], [`crash_point`], [`store`], [`egress`], [`engine`],
//! [`actors`], [`api`], [`cli`], [`config`], [`telemetry`].

pub mod actors;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash_point;
pub mod domain;
pub mod egress;
pub mod engine;
pub mod store;
pub mod telemetry;
