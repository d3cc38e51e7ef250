//! Job types: the environments that jobs name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use super::units::{bytes, seconds};

/// An environment that jobs run in, as an operator describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobType {
    /// 1 to 64 of `a-z 0-9 - _`, a letter or digit first.
    pub name: String,
    /// What `pip install` is given, one requirement each.
    pub requirements: Vec<String>,
    /// `3.11`
    pub python_version: String,
    /// Image to start from instead of the executor image of the Python version.
    pub base_image: Option<String>,
    /// File or folder put on the path of the user's code; relative to the file that names it.
    pub shared_code: Option<PathBuf>,
    /// Environment of the user's code, which can read it: no place for lasting secrets.
    /// Shown as `***` all the same.
    pub environment: BTreeMap<String, Secret>,
    /// Memory of a sandbox, with its tmpfs and swap.
    #[serde(with = "bytes")]
    pub memory_limit: u64,
    /// CPUs.
    pub cpu_limit: f64,
    /// Time limit of the code, unless a job names its own.
    #[serde(with = "seconds")]
    pub timeout: Duration,
    /// Time limit of everything before the code starts.
    #[serde(with = "seconds")]
    pub startup_timeout: Duration,
    pub network_enabled: bool,
    pub gpu: Gpu,
    pub session_enabled: bool,
    /// Modules imported before a job arrives.
    pub preload: Vec<String>,
    /// Instead of the general pool's bounds.
    pub pool: Option<PoolOverride>,
    /// Instead of the general number of attempts.
    pub retry: Option<RetryOverride>,
    /// Jobs of this type that run at the same time on a node; absent means as many as workers.
    pub concurrency: Option<u32>,
    pub replay: Replay,
}

/// How the replays of a job type are compared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Replay {
    /// What both sides are rid of before they are compared, one rule after the other.
    pub normalise: Vec<Normalise>,
}

/// `timestamps`, `addresses`, `uuids`, `durations`, or a map with the one key `regex`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Normalise {
    Named(String),
    Pattern(Pattern),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    pub regex: String,
}

impl Normalise {
    /// As the log writes it: the name, or `regex:` and the pattern.
    pub fn rule(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Pattern(Pattern { regex }) => format!("regex:{regex}"),
        }
    }
}

/// Devices passed to the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    pub enabled: bool,
    pub count: u32,
}

/// A job type's own bounds of idle sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolOverride {
    pub min_idle: u32,
    pub max_idle: u32,
}

/// A job type's own number of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryOverride {
    pub max_attempts: u32,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { enabled: false, count: 1 }
    }
}

impl Default for RetryOverride {
    fn default() -> Self {
        Self { max_attempts: 1 }
    }
}

impl Default for JobType {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            requirements: Vec::new(),
            python_version: "3.11".to_owned(),
            base_image: None,
            shared_code: None,
            environment: BTreeMap::new(),
            memory_limit: 512 << 20,
            cpu_limit: 1.0,
            timeout: Duration::from_secs(30),
            startup_timeout: Duration::from_secs(120),
            network_enabled: false,
            gpu: Gpu::default(),
            session_enabled: false,
            preload: Vec::new(),
            pool: None,
            retry: None,
            concurrency: None,
            replay: Replay::default(),
        }
    }
}

/// The job types that exist without any configuration: the shipped `config/job_types`.
pub(super) fn built_in() -> BTreeMap<String, JobType> {
    let types = [
        JobType::default(),
        JobType {
            name: "data-processing".to_owned(),
            requirements: vec!["numpy==2.2.6".to_owned(), "pandas==2.2.3".to_owned()],
            memory_limit: 1 << 30,
            cpu_limit: 2.0,
            timeout: Duration::from_secs(120),
            startup_timeout: Duration::from_secs(300),
            preload: vec!["pandas".to_owned()],
            ..JobType::default()
        },
        JobType {
            name: "ml-inference".to_owned(),
            requirements: vec!["numpy==2.2.6".to_owned(), "scikit-learn==1.6.1".to_owned()],
            memory_limit: 2 << 30,
            cpu_limit: 2.0,
            timeout: Duration::from_secs(300),
            startup_timeout: Duration::from_secs(600),
            preload: vec!["sklearn".to_owned()],
            ..JobType::default()
        },
    ];
    types.into_iter().map(|job_type| (job_type.name.clone(), job_type)).collect()
}
