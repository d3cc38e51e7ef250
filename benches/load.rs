//! The whole service under load: `cargo bench --bench load [-- seconds-per-step] [section...]`, where
//! a section is `scripted`, `native`, `cold` or `docker`.
//!
//! For each engine that works here a server with a PostgreSQL of its own (default durability) is
//! driven over HTTP, and the references run on the same machine in the same run: a bare
//! `python3 -c` loop, and the raw Docker Engine API. Prints one table; a line is a claim, and
//! its last column says against what.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that panics says where"
)]

#[path = "support/bare_python.rs"]
mod bare_python;
#[path = "../tests/it/db.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod db;
#[path = "support/raw_engine_api.rs"]
mod raw_engine_api;
#[path = "../tests/it/world.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod world;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tako_vm::cli::server::{Chosen, choose};
use tako_vm::config::{Config, EngineChoice};
use tako_vm::domain::EventKind;
use tako_vm::engine::Engine;
use tako_vm::engine::docker::{DockerConfig, DockerEngine};
use world::{Choice, World, scripted};

/// Requests in flight where throughput is measured.
const IN_FLIGHT: usize = 4;

const SECTIONS: [&str; 4] = ["scripted", "native", "cold", "docker"];

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(8_u64);
    let step = Duration::from_secs(seconds);
    let named: Vec<String> = std::env::args().skip(1).filter(|word| SECTIONS.contains(&word.as_str())).collect();
    let wanted = |section: &str| named.is_empty() || named.iter().any(|name| name == section);
    let cluster = db::Cluster::start(&["max_wal_size=4GB", "shared_buffers=256MB"]);
    println!("{:<58} {:>9} {:>9} {:>9}   against", "", "p50 ms", "p99 ms", "per s");

    let bare = Figures::of(1, step, bare_python::run).await?;
    bare.print("bare python3 -c 'print(1)', one at a time", "");
    let bare_loop = Figures::of(2, step, bare_python::run).await?;
    bare_loop.print("bare python3 -c 'print(1)', 2 in flight", "");

    if wanted("scripted") {
        let world = World::start_on(db::fresh_on(&cluster).await, many_workers, scripted());
        scripted_figures(&world, step).await?;
    }
    let mut native = None;
    if wanted("native") {
        let world = World::start_on(db::fresh_on(&cluster).await, workers, real(EngineChoice::Native));
        native = Some(service_figures(&world, "native", step, &bare, &bare_loop, "bare loop").await?);
    }
    // What the pool gives and costs.
    if wanted("cold") {
        let world = World::start_on(db::fresh_on(&cluster).await, workers_without_pool, real(EngineChoice::Native));
        service_figures(&world, "native without pool", step, &bare, &bare_loop, "bare loop").await?;
    }
    if wanted("docker") {
        match raw_docker(step).await {
            Ok((raw, raw_loop)) => {
                let world = World::start_on(db::fresh_on(&cluster).await, workers, real(EngineChoice::Docker));
                let docker = service_figures(&world, "docker", step, &raw, &raw_loop, "raw API loop").await?;
                if let Some(native) = native {
                    println!("native / docker throughput: {:.1} ×", native.per_second / docker.per_second);
                }
            }
            Err(error) => println!("docker: skipped, {error:#}"),
        }
    }
    Ok(())
}

fn many_workers(config: &mut Config) {
    config.max_workers = 64;
    // What is submitted is to be measured, not what is refused.
    config.max_queue_size = 10_000_000;
}

fn workers(config: &mut Config) {
    config.max_workers = IN_FLIGHT as u32;
    config.pool.min_idle = IN_FLIGHT as u32;
}

fn workers_without_pool(config: &mut Config) {
    workers(config);
    (config.pool.min_idle, config.pool.max_idle) = (0, 0);
}

fn real(engine: EngineChoice) -> Choice {
    Arc::new(move |config| {
        let config = Config { engine, ..config.clone() };
        let chosen = tokio::runtime::Handle::current().block_on(choose(&config));
        chosen.unwrap_or_else(|error: anyhow::Error| panic!("{error:#}")) as Chosen
    })
}

/// What of a step is printed.
struct Figures {
    p50: Duration,
    p99: Duration,
    per_second: f64,
}

impl Figures {
    /// Repeats a task with so many in flight for that long.
    async fn of<F>(in_flight: usize, step: Duration, task: impl Fn() -> F + Clone + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        for _ in 0..in_flight.min(4) * 2 {
            task().await?;
        }
        let begun = Instant::now();
        let workers = (0..in_flight).map(|_| {
            let task = task.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < step {
                    let start = Instant::now();
                    task().await?;
                    times.push(start.elapsed());
                }
                anyhow::Ok(times)
            })
        });
        let mut times = Vec::new();
        for worker in futures::future::join_all(workers).await {
            times.extend(worker??);
        }
        Self::from(times, begun.elapsed().as_secs_f64())
    }

    /// One at a time, begun in this interval or as soon as the one before has ended.
    async fn paced<F>(interval: Duration, step: Duration, task: impl Fn() -> F) -> Result<Self>
    where
        F: Future<Output = Result<()>>,
    {
        let begun = Instant::now();
        let mut times = Vec::new();
        let mut beat = tokio::time::interval(interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while begun.elapsed() < step {
            beat.tick().await;
            let start = Instant::now();
            task().await?;
            times.push(start.elapsed());
        }
        Self::from(times, begun.elapsed().as_secs_f64())
    }

    fn from(mut times: Vec<Duration>, seconds: f64) -> Result<Self> {
        ensure!(!times.is_empty(), "nothing was done in {seconds} s");
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Ok(Self { p50: at(0.5), p99: at(0.99), per_second: times.len() as f64 / seconds })
    }

    fn print(&self, name: &str, against: &str) {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!("{name:<58} {:>9.2} {:>9.2} {:>9.1}   {against}", ms(self.p50), ms(self.p99), self.per_second);
    }
}

async fn raw_docker(step: Duration) -> Result<(Figures, Figures)> {
    let engine = DockerEngine::connect(DockerConfig::default()).await?;
    let image = engine.resolve_image("tako-vm/executor").await?.digest;
    let docker = bollard::Docker::connect_with_defaults()?.negotiate_version().await?;
    let task = move || {
        let (docker, image) = (docker.clone(), image.clone());
        async move { raw_engine_api::run(&docker, &image).await }
    };
    let raw = Figures::of(1, step, task.clone()).await?;
    raw.print("raw Engine API create+start+wait+remove", "");
    let raw_loop = Figures::of(IN_FLIGHT, step, task).await?;
    raw_loop.print(&format!("raw Engine API loop, {IN_FLIGHT} in flight"), "");
    Ok((raw, raw_loop))
}

/// A client's call that runs a job and waits for its result.
fn execute(world: &World) -> impl Fn() -> futures::future::BoxFuture<'static, Result<()>> + Clone + Send + 'static {
    let (http, url) = (world.http.clone(), format!("{}/execute", world.url));
    move || {
        let (http, url) = (http.clone(), url.clone());
        Box::pin(async move {
            let answer: Value =
                http.post(url).json(&json!({"code": "print(1+1)"})).send().await?.error_for_status()?.json().await?;
            ensure!(answer["success"] == true, "{answer}");
            Ok(())
        })
    }
}

async fn service_figures(
    world: &World,
    name: &str,
    step: Duration,
    one: &Figures,
    many: &Figures,
    against: &str,
) -> Result<Figures> {
    // The first job brings the image and fills the pool.
    execute(world)().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let alone = Figures::of(1, step, execute(world)).await?;
    let ratio = alone.p50.as_secs_f64() / one.p50.as_secs_f64();
    alone.print(&format!("POST /execute print(1+1), {name}, one at a time"), &format!("{ratio:.2} × {against}"));
    // The pool refills behind the answer, so a client without a pause between its jobs measures that.
    let pause = 2.0 / alone.per_second;
    let since = world.store().last_position().await?;
    let warm = Figures::paced(Duration::from_secs_f64(pause), step, execute(world)).await?;
    let ratio = warm.p50.as_secs_f64() / one.p50.as_secs_f64();
    warm.print(&format!("POST /execute print(1+1), {name}, at half that rate"), &format!("{ratio:.2} × {against}"));
    for (from, to, what) in [
        (EventKind::JobSubmitted, EventKind::ExecutionStarted, "of it from the submission to the start"),
        (EventKind::ExecutionStarted, EventKind::ExecutionSucceeded, "of it from the start to the end"),
    ] {
        between(world, since, from, to).await?.print(&format!("  {what}"), "");
    }
    let loaded = Figures::of(IN_FLIGHT, step, execute(world)).await?;
    let ratio = loaded.per_second / many.per_second;
    loaded
        .print(&format!("POST /execute print(1+1), {name}, {IN_FLIGHT} in flight"), &format!("{ratio:.2} × {against}"));
    let (_, stats) = world.get("/pool/stats").await;
    println!("  pool: {}", stats["warm_pool"]);
    Ok(loaded)
}

/// Everything but the sandbox.
async fn scripted_figures(world: &World, step: Duration) -> Result<()> {
    Figures::of(1, step, execute(world)).await?.print("POST /execute, scripted, one at a time", "");
    let pause = Duration::from_millis(30);
    Figures::paced(pause, step, execute(world)).await?.print("POST /execute, scripted, one in 30 ms", "");
    Figures::of(64, step, execute(world)).await?.print("POST /execute, scripted, 64 in flight", "");
    pickup(world).await?;

    let (http, url) = (world.http.clone(), world.url.clone());
    let single = {
        let (http, url) = (http.clone(), url.clone());
        move || {
            let (http, url) = (http.clone(), url.clone());
            async move {
                let body = json!({"code": "print 1"});
                http.post(format!("{url}/jobs")).json(&body).send().await?.error_for_status()?;
                Ok(())
            }
        }
    };
    Figures::of(64, step / 2, single)
        .await?
        .print("POST /jobs, scripted, 64 in flight (jobs run meanwhile)", "bar 3,000/s");
    settle(world).await?;

    let accepted = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let batch = json!({"jobs": vec![json!({"code": "print 1"}); 250]});
    let clients = (0..4).map(|_| {
        let (http, url, batch, accepted) = (http.clone(), url.clone(), batch.clone(), Arc::clone(&accepted));
        tokio::spawn(async move {
            while begun.elapsed() < step / 2 {
                let answer = http.post(format!("{url}/jobs/batch")).json(&batch).send().await?;
                if answer.status().as_u16() == 503 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                let answer: Value = answer.error_for_status()?.json().await?;
                ensure!(answer["refused"] == 0, "{answer}");
                accepted.fetch_add(250, Ordering::Relaxed);
            }
            anyhow::Ok(())
        })
    });
    for client in futures::future::join_all(clients).await {
        client??;
    }
    let submitted = accepted.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{:<58} {:>9} {:>9} {submitted:>9.1}   bar 20,000/s",
        "POST /jobs/batch of 250, scripted, 4 in flight", "", ""
    );
    settle(world).await?;
    let lifecycles = accepted.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{:<58} {:>9} {:>9} {lifecycles:>9.1}   bar 8,000/s",
        "durable lifecycles of these, to the last end", "", ""
    );
    Ok(())
}

/// From the submission to the claim, on a queue that is otherwise empty.
async fn pickup(world: &World) -> Result<()> {
    let since = world.store().last_position().await?;
    for _ in 0..100 {
        execute(world)().await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pickup = between(world, since, EventKind::JobSubmitted, EventKind::JobDequeued).await?;
    pickup.print("queue pickup, idle system", "bar 5 / 25 ms");
    Ok(())
}

/// The time from one event of a job to another, of all jobs since a position.
async fn between(world: &World, since: i64, from: EventKind, to: EventKind) -> Result<Figures> {
    let mut begun = std::collections::HashMap::new();
    let mut times = Vec::new();
    let mut after = since;
    loop {
        let events = world.store().log_events(after, &[from, to], 1000).await?;
        let Some(last) = events.last() else { break };
        after = last.position;
        for event in events {
            let envelope = event.envelope()?;
            let at = envelope.recorded_at;
            if envelope.event.kind() == from {
                begun.insert(envelope.stream_id, at);
            } else if let Some(from) = begun.get(&envelope.stream_id) {
                times.push((at - *from).to_std().unwrap_or_default());
            }
        }
    }
    let seconds = times.iter().sum::<Duration>().as_secs_f64();
    Figures::from(times, seconds)
}

/// Waits until no job is waiting or running.
async fn settle(world: &World) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let (_, stats) = world.get("/pool/stats").await;
        if stats["pending"] == 0 && stats["running"] == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the queue did not become empty")
}
