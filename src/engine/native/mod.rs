//! Sandboxes of Linux namespaces on this host, without a daemon.
//!
//! The engine keeps cells: a launcher process with a read-only root, its own cgroup and its own
//! two host users. A sandbox is made in a cell by the launcher, runs one job and is gone; the
//! cell then makes the next. Nothing of a sandbox stays in its cell but the kernel's page cache.
//!
//! What this isolates, and what it cannot, is told in `docs/native-engine.md`.

mod build;
mod cell;
mod cells;
mod cgroup;
mod config;
mod control;
mod engine;
mod host_root;
mod identity;
mod launcher;
mod layered;
mod layers;
mod registry;
mod sandbox;

pub use cgroup::Limit;
pub use config::{NativeConfig, Root};
pub use engine::{Capabilities, NativeEngine};
pub use registry::cell_prefix;
