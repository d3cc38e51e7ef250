//! The Docker engine beside the raw Engine API, in one run on one machine.
//!
//! `cargo bench --bench docker_engine [rounds]` prints, for `print(1)`: the raw API's
//! create + start + wait + remove of `python3 -c`, our start + run, the hand-off to a
//! sandbox started before, and jobs per second of both at 1, 2 and 4 in flight.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that panics says where"
)]

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
use tako_vm::engine::{Engine, Job, Sandbox, SandboxLabels, SandboxLimits, SandboxSpec};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

struct Contest {
    docker: Docker,
    engine: DockerEngine,
    spec: SandboxSpec,
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(30);
    let contest = Arc::new(Contest::new().await?);
    for _ in 0..3 {
        contest.raw().await?;
        contest.ours().await?;
    }

    let (mut raw, mut ours, mut starts, mut hand_offs) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let begun = Instant::now();
        contest.raw().await?;
        raw.push(begun.elapsed());

        let begun = Instant::now();
        let sandbox = contest.engine.start(&contest.spec).await?;
        starts.push(begun.elapsed());
        let handed = Instant::now();
        finish(sandbox).await?;
        hand_offs.push(handed.elapsed());
        ours.push(begun.elapsed());
        // Removal goes on behind the answer and would slow the next raw round.
        contest.engine.shutdown().await;
    }
    println!("{rounds} rounds of print(1), p50 / p99:");
    row("raw API create+start+wait+remove", &mut raw);
    row("engine start+run", &mut ours);
    row("  start", &mut starts);
    row("  run in a sandbox started before", &mut hand_offs);

    for in_flight in [1, 2, 4] {
        let ours = rate(&contest, in_flight, rounds, true).await?;
        let raw = rate(&contest, in_flight, rounds, false).await?;
        println!("{in_flight} in flight: raw {raw:.1}/s, engine {ours:.1}/s, ratio {:.2}", ours / raw);
    }
    Ok(())
}

impl Contest {
    async fn new() -> Result<Self> {
        let engine = DockerEngine::connect(DockerConfig::default()).await?;
        let image = engine.resolve_image("tako-vm/executor").await?;
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
            startup_timeout: Duration::from_secs(60),
            labels,
        };
        let docker = Docker::connect_with_defaults()?.negotiate_version().await?;
        Ok(Self { docker, engine, spec })
    }

    async fn raw(&self) -> Result<()> {
        raw_engine_api::run(&self.docker, &self.spec.image.digest).await
    }

    async fn ours(&self) -> Result<()> {
        finish(self.engine.start(&self.spec).await?).await
    }
}

async fn finish(sandbox: Box<dyn Sandbox>) -> Result<()> {
    let job = Job {
        code: Bytes::from_static(b"print(1)"),
        input: Bytes::from_static(b"{}"),
        files: Vec::new(),
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
                if ours { contest.ours().await? } else { contest.raw().await? }
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    contest.engine.shutdown().await;
    Ok(jobs as f64 / begun.elapsed().as_secs_f64())
}

fn row(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    println!("{name:34} {:7.1} / {:7.1} ms", at(0.5), at(0.99));
}
