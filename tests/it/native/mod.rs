//! The native engine with real sandboxes. As root with the host's cgroups, as an ordinary user
//! with what that user may have: each test says what it expects of either.

mod cgroups;
mod isolation;
mod jobs;
mod limits;
pub mod remains;
mod speed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tako_guest::protocol::ArtifactLimits;
use tako_vm::cli::server::Chosen;
use tako_vm::engine::native::{Limit, NativeConfig, NativeEngine};
use tako_vm::engine::{Engine, Error, Image, Job, Run, Sandbox, SandboxLabels, SandboxLimits, SandboxSpec};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::world::Choice;

/// For whole servers.
pub fn choice() -> Choice {
    Arc::new(|_| {
        let config = NativeConfig { max_cells: 4, ..NativeConfig::default() };
        Chosen::Native(Arc::new(NativeEngine::new(config).unwrap()))
    })
}

/// An engine whose cells no other test knows of.
struct Fixture {
    engine: NativeEngine,
    image: Image,
    runtime_dir: TempDir,
}

impl Fixture {
    async fn new(max_cells: usize) -> Self {
        let runtime_dir = tempfile::tempdir().unwrap();
        let config =
            NativeConfig { max_cells, runtime_dir: Some(runtime_dir.path().to_owned()), ..NativeConfig::default() };
        let engine = NativeEngine::new(config).unwrap();
        let image = engine.resolve_image("host").await.unwrap();
        Self { engine, image, runtime_dir }
    }

    fn spec(&self) -> SandboxSpec {
        SandboxSpec {
            image: self.image.clone(),
            limits: LIMITS,
            environment: BTreeMap::new(),
            preload: Vec::new(),
            gpu: None,
            startup_timeout: Duration::from_secs(20),
            labels: labels(),
        }
    }

    async fn start(&self) -> Box<dyn Sandbox> {
        self.engine.start(&self.spec()).await.unwrap()
    }

    /// Runs code in a sandbox of its own.
    async fn run(&self, code: &str) -> Run {
        self.try_run(job(code), self.spec()).await.unwrap()
    }

    async fn try_run(&self, job: Job, spec: SandboxSpec) -> Result<Run, Error> {
        let sandbox = self.engine.start(&spec).await?;
        sandbox.run(job, mpsc::channel(64).0, CancellationToken::new()).await
    }

    /// Standard output of code that must succeed.
    async fn print(&self, code: &str) -> String {
        let run = self.run(code).await;
        assert_eq!(text(&run.stderr), "", "{code}");
        text(&run.stdout).trim_end().to_owned()
    }

    fn limits(&self, limit: Limit) -> bool {
        !self.engine.capabilities().missing_limits.contains(&limit)
    }
}

const LIMITS: SandboxLimits = SandboxLimits {
    memory_bytes: 256 << 20,
    cpu_millis: 2000,
    pids: 64,
    open_files: 256,
    file_bytes: 64 << 20,
    tmp_bytes: 32 << 20,
    output_bytes: 32 << 20,
    inodes: 1000,
};

fn labels() -> SandboxLabels {
    SandboxLabels {
        installation: "tests".into(),
        node_id: "node".into(),
        execution_id: Some("execution".into()),
        lease: Some(1),
    }
}

fn job(code: &str) -> Job {
    Job {
        code: Bytes::copy_from_slice(code.as_bytes()),
        input: Bytes::from_static(b"{}"),
        files: Vec::new(),
        secrets: Vec::new(),
        egress: None,
        execution_timeout: Duration::from_secs(30),
        stdout_limit_bytes: 64 << 10,
        stderr_limit_bytes: 64 << 10,
        artifacts: ArtifactLimits { max_count: 10, max_file_bytes: 1 << 20, max_total_bytes: 4 << 20 },
    }
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn is_root() -> bool {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() == 0 }
}
