//! Sandboxes started before their jobs arrive.
//!
//! A pooled sandbox is as unused as a cold one: it left the pool for one job and is destroyed
//! after it. The pool only moves the start out of the job's way, and refills when a job has
//! ended, so that starting ahead never competes with the job it was taken for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{Engine, Error, Sandbox, SandboxLabels, SandboxSpec};

/// How many sandboxes to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Kept ready for each environment that is warmed.
    pub min_idle: usize,
    /// An idle sandbox older than this is replaced.
    pub max_age: Duration,
}

/// What the pool did so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PoolStats {
    /// Idle now.
    pub idle: usize,
    /// Jobs that got a sandbox that was ready, and jobs that did not.
    pub warm: u64,
    pub cold: u64,
    /// warm / (warm + cold); 0 before the first job.
    pub hit_rate: f64,
    /// Of the latest refill, milliseconds.
    pub refill_ms: u64,
}

/// Keeps started sandboxes by what they are made of.
pub struct Pool {
    engine: Arc<dyn Engine>,
    labels: SandboxLabels,
    shelves: Mutex<HashMap<String, Shelf>>,
    /// One start ahead at a time: refilling must not starve running jobs.
    refilling: Semaphore,
    tasks: TaskTracker,
    idle: AtomicUsize,
    warm: AtomicU64,
    cold: AtomicU64,
    refill_ms: AtomicU64,
}

struct Shelf {
    spec: SandboxSpec,
    bounds: Bounds,
    idle: VecDeque<Idle>,
    starting: usize,
}

struct Idle {
    sandbox: Box<dyn Sandbox>,
    since: Instant,
}

impl Pool {
    pub fn new(engine: Arc<dyn Engine>, labels: SandboxLabels) -> Arc<Self> {
        Arc::new(Self {
            engine,
            labels,
            shelves: Mutex::default(),
            refilling: Semaphore::new(1),
            tasks: TaskTracker::new(),
            idle: AtomicUsize::new(0),
            warm: AtomicU64::new(0),
            cold: AtomicU64::new(0),
            refill_ms: AtomicU64::new(0),
        })
    }

    /// Labels for sandboxes of this node.
    pub fn labels(&self) -> &SandboxLabels {
        &self.labels
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// A ready sandbox of that make, if there is one.
    pub fn take(&self, spec: &SandboxSpec) -> Option<Box<dyn Sandbox>> {
        let mut shelves = self.shelves();
        let shelf = shelves.get_mut(&key(spec))?;
        let idle = shelf.idle.pop_front()?;
        self.idle.fetch_sub(1, Ordering::Relaxed);
        self.warm.fetch_add(1, Ordering::Relaxed);
        Some(idle.sandbox)
    }

    /// Starts a sandbox for a job that found none ready.
    ///
    /// # Errors
    /// What the engine answers.
    pub async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        self.cold.fetch_add(1, Ordering::Relaxed);
        self.engine.start(spec).await
    }

    /// Sees to it that sandboxes of that make will be ready, and replaces those too old.
    /// Call it on the I/O runtime.
    pub fn keep(self: &Arc<Self>, spec: &SandboxSpec, bounds: Bounds) {
        if self.tasks.is_closed() || bounds.min_idle == 0 {
            return;
        }
        let (missing, aged) = {
            let mut shelves = self.shelves();
            let shelf = shelves.entry(key(spec)).or_insert_with(|| Shelf {
                spec: spec.clone(),
                bounds,
                idle: VecDeque::new(),
                starting: 0,
            });
            let mut aged = Vec::new();
            while shelf.idle.front().is_some_and(|idle| idle.since.elapsed() > bounds.max_age) {
                aged.extend(shelf.idle.pop_front());
            }
            self.idle.fetch_sub(aged.len(), Ordering::Relaxed);
            shelf.bounds = bounds;
            let missing = bounds.min_idle.saturating_sub(shelf.idle.len() + shelf.starting);
            shelf.starting += missing;
            (missing, aged)
        };
        for idle in aged {
            self.tasks.spawn(idle.sandbox.destroy());
        }
        for _ in 0..missing {
            let pool = Arc::clone(self);
            let spec = spec.clone();
            self.tasks.spawn(async move { pool.refill(&spec).await });
        }
    }

    /// Looks after every environment kept so far; call it now and then.
    pub fn tend(self: &Arc<Self>) {
        let kept: Vec<_> = self.shelves().values().map(|shelf| (shelf.spec.clone(), shelf.bounds)).collect();
        for (spec, bounds) in kept {
            self.keep(&spec, bounds);
        }
    }

    pub fn stats(&self) -> PoolStats {
        let (warm, cold) = (self.warm.load(Ordering::Relaxed), self.cold.load(Ordering::Relaxed));
        PoolStats {
            idle: self.idle.load(Ordering::Relaxed),
            warm,
            cold,
            hit_rate: if warm + cold == 0 { 0.0 } else { warm as f64 / (warm + cold) as f64 },
            refill_ms: self.refill_ms.load(Ordering::Relaxed),
        }
    }

    /// Starts nothing more and destroys what is idle; returns when all of it is gone.
    pub async fn drain(&self) {
        self.tasks.close();
        let idle: Vec<_> = self.shelves().drain().flat_map(|(_, shelf)| shelf.idle).collect();
        self.idle.store(0, Ordering::Relaxed);
        futures::future::join_all(idle.into_iter().map(|idle| idle.sandbox.destroy())).await;
        self.tasks.wait().await;
    }

    async fn refill(&self, spec: &SandboxSpec) {
        let started = match self.refilling.acquire().await {
            Ok(_permit) => {
                let began = Instant::now();
                let started = self.engine.start(spec).await;
                self.refill_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                Some(started)
            }
            Err(_closed) => None,
        };
        let unwanted = {
            let mut shelves = self.shelves();
            match (started, shelves.get_mut(&key(spec))) {
                (Some(Ok(sandbox)), Some(shelf)) => {
                    shelf.starting -= 1;
                    shelf.idle.push_back(Idle { sandbox, since: Instant::now() });
                    self.idle.fetch_add(1, Ordering::Relaxed);
                    None
                }
                (Some(Ok(sandbox)), None) => Some(sandbox),
                (Some(Err(error)), shelf) => {
                    tracing::warn!(error = %error, "a sandbox could not be started ahead");
                    shelf.into_iter().for_each(|shelf| shelf.starting -= 1);
                    None
                }
                (None, shelf) => {
                    shelf.into_iter().for_each(|shelf| shelf.starting -= 1);
                    None
                }
            }
        };
        if let Some(sandbox) = unwanted {
            sandbox.destroy().await;
        }
    }

    fn shelves(&self) -> MutexGuard<'_, HashMap<String, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything a sandbox is made of, but for whom.
fn key(spec: &SandboxSpec) -> String {
    let SandboxSpec { image, limits, environment, preload, startup_timeout: _, labels: _ } = spec;
    format!("{image:?} {limits:?} {environment:?} {preload:?}")
}
