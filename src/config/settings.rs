//! The schema: every section with its fields, units and defaults. Bounds are in `check`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::blobs::Blobs;
use super::build::Build;
use super::concurrency::{Concurrency, Node};
use super::job_type::{self, JobType};
use super::retention::Retention;
use super::retry::Retry;
use super::role::Role;
use super::schedules::Schedules;
use super::secret::{DatabaseUrl, Secret};
use super::units::{bytes, seconds};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Refuses what only suits development: the embedded database cluster.
    pub production_mode: bool,
    pub role: Role,
    pub security_mode: SecurityMode,
    pub engine: EngineChoice,
    /// OCI runtime of the Docker engine: `auto`, `runc`, `runsc`, or another that it knows.
    /// `auto` takes `runsc` where the engine has it, else the engine's default.
    pub container_runtime: String,
    /// Where blobs' scratch files and the development cluster live. Once loaded it is absolute.
    pub data_dir: PathBuf,
    /// PostgreSQL; empty means the development cluster in `data_dir`.
    pub database_url: DatabaseUrl,
    /// Jobs that run at the same time on this node.
    pub max_workers: u32,
    /// Jobs that may wait; beyond it a submission is answered 503.
    pub max_queue_size: u32,
    /// Time limit of the code for job types that state none.
    #[serde(with = "seconds")]
    pub default_timeout: Duration,
    /// Whether a submission may bring requirements that are installed for it.
    pub allow_runtime_requirements: bool,
    pub server: Server,
    /// Empty means no authentication, which only a loopback address may have.
    pub api_keys: Vec<ApiKey>,
    pub rate_limit: RateLimit,
    pub docker: Docker,
    pub native: Native,
    pub build: Build,
    pub pool: Pool,
    pub limits: Limits,
    pub container_limits: ContainerLimits,
    pub queue: Queue,
    pub concurrency: Concurrency,
    pub node: Node,
    pub leases: Leases,
    pub retry: Retry,
    pub schedules: Schedules,
    pub retention: Retention,
    pub blobs: Blobs,
    pub audit: Audit,
    pub secrets: Secrets,
    pub log: Log,
    /// By name; the built-in ones unless redefined, and those of `job_types/*.yaml`.
    // Decoded as empty: `decode` adds the built-in ones, fitted to the limits.
    #[serde(default)]
    pub job_types: BTreeMap<String, JobType>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            production_mode: false,
            role: Role::All,
            security_mode: SecurityMode::Permissive,
            engine: EngineChoice::Auto,
            container_runtime: "auto".to_owned(),
            data_dir: PathBuf::new(),
            database_url: DatabaseUrl::default(),
            max_workers: 4,
            max_queue_size: 10_000,
            default_timeout: Duration::from_secs(30),
            allow_runtime_requirements: false,
            server: Server::default(),
            api_keys: Vec::new(),
            rate_limit: RateLimit::default(),
            docker: Docker::default(),
            native: Native::default(),
            build: Build::default(),
            pool: Pool::default(),
            limits: Limits::default(),
            container_limits: ContainerLimits::default(),
            queue: Queue::default(),
            concurrency: Concurrency::default(),
            node: Node::default(),
            leases: Leases::default(),
            retry: Retry::default(),
            schedules: Schedules::default(),
            retention: Retention::default(),
            blobs: Blobs::default(),
            audit: Audit::default(),
            secrets: Secrets::default(),
            log: Log::default(),
            job_types: job_type::built_in(),
        }
    }
}

/// How much isolation is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityMode {
    /// Runs nothing without gVisor (`runsc`).
    Strict,
    /// Runs on what there is, and records on each execution what that was.
    Permissive,
}

/// Which engine runs the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// Docker where an engine answers, else native.
    Auto,
    Docker,
    Native,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    pub host: Host,
    /// 0 takes a free port.
    pub port: u16,
    /// Threads that answer HTTP.
    pub http_workers: u32,
    /// How long a stopping server lets running jobs finish.
    #[serde(with = "seconds")]
    pub shutdown_grace: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self { host: Host::default(), port: 8000, http_workers: 2, shutdown_grace: Duration::from_secs(30) }
    }
}

/// An address to listen on: an IP address, or the word `localhost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Host(pub IpAddr);

impl Default for Host {
    fn default() -> Self {
        Self(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl std::str::FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "localhost" {
            return Ok(Self::default());
        }
        text.parse().map(Self).map_err(|_| format!("{text:?} is neither an IP address nor localhost"))
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One caller's key. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKey {
    /// For people; unique.
    pub name: String,
    /// SHA-256 of the key, 64 lowercase hex digits.
    pub sha256: Secret,
    /// Whose jobs the key sees.
    pub tenant: String,
    pub scopes: Vec<Scope>,
}

impl Default for ApiKey {
    fn default() -> Self {
        Self {
            name: String::new(),
            sha256: Secret::default(),
            tenant: "default".to_owned(),
            scopes: vec![Scope::Submit, Scope::Read],
        }
    }
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Submit, cancel, rerun, fork and replay jobs.
    Submit,
    /// Read records, events, output and artifacts.
    Read,
    /// Builds, audit and the log of all tenants (`GET /events`). Records stay the tenant's own.
    Admin,
}

/// Requests allowed per client address, counted before authentication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimit {
    /// Sustained rate; 0 means no limit.
    pub requests_per_minute: u32,
    /// Requests that may come at once.
    pub burst: u32,
    /// Whether clients on this host are not counted.
    pub exempt_loopback: bool,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { requests_per_minute: 6_000, burst: 1_000, exempt_loopback: true }
    }
}

/// The Docker engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Docker {
    /// `unix:///…`, `tcp://…`; empty means `DOCKER_HOST`, else the local socket.
    pub host: String,
    /// Repository of the sandbox images; the Python version is the tag.
    pub image: String,
    #[serde(with = "seconds")]
    pub connect_timeout: Duration,
    #[serde(with = "seconds")]
    pub pull_timeout: Duration,
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            host: String::new(),
            image: "tako-vm/executor".to_owned(),
            connect_timeout: Duration::from_secs(5),
            pull_timeout: Duration::from_secs(300),
        }
    }
}

/// The native engine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Native {
    /// Interpreter of the sandboxes; empty means the first `python3` on `PATH`.
    pub python: PathBuf,
    /// Unpacked image that sandboxes see as `/`; empty means the host's own libraries.
    pub root: PathBuf,
}

/// Sandboxes started ahead of their jobs, for each job type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    pub min_idle: u32,
    pub max_idle: u32,
    /// An idle sandbox older than this is replaced.
    #[serde(with = "seconds")]
    pub max_age: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self { min_idle: 1, max_idle: 4, max_age: Duration::from_secs(300) }
    }
}

/// What one submission may bring and one job may give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    #[serde(with = "bytes")]
    pub max_code_bytes: u64,
    #[serde(with = "bytes")]
    pub max_input_bytes: u64,
    /// A whole HTTP request body.
    #[serde(with = "bytes")]
    pub max_body_bytes: u64,
    #[serde(with = "bytes")]
    pub max_stdout_bytes: u64,
    #[serde(with = "bytes")]
    pub max_stderr_bytes: u64,
    /// One file of `/output`.
    #[serde(with = "bytes")]
    pub max_artifact_bytes: u64,
    #[serde(with = "bytes")]
    pub max_artifacts_total_bytes: u64,
    pub max_artifacts: u32,
    /// Input files beside `data.json`.
    pub max_files: u32,
    pub max_requirements: u32,
    /// Jobs of one `POST /jobs/batch`.
    pub max_batch: u32,
    #[serde(with = "seconds")]
    pub min_timeout: Duration,
    #[serde(with = "seconds")]
    pub max_timeout: Duration,
    #[serde(with = "seconds")]
    pub min_startup_timeout: Duration,
    #[serde(with = "seconds")]
    pub max_startup_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_code_bytes: 100 * KIB,
            max_input_bytes: MIB,
            max_body_bytes: 2 * MIB,
            max_stdout_bytes: 64 * KIB,
            max_stderr_bytes: 64 * KIB,
            max_artifact_bytes: 10 * MIB,
            max_artifacts_total_bytes: 50 * MIB,
            max_artifacts: 100,
            max_files: 64,
            max_requirements: 50,
            max_batch: 1_000,
            min_timeout: Duration::from_millis(100),
            max_timeout: Duration::from_secs(300),
            min_startup_timeout: Duration::from_secs(10),
            max_startup_timeout: Duration::from_secs(600),
        }
    }
}

/// Limits of every sandbox that a job type does not choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerLimits {
    /// Open files of one process.
    pub nofile_soft: u32,
    /// Processes and threads.
    pub pids: u32,
    /// One file.
    #[serde(with = "bytes")]
    pub file_size: u64,
    /// The tmpfs on `/tmp`.
    #[serde(with = "bytes")]
    pub tmp_size: u64,
    /// The tmpfs on `/output`.
    #[serde(with = "bytes")]
    pub output_size: u64,
    /// Files and folders on each tmpfs.
    pub inodes: u32,
}

impl Default for ContainerLimits {
    fn default() -> Self {
        Self {
            nofile_soft: 1024,
            pids: 128,
            file_size: 64 * MIB,
            tmp_size: 64 * MIB,
            output_size: 64 * MIB,
            inodes: 16_384,
        }
    }
}

/// How slots take jobs from the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Jobs claimed by one statement.
    pub claim_batch: u32,
    /// How often to look when nothing wakes the queue.
    #[serde(with = "seconds")]
    pub poll_interval: Duration,
    /// So much waiting counts as one priority more; 0: none does.
    #[serde(with = "seconds")]
    pub ageing: Duration,
    /// How long a node without a job type's image leaves its jobs to those that have it.
    #[serde(with = "seconds")]
    pub warm_grace: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            claim_batch: 16,
            poll_interval: Duration::from_secs(1),
            ageing: Duration::from_secs(60),
            warm_grace: Duration::from_secs(1),
        }
    }
}

/// When a node is taken for dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leases {
    #[serde(with = "seconds")]
    pub heartbeat: Duration,
    #[serde(with = "seconds")]
    pub dead_after: Duration,
    /// How much longer than a job's own limits an engine may take before its attempt is given up.
    #[serde(with = "seconds")]
    pub hung_after: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            dead_after: Duration::from_secs(10),
            hung_after: Duration::from_secs(120),
        }
    }
}

/// How the log is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// A seal is made once so many events are not sealed, and covers no more.
    pub seal_every_events: u32,
    /// A seal is made once an event has waited so long for one.
    #[serde(with = "seconds")]
    pub seal_every: Duration,
    /// The Ed25519 key that signs seals; empty means `audit.key` in `data_dir`, which is made if it
    /// is not there. In production it must be named.
    pub signing_key_file: PathBuf,
    /// Public keys of other nodes, and of keys that are no longer used, whose seals are right.
    pub trusted_key_files: Vec<PathBuf>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            seal_every_events: 10_000,
            seal_every: Duration::from_secs(10),
            signing_key_file: PathBuf::new(),
            trusted_key_files: Vec::new(),
        }
    }
}

/// The key under which the tenants' secrets lie in the database. Without one there are no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Secrets {
    /// 64 hexadecimal digits; best given as `TAKO_VM_SECRETS__KEY` in the environment.
    pub key: Secret,
    /// A file that holds it, closed to all but its owner; instead of `key`.
    pub key_file: PathBuf,
}

/// What the server says to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    pub format: LogFormat,
    /// A level, or a filter such as `info,tako_vm::actors=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}
