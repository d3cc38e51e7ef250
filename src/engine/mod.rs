//! Single-use sandboxes: the only room that knows Docker or namespaces.
//!
//! An [`Engine`] starts a [`Sandbox`], in which the guest has already started an interpreter
//! that waits for a job. A sandbox runs one job and is destroyed, whatever happened. Engines
//! report facts (exit status, signal, who was killed and why); what they mean is decided in
//! the domain.

pub mod absent;
pub mod build;
pub mod crashing;
pub mod docker;
pub mod guest_binary;
pub mod native;
pub mod pool;
mod relay;
mod retry_after;
mod runtime_dir;
pub mod scripted;
pub mod session;
mod wheels;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tako_guest::protocol::{ArtifactLimits, Fault, Report};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::build::{BuildError, BuiltImage, Log, Made, Plan};
use crate::domain::{Delivery, GpuRequest, SecretValue};
use crate::egress::Gate;

/// Which engine runs the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Containers of a Docker Engine, local or remote.
    Docker,
    /// Linux namespaces of this host, without a daemon.
    Native,
    /// Answers from a script; for tests and benches.
    Scripted,
    /// Runs nothing: the node only answers requests.
    None,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
            Self::Scripted => "scripted",
            Self::None => "none",
        }
    }
}

/// Makes single-use sandboxes.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    fn kind(&self) -> Kind;

    /// The OCI runtime or mechanism that isolates, as recorded on every execution:
    /// `runc`, `runsc`, `namespaces`.
    fn runtime(&self) -> &str;

    /// Finds the image of an environment and makes it available if it can be had
    /// (pull, or local base-image script); answers with its immutable identity.
    async fn resolve_image(&self, reference: &str) -> Result<Image, Error>;

    /// What of a job's limits cannot be held here: of `memory`, `pids` and `cpu`. Answers at once.
    fn missing_limits(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Why sandboxes of this engine cannot have these GPUs, if so, as a sentence. Answers at once.
    fn gpu_refusal(&self, gpu: &GpuRequest) -> Option<String> {
        Some(format!("the {} engine gives no {} GPU to sandboxes", self.kind().as_str(), gpu.vendor.as_str()))
    }

    /// Identity of what images of that reference stand on. `None` while the engine has no such
    /// thing and may not, or cannot, get it.
    async fn base(&self, reference: &str, obtain: bool) -> Result<Option<String>, Error>;

    /// The plain image on a certain base, where the engine can have several; `None` when that base is
    /// not here.
    async fn image_on(&self, _: &build::Base) -> Result<Option<Image>, Error> {
        Ok(None)
    }

    /// Builds the image of a version of a job type, with its packages and shared code; a later
    /// build of it replaces it. When the future is dropped, the build ends and leaves nothing.
    async fn build(&self, plan: &Plan, log: &Log) -> Result<Made, BuildError>;

    /// The built image of a version, if it is here: name and digest of the version.
    async fn find_built(&self, job_type: &str, digest: &str) -> Result<Option<Image>, Error>;

    /// All built images of job types that are here.
    async fn built(&self) -> Result<Vec<BuiltImage>, Error>;

    /// Removes a built image, unless a sandbox uses it; answers whether it is gone.
    async fn remove_built(&self, built: &BuiltImage) -> Result<bool, Error>;

    /// Starts a sandbox; returns when its interpreter waits for a job.
    ///
    /// Nothing is left behind when this fails or its future is dropped.
    async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error>;

    /// Whether the engine can start sandboxes now. Bounded in time by the engine (2 s).
    async fn health(&self) -> Result<(), Error>;

    /// Sandboxes of this installation that exist now, whoever made them. The caller decides
    /// from the labels which are orphans.
    async fn list(&self, installation: &str) -> Result<Vec<(String, SandboxLabels)>, Error>;

    /// Kills and removes a sandbox by the id that [`Engine::list`] gave; gone already is fine.
    async fn remove(&self, sandbox_id: &str) -> Result<(), Error>;

    /// Ends what the engine itself keeps running. Sandboxes are destroyed by their owners first.
    async fn shutdown(&self);
}

/// A started sandbox whose interpreter waits for its only job.
#[async_trait]
pub trait Sandbox: Send {
    /// The engine's name for it (container id, or native sandbox name).
    fn id(&self) -> &str;

    /// From the start of the sandbox to the interpreter being ready.
    fn startup(&self) -> Duration;

    /// Whether the interpreter still waits for its job. Answers at once; a sandbox that died
    /// unheard may still seem to wait.
    fn is_waiting(&mut self) -> bool;

    /// Runs the job and destroys the sandbox: when this returns every process of it is dead, and
    /// the removal of what is left is under way or done.
    ///
    /// `output` receives standard output and error as they come; a receiver that is slow or
    /// gone does not slow the job. `cancel` ends the job early; the report then says so.
    ///
    /// # Errors
    /// Only what is not the job's doing; see [`Error`].
    async fn run(
        self: Box<Self>,
        job: Job,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<Run, Error>;

    /// Destroys the sandbox without running anything.
    async fn destroy(self: Box<Self>);
}

/// An image as it was resolved: the same digest is the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// What was asked for, like `tako-vm/executor:3.11`, or `host` for the host's own Python.
    pub reference: String,
    /// `sha256:<64 hex>`.
    pub digest: String,
}

/// What a sandbox is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxSpec {
    pub image: Image,
    pub limits: SandboxLimits,
    /// Environment of the user's code beside `PATH`, `HOME`, `LANG` and Python's own settings.
    pub environment: BTreeMap<String, String>,
    /// Modules imported before the job arrives.
    pub preload: Vec<String>,
    /// Only of an engine that does not refuse it; see [`Engine::gpu_refusal`].
    pub gpu: Option<GpuRequest>,
    pub startup_timeout: Duration,
    pub labels: SandboxLabels,
}

/// Who a sandbox belongs to; how a reaper on any node knows an orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLabels {
    /// The installation (one event log), so that two on one host leave each other alone.
    pub installation: String,
    pub node_id: String,
    /// Execution id, absent while the sandbox waits in the pool.
    pub execution_id: Option<String>,
    pub lease: Option<i64>,
}

/// Limits of a whole sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SandboxLimits {
    /// Memory including tmpfs and, where the kernel accounts it, swap; bytes.
    pub memory_bytes: u64,
    /// Thousandths of one CPU.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids: u32,
    pub open_files: u32,
    /// One file's size; bytes.
    pub file_bytes: u64,
    /// Size of the `/tmp` and of the `/output` tmpfs, each; bytes.
    pub tmp_bytes: u64,
    pub output_bytes: u64,
    /// Inodes of `/tmp` and of `/output`, each.
    pub inodes: u32,
}

/// The job a sandbox runs.
#[derive(Debug, Clone)]
pub struct Job {
    /// `/code/main.py`.
    pub code: Bytes,
    /// `/input/data.json`.
    pub input: Bytes,
    /// Further files below `/input`; names are checked at the API.
    pub files: Vec<(String, Bytes)>,
    pub secrets: Vec<JobSecret>,
    /// The code's way out; none without it.
    pub egress: Option<Arc<Gate>>,
    pub execution_timeout: Duration,
    pub stdout_limit_bytes: u64,
    pub stderr_limit_bytes: u64,
    pub artifacts: ArtifactLimits,
}

/// A secret that a job gets.
#[derive(Debug, Clone)]
pub struct JobSecret {
    pub name: String,
    pub value: SecretValue,
    pub delivery: Delivery,
}

/// Which of the two streams a chunk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Output as it comes, cut anywhere.
#[derive(Debug, Clone)]
pub struct OutputChunk {
    pub stream: Stream,
    pub bytes: Bytes,
}

/// A job that ran, whatever its end.
#[derive(Debug, Clone)]
pub struct Run {
    /// From the guest, with `oom_killed` and `peak_memory_bytes` completed by the engine.
    pub report: Report,
    /// Kept output, within the limits, cut at a UTF-8 boundary where it was truncated.
    pub stdout: Bytes,
    pub stderr: Bytes,
    /// Collected files of `/output`: path relative to it, and bytes.
    pub artifacts: Vec<(String, Bytes)>,
}

/// What went wrong that is not the job's doing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not answer or refuses work for now; retry later.
    #[error("{engine} engine is unavailable: {message}")]
    Unavailable {
        engine: &'static str,
        message: String,
        /// What it, or a registry behind it, asked to be waited.
        retry_after: Option<Duration>,
    },
    /// The image cannot be had.
    #[error("image {reference} is not available: {message}")]
    Image { reference: String, message: String },
    /// The interpreter did not become ready.
    #[error("sandbox did not start: {}", .0.message)]
    Startup(Fault),
    /// The guest ended a running job with a fault.
    #[error("sandbox failed: {}", .0.message)]
    Guest(Fault),
    /// The sandbox vanished or broke the protocol while the job ran. `oom_killed` when its
    /// cgroup's OOM killer is known to have struck.
    #[error("sandbox was lost: {message}")]
    Lost { message: String, oom_killed: bool },
    /// The host's own backstop ended it: the guest did not answer within its limits.
    #[error("sandbox did not answer within {0:?}")]
    Unresponsive(Duration),
    /// The host refused something the engine needs (namespaces, cgroups, files).
    #[error("{context}")]
    System {
        context: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What was asked to be waited before another try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Image { .. }
            | Self::Startup(_)
            | Self::Guest(_)
            | Self::Lost { .. }
            | Self::Unresponsive(_)
            | Self::System { .. } => None,
        }
    }
}
