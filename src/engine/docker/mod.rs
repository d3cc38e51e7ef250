//! Sandboxes as containers of a Docker Engine, reached through its HTTP API.
//!
//! Nothing is bind-mounted: images are built through the API and a job travels over the
//! container's standard streams, so a daemon on another host serves as well as a local one.
//! Whoever may speak to the daemon is root on its host; that is true of this process.
//!
//! - [`config`]: how to reach the daemon and which runtime to ask for
//! - `daemon`: every call, bounded in time and counted by the [`breaker`]
//! - `base`, `image`: base images and the executor images made of them
//! - `host_lock`: the servers of one host make an image once
//! - `fetch`, `build`: the packages of job types, and the images made with them
//! - `container`: what a sandbox is as a container
//! - `attached`, `sandbox`: one container's streams and life
//! - `post_mortem`: what the daemon knows of a container that ended too early
//! - `seccomp`: the profile, as the daemon wants to be given it
//! - `removal`: why nothing is left behind

mod attached;
mod base;
pub mod breaker;
mod build;
pub mod config;
mod container;
mod daemon;
mod fetch;
mod gpu;
mod host_lock;
mod image;
mod post_mortem;
mod removal;
mod sandbox;
mod seccomp;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::ListContainersOptionsBuilder;
use tokio::runtime::Handle;

use self::build::Workshop;
use self::config::GVISOR;
pub use self::config::{DockerConfig, RuntimeChoice, SecurityMode};
use self::container::Terms;
use self::daemon::Daemon;
use self::image::Images;
use self::removal::Removals;
use self::sandbox::DockerSandbox;
use super::build::{Base, BuildError, BuiltImage, Log, Made, Plan};
use super::{Engine, Error, Image, Kind, Sandbox, SandboxLabels, SandboxSpec};
use crate::domain::GpuRequest;

/// How long `connect` and `health` wait for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long `shutdown` waits for removals.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes sandboxes of containers.
pub struct DockerEngine {
    daemon: Arc<Daemon>,
    removals: Arc<Removals>,
    images: Images,
    workshop: Workshop,
    terms: Terms,
    /// Registered at the daemon when the engine connected.
    runtimes: Vec<String>,
    missing_limits: Vec<&'static str>,
    address: String,
}

/// What `/health` says of the daemon.
#[derive(Debug, Clone)]
pub struct DaemonStatus {
    /// Whether gVisor was registered at the daemon when the engine connected.
    pub gvisor_available: bool,
    pub breaker: breaker::Snapshot,
}

impl DockerEngine {
    /// Connects to the daemon and settles on an API version and a runtime. Must be called
    /// within a Tokio runtime that lives as long as the engine.
    ///
    /// # Errors
    /// `Unavailable` when the daemon does not answer within a few seconds, has no runtime
    /// that the configuration accepts, or lacks limits that it requires.
    pub async fn connect(config: DockerConfig) -> Result<Self, Error> {
        let address = config.address();
        let daemon =
            Daemon::new(address.clone(), config.call_timeout, config.breaker)?.negotiate(HEALTH_TIMEOUT).await?;
        let info = daemon.call_within("info", HEALTH_TIMEOUT * 2, daemon.docker.info()).await?;
        let missing_limits = config::missing_limits(&info);
        if config.require_limits && !missing_limits.is_empty() {
            let lacking = missing_limits.join(", ");
            return Err(daemon::unavailable(format!(
                "the Docker Engine cannot limit {lacking}; rootless it needs cgroup v2 with those controllers delegated"
            )));
        }
        let available: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
        let default = info.default_runtime.unwrap_or_else(|| "runc".to_owned());
        let runtime = config.pick_runtime(&available, &default).map_err(daemon::unavailable)?;
        let podman = daemon.is_podman().await?;
        let seccomp = seccomp::option_for(&daemon, podman)?;
        let daemon = Arc::new(daemon);
        Ok(Self {
            removals: Removals::new(Arc::clone(&daemon), Handle::current()),
            daemon,
            workshop: Workshop::default(),
            images: Images::new(config.python_version, config.pull_timeout, config.build_timeout),
            terms: Terms { runtime, seccomp, podman },
            runtimes: available,
            missing_limits,
            address,
        })
    }

    fn tools(&self) -> build::Tools<'_> {
        build::Tools {
            daemon: &self.daemon,
            removals: &self.removals,
            images: &self.images,
            runtime: &self.terms.runtime,
        }
    }

    /// The breaker's state and whether gVisor can be had; asks nobody.
    pub fn status(&self) -> DaemonStatus {
        DaemonStatus {
            gvisor_available: self.runtimes.iter().any(|name| name == GVISOR),
            breaker: self.daemon.snapshot(),
        }
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn kind(&self) -> Kind {
        Kind::Docker
    }

    fn runtime(&self) -> &str {
        &self.terms.runtime
    }

    fn missing_limits(&self) -> Vec<&'static str> {
        self.missing_limits.clone()
    }

    fn gpu_refusal(&self, gpu: &GpuRequest) -> Option<String> {
        gpu::refusal(gpu, &self.terms.runtime, &self.runtimes, &self.address)
    }

    async fn resolve_image(&self, reference: &str) -> Result<Image, Error> {
        self.images.resolve(&self.daemon, reference).await
    }

    async fn base(&self, reference: &str, obtain: bool) -> Result<Option<String>, Error> {
        self.images.base(&self.daemon, reference, obtain).await
    }

    async fn image_on(&self, base: &Base) -> Result<Option<Image>, Error> {
        let Some(digest) = &base.digest else { return Ok(None) };
        self.images.on_base(&self.daemon, &base.reference, digest).await
    }

    async fn build(&self, plan: &Plan, log: &Log) -> Result<Made, BuildError> {
        self.workshop.build(&self.tools(), plan, log).await
    }

    async fn find_built(&self, job_type: &str, digest: &str) -> Result<Option<Image>, Error> {
        build::find(&self.daemon, job_type, digest).await
    }

    async fn built(&self) -> Result<Vec<BuiltImage>, Error> {
        build::list(&self.daemon).await
    }

    async fn remove_built(&self, built: &BuiltImage) -> Result<bool, Error> {
        build::remove(&self.daemon, built).await
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        let sandbox = DockerSandbox::start(&self.daemon, &self.removals, spec, &self.terms).await?;
        Ok(Box::new(sandbox))
    }

    async fn health(&self) -> Result<(), Error> {
        // Asked even while the circuit is open: this call is small, bounded, and closes it.
        self.daemon.attempt("ping", HEALTH_TIMEOUT, self.daemon.docker.ping()).await?;
        Ok(())
    }

    async fn list(&self, installation: &str) -> Result<Vec<(String, SandboxLabels)>, Error> {
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&container::installation_filter(installation))
            .build();
        let request = self.daemon.docker.list_containers(Some(options));
        let found = self.daemon.call("list", request).await?;
        Ok(found
            .into_iter()
            .filter_map(|summary| {
                let labels = container::parse_labels(&summary.labels?)?;
                Some((summary.id?, labels))
            })
            .collect())
    }

    async fn remove(&self, sandbox_id: &str) -> Result<(), Error> {
        Ok(removal::remove(&self.daemon, sandbox_id).await?)
    }

    async fn shutdown(&self) {
        if !self.removals.settle(SETTLE_TIMEOUT).await {
            tracing::warn!("containers were still being removed at the end");
        }
    }
}
