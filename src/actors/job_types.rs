//! The job types of this installation, by name and version.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::config::{Config, JobType};
use crate::domain::{JobLimits, Normaliser, canonical_json_digest};
use crate::engine::pool::Bounds;
use crate::engine::{Image, SandboxLabels, SandboxLimits, SandboxSpec};

/// Makes Python's hashes, and so the order of its sets, the same in every run.
pub const HASH_SEED: &str = "PYTHONHASHSEED";

/// Job types as the configuration has them now.
#[derive(Debug)]
pub struct JobTypes {
    config: Config,
    versions: BTreeMap<String, String>,
}

/// No job type is called that, or not in that version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchJobType {
    #[error("job type {name:?} does not exist{}; there are: {known}", nearest.as_ref().map(|name| format!(", did you mean {name:?}?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<String>, known: String },
    #[error("job type {name:?} has no version {version:?} here; its present one is {present}")]
    OtherVersion { name: String, version: String, present: String },
    #[error("{reference:?} is not a job type: write a name, or name@sha256:<at least 12 hexadecimal digits>")]
    Malformed { reference: String },
}

impl JobTypes {
    pub fn new(config: &Config) -> Self {
        let versions = config.job_types.values().map(|job_type| (job_type.name.clone(), digest(job_type))).collect();
        Self { config: config.clone(), versions }
    }

    pub fn all(&self) -> impl Iterator<Item = &JobType> {
        self.config.job_types.values()
    }

    /// Finds a job type by name or by `name@sha256:<hex>`; answers with it and its full
    /// version, `name@sha256:<12 hex>`.
    pub fn resolve(&self, reference: &str) -> Result<(&JobType, String), NoSuchJobType> {
        let (name, version) = match reference.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        let (Some(job_type), Some(digest)) = (self.config.job_types.get(name), self.versions.get(name)) else {
            return Err(self.unknown(name));
        };
        let present = format!("{name}@sha256:{}", &digest[..12]);
        if let Some(version) = version {
            let hex = version
                .strip_prefix("sha256:")
                .filter(|hex| hex.len() >= 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .ok_or_else(|| NoSuchJobType::Malformed { reference: reference.chars().take(200).collect() })?;
            if !digest.starts_with(&hex.to_ascii_lowercase()) {
                let (name, version) = (name.to_owned(), version.to_owned());
                return Err(NoSuchJobType::OtherVersion { name, version, present });
            }
        }
        Ok((job_type, present))
    }

    /// 64 hexadecimal digits over everything that shapes the job type's environment.
    pub fn digest(&self, name: &str) -> Option<&str> {
        self.versions.get(name).map(String::as_str)
    }

    /// All limits of a job of that type.
    pub fn limits(&self, job_type: &JobType, timeout: Option<Duration>, startup: Option<Duration>) -> JobLimits {
        let (limits, container) = (&self.config.limits, &self.config.container_limits);
        JobLimits {
            timeout_ms: timeout.unwrap_or(job_type.timeout).as_millis() as u64,
            startup_timeout_ms: startup.unwrap_or(job_type.startup_timeout).as_millis() as u64,
            memory_bytes: job_type.memory_limit,
            cpu_millis: (job_type.cpu_limit * 1000.0).round() as u32,
            pids: container.pids,
            open_files: container.nofile_soft,
            tmp_bytes: container.tmp_size,
            output_bytes: container.output_size,
            stdout_bytes: limits.max_stdout_bytes,
            stderr_bytes: limits.max_stderr_bytes,
            artifact_count: limits.max_artifacts,
            artifact_bytes: limits.max_artifact_bytes,
            artifacts_total_bytes: limits.max_artifacts_total_bytes,
        }
    }

    pub fn max_attempts(&self, job_type: &JobType) -> u32 {
        job_type.retry.map_or(self.config.retry.max_attempts, |retry| retry.max_attempts)
    }

    /// Sandboxes to keep ready for a job type.
    pub fn pool_bounds(&self, name: &str) -> Bounds {
        let general = self.config.pool;
        let own = self.config.job_types.get(name).and_then(|job_type| job_type.pool);
        let (min_idle, max_idle) = own.map_or((general.min_idle, general.max_idle), |own| (own.min_idle, own.max_idle));
        Bounds { min_idle: min_idle as usize, max_idle: max_idle as usize, max_age: general.max_age }
    }

    /// What the results of a job type are rid of before a replay is compared.
    pub fn normalisers(&self, name: &str) -> Vec<Normaliser> {
        let rules = self.config.job_types.get(name).map(|job_type| job_type.replay.normalise.as_slice());
        // A loaded configuration has no rule that is none.
        rules.unwrap_or_default().iter().filter_map(|rule| Normaliser::of(&rule.rule()).ok()).collect()
    }

    /// What a sandbox for a job of that type and those limits is made of. A hash seed that is
    /// given wins over the job type's own.
    pub fn spec(
        &self,
        name: &str,
        limits: &JobLimits,
        image: Image,
        hash_seed: Option<&str>,
        labels: SandboxLabels,
    ) -> SandboxSpec {
        let job_type = self.config.job_types.get(name);
        let configured = job_type.map(|job_type| &job_type.environment).into_iter().flatten();
        let mut environment: BTreeMap<_, _> =
            configured.map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
        match hash_seed {
            Some(seed) => drop(environment.insert(HASH_SEED.to_owned(), seed.to_owned())),
            None => drop(environment.entry(HASH_SEED.to_owned()).or_insert_with(|| "0".to_owned())),
        }
        SandboxSpec {
            image,
            limits: SandboxLimits {
                memory_bytes: limits.memory_bytes,
                cpu_millis: limits.cpu_millis,
                pids: limits.pids,
                open_files: limits.open_files,
                file_bytes: self.config.container_limits.file_size,
                tmp_bytes: limits.tmp_bytes,
                output_bytes: limits.output_bytes,
                inodes: self.config.container_limits.inodes,
            },
            environment,
            preload: job_type.map(|job_type| job_type.preload.clone()).unwrap_or_default(),
            startup_timeout: Duration::from_millis(limits.startup_timeout_ms),
            labels,
        }
    }

    fn unknown(&self, name: &str) -> NoSuchJobType {
        let nearest = self
            .config
            .job_types
            .keys()
            .map(|known| (strsim::jaro_winkler(name, known), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, known)| known.clone());
        let known = self.config.job_types.keys().cloned().collect::<Vec<_>>().join(", ");
        NoSuchJobType::Unknown { name: name.chars().take(100).collect(), nearest, known }
    }
}

fn digest(job_type: &JobType) -> String {
    let environment: BTreeMap<_, _> = job_type.environment.iter().map(|(name, value)| (name, value.expose())).collect();
    canonical_json_digest(&json!({
        "requirements": job_type.requirements,
        "python_version": job_type.python_version,
        "base_image": job_type.base_image,
        "shared_code": job_type.shared_code,
        "environment": environment,
        "preload": job_type.preload,
        "gpu": job_type.gpu,
    }))
    .to_string()
}
