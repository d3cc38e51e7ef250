//! Job types: the environments that jobs name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::concurrency::Placement;
use super::decode;
use super::retention::RetentionOverride;
use super::retry::RetryOverride;
use super::secret::Secret;
use super::settings::Limits;
use super::shared_code::SharedCode;
use super::units::{bytes, seconds};
use crate::domain::{GpuDevices, GpuRequest, GpuVendor, HostRule};

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
    /// Files that the user's code imports.
    pub shared_code: Option<SharedCode>,
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
    pub network: Network,
    pub gpu: Gpu,
    pub session_enabled: bool,
    /// Modules imported before a job arrives.
    pub preload: Vec<String>,
    /// Instead of the general pool's bounds.
    pub pool: Option<PoolOverride>,
    /// Instead of the general number of attempts.
    pub retry: Option<RetryOverride>,
    /// Jobs of this type that run at the same time, on all nodes together; absent means no limit.
    pub concurrency: Option<u32>,
    /// Which nodes may run jobs of this type.
    pub placement: Placement,
    pub replay: Replay,
    /// Instead of the general times for which records and bytes are kept.
    pub retention: Option<RetentionOverride>,
    pub image_retention: VersionRetention,
}

/// Which built versions of a job type are never removed to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionRetention {
    /// The newest so many, of which the present one is the first.
    pub keep_versions: u32,
    /// Those that a job ran on within so many days.
    pub keep_days: u32,
}

impl Default for VersionRetention {
    fn default() -> Self {
        Self { keep_versions: 1, keep_days: 0 }
    }
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

/// What the code may reach. Without it a sandbox has no network at all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub enabled: bool,
    /// `api.example.com`, `*.example.org:8443`; without a port 443 and 80.
    pub allow: Vec<String>,
}

impl Network {
    /// What of it is part of the job type's digest: the rules in one form and order, `None` without a
    /// network.
    pub fn digest_part(&self) -> Option<BTreeSet<String>> {
        Some(self.rules()?.iter().map(HostRule::to_string).collect())
    }

    /// The allowlist, where there is one. A loaded configuration has no entry that is none.
    pub fn rules(&self) -> Option<Vec<HostRule>> {
        self.enabled.then(|| self.allow.iter().filter_map(|rule| rule.parse().ok()).collect())
    }
}

/// GPUs that the code may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    pub enabled: bool,
    pub vendor: GpuVendor,
    /// The first so many; one, where `device_ids` is empty too.
    pub count: Option<u32>,
    /// These, instead of `count`: indices, and of NVIDIA also UUIDs.
    pub device_ids: Vec<String>,
}

impl Gpu {
    /// What a sandbox is to have; `None` for no GPU.
    pub fn request(&self) -> Option<GpuRequest> {
        let devices = match self.device_ids.is_empty() {
            true => GpuDevices::Count(self.count.unwrap_or(1)),
            false => GpuDevices::Ids(self.device_ids.clone()),
        };
        self.enabled.then_some(GpuRequest { vendor: self.vendor, devices })
    }
}

/// A job type's own bounds of idle sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolOverride {
    pub min_idle: u32,
    pub max_idle: u32,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { enabled: false, vendor: GpuVendor::Nvidia, count: None, device_ids: Vec::new() }
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
            network: Network::default(),
            gpu: Gpu::default(),
            session_enabled: false,
            preload: Vec::new(),
            pool: None,
            retry: None,
            concurrency: None,
            placement: Placement::default(),
            replay: Replay::default(),
            retention: None,
            image_retention: VersionRetention::default(),
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

impl JobType {
    /// Reads a job type as an administrator sends it.
    ///
    /// # Errors
    /// Everything that is wrong: the field, and what to say of it.
    pub fn from_json(given: Value, limits: &Limits) -> Result<Self, Vec<(String, String)>> {
        let job_type = decode::job_type(given, limits)?;
        match &job_type.shared_code {
            // Whoever may speak to the API has no say over this host's files.
            Some(SharedCode::Path(_)) => Err(vec![(
                "shared_code".to_owned(),
                "must be the files themselves: {\"name.py\": \"text\"}".to_owned(),
            )]),
            Some(SharedCode::Files(_)) | None => Ok(job_type),
        }
    }

    /// The whole of it, with the values that are hidden elsewhere, as [`JobType::from_json`]
    /// reads it.
    pub fn definition(&self) -> Value {
        // Text, numbers and maps of them always serialize.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["environment"] =
            self.environment.iter().map(|(name, value)| (name.clone(), Value::from(value.expose()))).collect();
        value
    }
}
