//! Sandboxes started before their jobs arrive.
//!
//! A pooled sandbox is as unused as a cold one: it leaves the pool for one job and is destroyed
//! after it. The pool only moves the start out of the job's way.
//!
//! Each make of sandbox has a shelf. How many a shelf keeps follows demand between its bounds: a
//! job that finds the shelf empty raises the number by one; a while in which some were never
//! taken lowers it. Refills share few permits, so that starting ahead never crowds out running
//! jobs. A shelf nobody asked for in a sandbox's greatest age is given up with what is on it,
//! which is also how the sandboxes of a replaced image go.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{Engine, Error, Sandbox, SandboxLabels, SandboxSpec};

/// How long some sandboxes of a shelf must have been idle before it keeps one less.
const PATIENCE: Duration = Duration::from_secs(30);

/// After a failed start, how long a shelf is not refilled.
const PAUSE: Duration = Duration::from_secs(5);

/// How many sandboxes to keep of a make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min_idle: usize,
    pub max_idle: usize,
    /// An idle sandbox older than this is replaced.
    pub max_age: Duration,
}

/// What the pool has, and what it did so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PoolStats {
    /// Ready now, and being started ahead now.
    pub idle: usize,
    pub starting: usize,
    /// As many as demand asks for now.
    pub wanted: usize,
    /// Jobs that found a ready sandbox, and jobs that did not.
    pub warm: u64,
    pub cold: u64,
    /// warm / (warm + cold); 0 before the first job.
    pub hit_rate: f64,
    /// Idle sandboxes that were replaced: too old, or found dead.
    pub aged: u64,
    pub died: u64,
    /// Of the latest refill, milliseconds.
    pub refill_ms: u64,
}

/// Keeps started sandboxes by what they are made of.
pub struct Pool {
    engine: Arc<dyn Engine>,
    labels: SandboxLabels,
    shelves: Mutex<HashMap<String, Shelf>>,
    refilling: Semaphore,
    tasks: TaskTracker,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    warm: AtomicU64,
    cold: AtomicU64,
    aged: AtomicU64,
    died: AtomicU64,
    refill_ms: AtomicU64,
}

struct Shelf {
    spec: SandboxSpec,
    bounds: Bounds,
    idle: VecDeque<Idle>,
    starting: usize,
    wanted: usize,
    last_asked: Instant,
    /// The fewest idle sandboxes since `low_since`.
    low: usize,
    low_since: Instant,
    paused_until: Option<Instant>,
}

struct Idle {
    sandbox: Box<dyn Sandbox>,
    since: Instant,
}

impl Pool {
    pub fn new(engine: Arc<dyn Engine>, labels: SandboxLabels) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            engine,
            labels,
            shelves: Mutex::default(),
            refilling: Semaphore::new((cores / 2).max(1)),
            tasks: TaskTracker::new(),
            counts: Counts::default(),
        })
    }

    /// Labels for sandboxes of this node.
    pub fn labels(&self) -> &SandboxLabels {
        &self.labels
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// A ready sandbox of that make, if there is one, in whose place another is started. It waits
    /// for its job now: one that died on the shelf is not handed out. Call it on the I/O runtime.
    pub fn take(self: &Arc<Self>, spec: &SandboxSpec) -> Option<Box<dyn Sandbox>> {
        let mut shelves = self.shelves();
        let shelf = shelves.get_mut(&key(spec))?;
        let mut taken = None;
        while let (None, Some(mut idle)) = (&taken, shelf.idle.pop_front()) {
            shelf.low = shelf.low.min(shelf.idle.len());
            if idle.sandbox.is_waiting() {
                self.counts.warm.fetch_add(1, Ordering::Relaxed);
                taken = Some(idle.sandbox);
            } else {
                self.counts.died.fetch_add(1, Ordering::Relaxed);
                self.tasks.spawn(idle.sandbox.destroy());
            }
        }
        // Now and not with the next job, which would come too late for it.
        let missing = if self.tasks.is_closed() { 0 } else { shelf.order(Instant::now()) };
        drop(shelves);
        self.refill_with(spec, missing);
        taken
    }

    /// Starts a sandbox for a job that found none ready, which tells the shelf to keep more.
    ///
    /// # Errors
    /// What the engine answers.
    pub async fn start(&self, spec: &SandboxSpec) -> Result<Box<dyn Sandbox>, Error> {
        self.counts.cold.fetch_add(1, Ordering::Relaxed);
        if let Some(shelf) = self.shelves().get_mut(&key(spec)) {
            shelf.wanted = (shelf.wanted + 1).min(shelf.bounds.max_idle);
        }
        self.engine.start(spec).await
    }

    /// Sees to it that sandboxes of that make are ready, within the bounds, for as long as it is
    /// called again within their greatest age. Call it on the I/O runtime.
    pub fn keep(self: &Arc<Self>, spec: &SandboxSpec, bounds: Bounds) {
        if self.tasks.is_closed() || bounds.max_idle == 0 {
            return;
        }
        let now = Instant::now();
        let mut shelves = self.shelves();
        let shelf = shelves.entry(key(spec)).or_insert_with(|| Shelf::new(spec.clone(), bounds, now));
        shelf.bounds = bounds;
        shelf.last_asked = now;
        let missing = shelf.order(now);
        drop(shelves);
        self.refill_with(spec, missing);
    }

    /// Looks after all shelves: replaces what is old or dead, follows demand, gives up what nobody
    /// asks for. Call it every second or so, on the I/O runtime.
    pub fn tend(self: &Arc<Self>) {
        if self.tasks.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut orders = Vec::new();
        let mut shelves = self.shelves();
        shelves.retain(|_, shelf| {
            if now.duration_since(shelf.last_asked) > shelf.bounds.max_age && shelf.starting == 0 {
                gone.extend(shelf.idle.drain(..));
                return false;
            }
            let (aged, dead) = shelf.weed(now);
            self.counts.aged.fetch_add(aged.len() as u64, Ordering::Relaxed);
            self.counts.died.fetch_add(dead.len() as u64, Ordering::Relaxed);
            gone.extend(aged.into_iter().chain(dead));
            gone.extend(shelf.relax(now));
            orders.push((shelf.spec.clone(), shelf.order(now)));
            true
        });
        drop(shelves);
        for idle in gone {
            self.tasks.spawn(idle.sandbox.destroy());
        }
        for (spec, missing) in orders {
            self.refill_with(&spec, missing);
        }
    }

    pub fn stats(&self) -> PoolStats {
        let (warm, cold) = (self.counts.warm.load(Ordering::Relaxed), self.counts.cold.load(Ordering::Relaxed));
        let shelves = self.shelves();
        PoolStats {
            idle: shelves.values().map(|shelf| shelf.idle.len()).sum(),
            starting: shelves.values().map(|shelf| shelf.starting).sum(),
            wanted: shelves.values().map(|shelf| shelf.wanted).sum(),
            warm,
            cold,
            hit_rate: if warm + cold == 0 { 0.0 } else { warm as f64 / (warm + cold) as f64 },
            aged: self.counts.aged.load(Ordering::Relaxed),
            died: self.counts.died.load(Ordering::Relaxed),
            refill_ms: self.counts.refill_ms.load(Ordering::Relaxed),
        }
    }

    /// Starts nothing more and destroys what is idle; returns when all of it is gone.
    pub async fn drain(&self) {
        self.tasks.close();
        self.refilling.close();
        let idle: Vec<_> = self.shelves().drain().flat_map(|(_, shelf)| shelf.idle).collect();
        futures::future::join_all(idle.into_iter().map(|idle| idle.sandbox.destroy())).await;
        self.tasks.wait().await;
    }

    fn refill_with(self: &Arc<Self>, spec: &SandboxSpec, count: usize) {
        for _ in 0..count {
            let (pool, spec) = (Arc::clone(self), spec.clone());
            self.tasks.spawn(async move { pool.refill(&spec).await });
        }
    }

    async fn refill(&self, spec: &SandboxSpec) {
        let started = match self.refilling.acquire().await {
            Ok(_permit) => {
                let began = Instant::now();
                let started = self.engine.start(spec).await;
                self.counts.refill_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                Some(started)
            }
            // The pool is being drained.
            Err(_) => None,
        };
        let unwanted = {
            let mut shelves = self.shelves();
            let shelf = shelves.get_mut(&key(spec));
            match (started, shelf) {
                (Some(Ok(sandbox)), Some(shelf)) => {
                    shelf.starting = shelf.starting.saturating_sub(1);
                    shelf.idle.push_back(Idle { sandbox, since: Instant::now() });
                    None
                }
                (Some(Ok(sandbox)), None) => Some(sandbox),
                (Some(Err(error)), shelf) => {
                    tracing::warn!(error = %error, "a sandbox could not be started ahead");
                    if let Some(shelf) = shelf {
                        shelf.starting = shelf.starting.saturating_sub(1);
                        shelf.paused_until = Some(Instant::now() + PAUSE);
                    }
                    None
                }
                (None, shelf) => {
                    shelf.into_iter().for_each(|shelf| shelf.starting = shelf.starting.saturating_sub(1));
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

impl Shelf {
    fn new(spec: SandboxSpec, bounds: Bounds, now: Instant) -> Self {
        Self {
            spec,
            bounds,
            idle: VecDeque::new(),
            starting: 0,
            wanted: bounds.min_idle,
            last_asked: now,
            low: 0,
            low_since: now,
            paused_until: None,
        }
    }

    /// Takes note of the sandboxes to start, and says how many.
    fn order(&mut self, now: Instant) -> usize {
        if self.paused_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.wanted = self.wanted.clamp(self.bounds.min_idle, self.bounds.max_idle.max(self.bounds.min_idle));
        let missing = self.wanted.saturating_sub(self.idle.len() + self.starting);
        self.starting += missing;
        missing
    }

    /// Takes out those too old, and those that died.
    fn weed(&mut self, now: Instant) -> (Vec<Idle>, Vec<Idle>) {
        let (mut aged, mut dead) = (Vec::new(), Vec::new());
        for mut idle in std::mem::take(&mut self.idle) {
            if now.duration_since(idle.since) > self.bounds.max_age {
                aged.push(idle);
            } else if idle.sandbox.is_waiting() {
                self.idle.push_back(idle);
            } else {
                dead.push(idle);
            }
        }
        (aged, dead)
    }

    /// Wants one less where some were not needed for a while; answers with the one too many.
    fn relax(&mut self, now: Instant) -> Option<Idle> {
        if now.duration_since(self.low_since) < PATIENCE {
            return None;
        }
        let was_idle = self.low > 0;
        self.low = self.idle.len();
        self.low_since = now;
        if !was_idle || self.wanted <= self.bounds.min_idle {
            return None;
        }
        self.wanted -= 1;
        (self.idle.len() > self.wanted).then(|| self.idle.pop_front()).flatten()
    }
}

/// Everything a sandbox is made of, but for whom.
fn key(spec: &SandboxSpec) -> String {
    let SandboxSpec { image, limits, environment, preload, gpu, startup_timeout: _, labels: _ } = spec;
    format!("{image:?} {limits:?} {environment:?} {preload:?} {gpu:?}")
}

#[cfg(test)]
mod tests;
