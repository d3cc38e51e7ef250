//! What a job's sandbox is made of, from its job type and its version.

use std::time::Duration;

use super::job_types::{Environment, JobTypes};
use crate::config::{Gpu, JobType};
use crate::domain::{GpuRequest, JobLimits, Normaliser, Recipe};
use crate::engine::pool::Bounds;
use crate::engine::{Image, SandboxLabels, SandboxLimits, SandboxSpec, build};

/// Makes Python's hashes, and so the order of its sets, the same in every run.
pub const HASH_SEED: &str = "PYTHONHASHSEED";

/// Where programs are looked for in a sandbox that has packages of its own.
const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin";

impl JobTypes {
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
        job_type.retry.as_ref().map_or(self.config.retry.max_attempts, |retry| retry.max_attempts)
    }

    /// Sandboxes to keep ready for a job type.
    pub fn pool_bounds(&self, name: &str) -> Bounds {
        let general = self.config.pool;
        let own = self.present(name).and_then(|present| present.job_type.pool);
        let (min_idle, max_idle) = own.map_or((general.min_idle, general.max_idle), |own| (own.min_idle, own.max_idle));
        Bounds { min_idle: min_idle as usize, max_idle: max_idle as usize, max_age: general.max_age }
    }

    /// What the results of a job type are rid of before a replay is compared.
    pub fn normalisers(&self, name: &str) -> Vec<Normaliser> {
        let rules = self.present(name).map(|present| present.job_type.replay.normalise.clone());
        // A loaded configuration has no rule that is none.
        rules.unwrap_or_default().iter().filter_map(|rule| Normaliser::of(&rule.rule()).ok()).collect()
    }

    /// What a sandbox for a job in that environment and with those limits is made of. A hash seed
    /// that is given wins over the environment's own.
    pub fn spec(
        &self,
        of: &Environment,
        limits: &JobLimits,
        image: Image,
        hash_seed: Option<&str>,
        labels: SandboxLabels,
    ) -> SandboxSpec {
        let mut environment = of.recipe.environment.clone();
        match hash_seed {
            Some(seed) => drop(environment.insert(HASH_SEED.to_owned(), seed.to_owned())),
            None => drop(environment.entry(HASH_SEED.to_owned()).or_insert_with(|| "0".to_owned())),
        }
        if !of.recipe.is_plain() {
            let path = environment.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
            *path = format!("{}/bin:{path}", build::PLACE);
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
            preload: of.recipe.preload.clone(),
            gpu: gpu_of(&of.recipe),
            startup_timeout: Duration::from_millis(limits.startup_timeout_ms),
            labels,
        }
    }
}

/// The GPUs a version asks for, as its recipe keeps them.
fn gpu_of(recipe: &Recipe) -> Option<GpuRequest> {
    let gpu: Gpu = serde_json::from_value(recipe.further.get("gpu")?.clone()).ok()?;
    gpu.request()
}
