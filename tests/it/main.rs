//! The integration tests: one program, a module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod db;
mod docker;
mod guest;
mod store;
