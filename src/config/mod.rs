//! Configuration: one YAML file, `TAKO_VM_*` environment variables over it, every value bounded.
//!
//! [`Config`] is the whole of it, typed, with a default for each value. [`Sources`] says where
//! to look and [`Sources::load`] answers with a [`Config`] that obeys every bound, or with all
//! that is wrong at once: each [`Issue`] names the key, what was given, where, and what is allowed.
//!
//! Durations are seconds (`timeout: 30`, `poll_interval: 0.5`), sizes are bytes or text such as
//! `64k`, `512m`, `2g` (powers of 1024).

mod blobs;
mod bounds;
mod build;
mod check;
mod check_reach;
mod concurrency;
mod decode;
mod document;
mod error;
mod job_type;
mod known_keys;
mod pip;
mod retention;
mod retry;
mod role;
mod schedules;
mod secret;
mod settings;
mod shared_code;
mod sources;
mod units;

pub use blobs::{BlobStore, Blobs, S3};
pub use build::Build;
pub use concurrency::{Concurrency, Node, Placement};
pub use error::{Error, Issue};
pub use job_type::{Gpu, JobType, Network, Normalise, Pattern, PoolOverride, Replay, VersionRetention};
pub use pip::Pip;
pub use retention::{Kept, Retention, RetentionOverride};
pub use retry::{Retry, RetryOn, RetryOverride};
pub use role::Role;
pub use schedules::Schedules;
pub use secret::{DatabaseUrl, Secret};
pub use settings::{
    ApiKey, Audit, Config, ContainerLimits, Docker, EngineChoice, Host, Leases, Limits, Log, LogFormat, Native, Pool,
    Queue, RateLimit, Scope, Secrets, SecurityMode, Server,
};
pub use shared_code::SharedCode;
pub use sources::{Loaded, Sources};
pub use units::display_bytes;
