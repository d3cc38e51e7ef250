//! Each engine beside what a program without it would do, in one run on one machine.
//!
//! `cargo bench --bench engine [rounds] [docker|native]...` prints, for `print(1)`: the reference,
//! our start + run, the hand-off to a sandbox started before, and jobs per second of both at 1, 2
//! and 4 in flight. The references are the raw Engine API's create + start + wait + remove of
//! `python3 -c`, and for the native engine `python3 -c` on the host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that panics says where"
)]

#[path = "support/bare_python.rs"]
mod bare_python;
#[path = "support/raw_engine_api.rs"]
mod raw_engine_api;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bollard::Docker;
use bytes::Bytes;
use tako_guest::protocol::{ArtifactLimits, End};
use tako_vm::engine::docker::{DockerConfig, DockerEngine};
use tako_vm::engine::native::{NativeConfig, NativeEngine};
use tako_vm::engine::{Engine, Job, Sandbox, SandboxLabels, SandboxLimits, SandboxSpec};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What an engine is measured against.
enum Reference {
    RawEngineApi(Docker),
    BarePython,
}

struct Contest {
    reference: Reference,
    engine: Arc<dyn Engine>,
    spec: SandboxSpec,
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(100);
    let named: Vec<String> = std::env::args().filter(|word| word == "docker" || word == "native").collect();
    for name in ["native", "docker"] {
        if !named.is_empty() && !named.iter().any(|wanted| wanted == name) {
            continue;
        }
        match Contest::new(name).await {
            Ok(contest) => Arc::new(contest).hold(name, rounds).await?,
            Err(error) => println!("{name}: skipped, {error:#}"),
        }
    }
    Ok(())
}

impl Contest {
    async fn new(name: &str) -> Result<Self> {
        let (reference, engine, image): (_, Arc<dyn Engine>, _) = if name == "docker" {
            let docker = Docker::connect_with_defaults()?.negotiate_version().await?;
            let engine = DockerEngine::connect(DockerConfig::default()).await?;
            (Reference::RawEngineApi(docker), Arc::new(engine), "tako-vm/executor")
        } else {
            (Reference::BarePython, Arc::new(NativeEngine::new(NativeConfig::default())?), "host")
        };
        let image = engine.resolve_image(image).await?;
        let limits = SandboxLimits {
            memory_bytes: 256 << 20,
            cpu_millis: 1000,
            pids: 64,
            open_files: 256,
            file_bytes: 16 << 20,
            tmp_bytes: 32 << 20,
            output_bytes: 32 << 20,
            inodes: 1000,
        };
        let labels = SandboxLabels {
            installation: format!("bench-{}", std::process::id()),
            node_id: "bench".to_owned(),
            execution_id: None,
            lease: None,
        };
        let spec = SandboxSpec {
            image,
            limits,
            environment: BTreeMap::new(),
            preload: Vec::new(),
            gpu: None,
            startup_timeout: Duration::from_secs(60),
            labels,
        };
        Ok(Self { reference, engine, spec })
    }

    async fn hold(self: Arc<Self>, name: &str, rounds: usize) -> Result<()> {
        for _ in 0..3 {
            self.refer().await?;
            self.ours().await?;
        }
        let (mut reference, mut ours, mut starts, mut hand_offs) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            let begun = Instant::now();
            self.refer().await?;
            reference.push(begun.elapsed());

            let begun = Instant::now();
            let sandbox = self.engine.start(&self.spec).await?;
            starts.push(begun.elapsed());
            let handed = Instant::now();
            finish(sandbox).await?;
            hand_offs.push(handed.elapsed());
            ours.push(begun.elapsed());
            // Removal goes on behind the answer and would slow the next reference.
            self.settle().await;
        }
        println!("{name}: {rounds} rounds of print(1)      p50 /     p99      p50 against the reference");
        let against = row(self.reference.name(), &mut reference, None);
        row("engine start+run", &mut ours, Some(against));
        row("  start", &mut starts, Some(against));
        row("  run in a sandbox started before", &mut hand_offs, Some(against));

        for in_flight in [1, 2, 4] {
            let ours = rate(&self, in_flight, rounds * 2, true).await?;
            let reference = rate(&self, in_flight, rounds * 2, false).await?;
            let ratio = ours / reference;
            println!("  {in_flight} in flight: reference {reference:.1}/s, engine {ours:.1}/s, ratio {ratio:.2}");
        }
        self.engine.shutdown().await;
        Ok(())
    }

    /// Once what the reference is.
    async fn refer(&self) -> Result<()> {
        match &self.reference {
            Reference::RawEngineApi(docker) => raw_engine_api::run(docker, &self.spec.image.digest).await,
            Reference::BarePython => bare_python::run().await,
        }
    }

    async fn ours(&self) -> Result<()> {
        finish(self.engine.start(&self.spec).await?).await
    }

    /// Waits for what an engine does behind its answer.
    async fn settle(&self) {
        match self.reference {
            // Of a Docker engine this waits for removals and leaves it usable.
            Reference::RawEngineApi(_) => self.engine.shutdown().await,
            Reference::BarePython => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Reference {
    fn name(&self) -> &'static str {
        match self {
            Self::RawEngineApi(_) => "raw API create+start+wait+remove",
            Self::BarePython => "python3 -c on the host",
        }
    }
}

async fn finish(sandbox: Box<dyn Sandbox>) -> Result<()> {
    let job = Job {
        code: Bytes::from_static(b"print(1)"),
        input: Bytes::from_static(b"{}"),
        files: Vec::new(),
        secrets: Vec::new(),
        egress: None,
        execution_timeout: Duration::from_secs(30),
        stdout_limit_bytes: 65536,
        stderr_limit_bytes: 65536,
        artifacts: ArtifactLimits { max_count: 8, max_file_bytes: 1 << 20, max_total_bytes: 1 << 20 },
    };
    let (output, _) = mpsc::channel(16);
    let run = sandbox.run(job, output, CancellationToken::new()).await?;
    ensure!(run.report.end == End::Exited { code: 0 } && run.stdout == "1\n", "{run:?}");
    Ok(())
}

/// Jobs per second, until the last one's removal.
async fn rate(contest: &Arc<Contest>, in_flight: usize, jobs: usize, ours: bool) -> Result<f64> {
    let begun = Instant::now();
    let taken = Arc::new(AtomicUsize::new(0));
    let workers = (0..in_flight).map(|_| {
        let (contest, taken) = (Arc::clone(contest), Arc::clone(&taken));
        tokio::spawn(async move {
            while taken.fetch_add(1, Ordering::Relaxed) < jobs {
                if ours { contest.ours().await? } else { contest.refer().await? }
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    contest.settle().await;
    Ok(jobs as f64 / begun.elapsed().as_secs_f64())
}

/// Prints a row; answers its p50 in milliseconds.
fn row(name: &str, times: &mut [Duration], against: Option<f64>) -> f64 {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    let ratio = against.map(|against| format!("{:.2} ×", at(0.5) / against)).unwrap_or_default();
    println!("  {name:34} {:7.1} / {:7.1} ms   {ratio}", at(0.5), at(0.99));
    at(0.5)
}
