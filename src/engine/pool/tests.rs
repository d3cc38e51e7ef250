//! The pool's laws, on sandboxes that are nothing but a flag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::build::{BuildError, BuiltImage, Log, Made, Plan};
use crate::engine::{Image, Job, Kind, OutputChunk, Run, SandboxLimits};

#[derive(Default)]
struct Flags {
    started: AtomicUsize,
    alive: AtomicUsize,
    refuses: AtomicBool,
    /// What every idle sandbox says of itself.
    dead: Arc<AtomicBool>,
}

struct FlagEngine(Arc<Flags>);

struct FlagSandbox {
    id: String,
    flags: Arc<Flags>,
}

#[async_trait]
impl Engine for FlagEngine {
    fn kind(&self) -> Kind {
        Kind::Scripted
    }

    fn runtime(&self) -> &str {
        "flags"
    }

    async fn resolve_image(&self, _: &str) -> Result<Image, Error> {
        Err(Error::Unresponsive(Duration::ZERO))
    }

    async fn base(&self, _: &str, _: bool) -> Result<Option<String>, Error> {
        unreachable!("the pool builds nothing")
    }

    async fn build(&self, _: &Plan, _: &Log) -> Result<Made, BuildError> {
        unreachable!("the pool builds nothing")
    }

    async fn find_built(&self, _: &str, _: &str) -> Result<Option<Image>, Error> {
        unreachable!("the pool builds nothing")
    }

    async fn built(&self) -> Result<Vec<BuiltImage>, Error> {
        unreachable!("the pool builds nothing")
    }

    async fn remove_built(&self, _: &BuiltImage) -> Result<bool, Error> {
        unreachable!("the pool builds nothing")
    }

    async fn start(&self, _: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(Error::Unavailable { engine: "flags", message: "told to".to_owned(), retry_after: None });
        }
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        let number = self.0.started.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FlagSandbox { id: number.to_string(), flags: Arc::clone(&self.0) }))
    }

    async fn health(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn list(&self, _: &str) -> Result<Vec<(String, SandboxLabels)>, Error> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn shutdown(&self) {}
}

#[async_trait]
impl Sandbox for FlagSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    fn startup(&self) -> Duration {
        Duration::ZERO
    }

    fn is_waiting(&mut self) -> bool {
        !self.flags.dead.load(Ordering::SeqCst)
    }

    async fn run(self: Box<Self>, _: Job, _: mpsc::Sender<OutputChunk>, _: CancellationToken) -> Result<Run, Error> {
        Err(Error::Unresponsive(Duration::ZERO))
    }

    async fn destroy(self: Box<Self>) {
        self.flags.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

const BOUNDS: Bounds = Bounds { min_idle: 1, max_idle: 3, max_age: Duration::from_secs(300) };

fn labels() -> SandboxLabels {
    SandboxLabels { installation: "i".to_owned(), node_id: "n".to_owned(), execution_id: None, lease: None }
}

fn spec(digest: &str) -> SandboxSpec {
    SandboxSpec {
        image: Image { reference: "image".to_owned(), digest: digest.to_owned() },
        limits: SandboxLimits {
            memory_bytes: 1,
            cpu_millis: 1,
            pids: 1,
            open_files: 1,
            file_bytes: 1,
            tmp_bytes: 1,
            output_bytes: 1,
            inodes: 1,
        },
        environment: BTreeMap::new(),
        preload: Vec::new(),
        gpu: None,
        startup_timeout: Duration::from_secs(1),
        labels: labels(),
    }
}

fn pool() -> (Arc<Pool>, Arc<Flags>) {
    let flags = Arc::<Flags>::default();
    (Pool::new(Arc::new(FlagEngine(Arc::clone(&flags))), labels()), flags)
}

/// Lets refills run until so many are idle.
async fn until_idle(pool: &Arc<Pool>, wanted: usize) {
    for _ in 0..10_000 {
        if pool.stats().idle == wanted {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?}", pool.stats());
}

#[tokio::test]
async fn a_make_that_is_kept_is_ready_when_its_job_comes() {
    let (pool, _) = pool();
    assert!(pool.take(&spec("a")).is_none());
    pool.keep(&spec("a"), BOUNDS);
    until_idle(&pool, 1).await;
    assert!(pool.take(&spec("b")).is_none(), "another image is another make");
    assert!(pool.take(&spec("a")).is_some());
    assert!(pool.take(&spec("a")).is_none(), "no sandbox is handed out twice");
    assert_eq!((pool.stats().warm, pool.stats().idle), (1, 0));
}

#[tokio::test]
async fn every_job_that_finds_the_shelf_empty_makes_it_keep_one_more_up_to_the_bound() {
    let (pool, _) = pool();
    pool.keep(&spec("a"), BOUNDS);
    until_idle(&pool, 1).await;
    for _ in 0..5 {
        pool.start(&spec("a")).await.unwrap().destroy().await;
    }
    pool.keep(&spec("a"), BOUNDS);
    until_idle(&pool, 3).await;
    assert_eq!((pool.stats().wanted, pool.stats().cold), (3, 5));
}

#[tokio::test]
async fn a_sandbox_that_died_on_the_shelf_is_destroyed_and_replaced() {
    let (pool, flags) = pool();
    pool.keep(&spec("a"), BOUNDS);
    until_idle(&pool, 1).await;
    flags.dead.store(true, Ordering::SeqCst);
    assert!(pool.take(&spec("a")).is_none());
    assert_eq!(pool.stats().died, 1);
    flags.dead.store(false, Ordering::SeqCst);
    pool.tend();
    until_idle(&pool, 1).await;
    pool.drain().await;
    assert_eq!(flags.alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_shelf_is_not_refilled_right_after_a_start_failed() {
    let (pool, flags) = pool();
    flags.refuses.store(true, Ordering::SeqCst);
    pool.keep(&spec("a"), BOUNDS);
    while pool.stats().starting > 0 {
        tokio::task::yield_now().await;
    }
    flags.refuses.store(false, Ordering::SeqCst);
    pool.keep(&spec("a"), BOUNDS);
    assert_eq!(pool.stats().starting, 0);
    assert_eq!(pool.shelves()[&key(&spec("a"))].paused_until.map(|until| until > Instant::now()), Some(true));
}

#[tokio::test]
async fn a_drained_pool_has_nothing_and_starts_nothing() {
    let (pool, flags) = pool();
    pool.keep(&spec("a"), Bounds { min_idle: 3, ..BOUNDS });
    until_idle(&pool, 3).await;
    pool.drain().await;
    assert_eq!(flags.alive.load(Ordering::SeqCst), 0);
    pool.keep(&spec("a"), BOUNDS);
    pool.tend();
    assert_eq!((pool.stats().idle, pool.stats().starting), (0, 0));
}

#[tokio::test]
async fn what_is_too_old_is_weeded_out() {
    let (pool, _) = pool();
    pool.keep(&spec("a"), BOUNDS);
    until_idle(&pool, 1).await;
    let mut shelves = pool.shelves();
    let shelf = shelves.get_mut(&key(&spec("a"))).unwrap();
    let (aged, dead) = shelf.weed(Instant::now());
    assert!(aged.is_empty() && dead.is_empty());
    let (aged, dead) = shelf.weed(Instant::now() + BOUNDS.max_age * 2);
    assert_eq!((aged.len(), dead.len(), shelf.idle.len()), (1, 0, 0));
}

#[tokio::test]
async fn a_shelf_wants_less_only_after_some_were_never_taken_for_a_while() {
    let (pool, _) = pool();
    pool.keep(&spec("a"), Bounds { min_idle: 2, ..BOUNDS });
    until_idle(&pool, 2).await;
    let mut shelves = pool.shelves();
    let shelf = shelves.get_mut(&key(&spec("a"))).unwrap();
    shelf.bounds = Bounds { min_idle: 0, ..BOUNDS };
    let mut now = Instant::now();
    assert!(shelf.relax(now).is_none(), "not yet");
    now += PATIENCE;
    assert!(shelf.relax(now).is_none(), "the shelf was empty at some moment of this while");
    now += PATIENCE;
    assert!(shelf.relax(now).is_some());
    assert_eq!((shelf.wanted, shelf.idle.len()), (1, 1));
    shelf.low = 0;
    now += PATIENCE;
    assert!(shelf.relax(now).is_none(), "all were taken");
    assert_eq!(shelf.wanted, 1);
}
