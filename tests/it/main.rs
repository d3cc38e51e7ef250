//! The integration tests: one program, a module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics says where")]
#![allow(clippy::disallowed_methods, reason = "a test may look at the real clock")]

mod after;
mod api;
mod architecture;
#[path = "../attacks/mod.rs"]
mod attacks;
mod audit_cli;
mod catalog;
mod cli;
mod cluster;
mod db;
mod dead_letters;
mod dev;
mod dlq_cli;
mod docker;
mod egress;
mod faults;
mod fleet;
mod gpu;
mod guest;
mod job_types;
mod leftovers;
mod lifecycle;
mod native;
mod past;
mod queueing;
mod retention;
mod retries;
mod schedules;
mod secrets;
mod shredding;
mod simulation;
mod store;
mod world;
