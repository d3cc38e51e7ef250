//! The Docker engine against a real daemon, on its default runtime or the one that
//! `TAKO_VM_TEST_RUNTIME` names.

mod daemon;
pub mod images;
mod isolation;
mod jobs;
mod leftovers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tako_guest::protocol::ArtifactLimits;
use tako_vm::cli::server::Chosen;
use tako_vm::engine::docker::{DockerConfig, DockerEngine, RuntimeChoice};
use tako_vm::engine::{Engine, Error, Image, Job, Run, SandboxLabels, SandboxLimits, SandboxSpec};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::Choice;

const MIB: u64 = 1 << 20;

const PAUSE: Duration = Duration::from_millis(200);

/// On the runtime that is tested.
fn config() -> DockerConfig {
    let mut config = DockerConfig::default();
    if let Ok(runtime) = std::env::var("TAKO_VM_TEST_RUNTIME") {
        config.runtime = RuntimeChoice::Named(runtime);
    }
    config
}

/// A daemon that is busy with other tests may take longer to answer than a server has patience for.
async fn connect(config: DockerConfig) -> DockerEngine {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match DockerEngine::connect(config.clone()).await {
            Err(Error::Unavailable { .. }) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            answer => return answer.expect("these tests need a Docker Engine"),
        }
    }
}

/// On the host's own daemon.
pub async fn engine() -> DockerEngine {
    connect(config()).await
}

/// For whole servers.
pub async fn choice() -> Choice {
    let engine = Arc::new(engine().await);
    Arc::new(move |_| Chosen::Docker(Arc::clone(&engine)))
}

/// An engine and an installation of a test's own.
struct Bench {
    engine: DockerEngine,
    spec: SandboxSpec,
}

impl Bench {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: DockerConfig) -> Self {
        let engine = connect(config).await;
        static IMAGE: OnceCell<Image> = OnceCell::const_new();
        let image =
            IMAGE.get_or_init(async || engine.resolve_image("tako-vm/executor:3.11").await.unwrap()).await.clone();
        Self { engine, spec: spec(image) }
    }

    async fn run(&self, job: Job) -> Result<Run, Error> {
        let sandbox = self.engine.start(&self.spec).await?;
        let (output, _) = mpsc::channel(64);
        sandbox.run(job, output, CancellationToken::new()).await
    }

    /// Whether a kernel of its own runs the job, which does a few things its own way.
    fn is_gvisor(&self) -> bool {
        self.engine.runtime() == "runsc"
    }

    async fn left(&self) -> Vec<(String, SandboxLabels)> {
        self.engine.list(&self.spec.labels.installation).await.unwrap()
    }

    /// Every test ends with it.
    async fn end(self) {
        self.engine.shutdown().await;
        assert_eq!(self.left().await, vec![], "sandboxes were left behind");
    }
}

fn spec(image: Image) -> SandboxSpec {
    SandboxSpec {
        image,
        limits: SandboxLimits {
            memory_bytes: 256 * MIB,
            cpu_millis: 1000,
            pids: 64,
            open_files: 256,
            file_bytes: 16 * MIB,
            tmp_bytes: 32 * MIB,
            output_bytes: 32 * MIB,
            inodes: 1000,
        },
        environment: BTreeMap::new(),
        preload: Vec::new(),
        gpu: None,
        startup_timeout: Duration::from_secs(60),
        labels: SandboxLabels {
            installation: format!("test-{}", Uuid::new_v4().simple()),
            node_id: "node-a".to_owned(),
            execution_id: None,
            lease: None,
        },
    }
}

fn job(code: &str) -> Job {
    Job {
        code: Bytes::copy_from_slice(code.as_bytes()),
        input: Bytes::from_static(b"{\"n\": 20}"),
        files: Vec::new(),
        secrets: Vec::new(),
        egress: None,
        execution_timeout: Duration::from_secs(30),
        stdout_limit_bytes: 65536,
        stderr_limit_bytes: 65536,
        artifacts: ArtifactLimits { max_count: 10, max_file_bytes: MIB, max_total_bytes: 4 * MIB },
    }
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
