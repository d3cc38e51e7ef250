//! The output of running jobs on this node, for those who watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use crate::engine::{OutputChunk, Stream};

/// Chunks of running jobs, kept from their start to their end so that a late watcher misses
/// nothing. What is kept is bounded by the guest's output limits.
#[derive(Debug, Default)]
pub struct LiveOutput {
    running: Mutex<HashMap<Uuid, Arc<Feed>>>,
}

#[derive(Debug)]
struct Feed {
    attempt: u32,
    chunks: Mutex<Vec<OutputChunk>>,
    /// Chunks so far, and whether more may come.
    progress: watch::Sender<(usize, bool)>,
}

/// Where a job's output is written to.
#[derive(Debug)]
pub struct Writer {
    execution_id: Uuid,
    feed: Arc<Feed>,
    live: Arc<LiveOutput>,
}

/// A watcher's place in a job's output.
#[derive(Debug)]
pub struct Follow {
    feed: Arc<Feed>,
    progress: watch::Receiver<(usize, bool)>,
    next: usize,
}

impl LiveOutput {
    /// Opens the feed of an execution; it closes when the writer is dropped.
    pub fn open(self: &Arc<Self>, execution_id: Uuid, attempt: u32) -> Writer {
        let feed = Arc::new(Feed { attempt, chunks: Mutex::default(), progress: watch::channel((0, true)).0 });
        lock(&self.running).insert(execution_id, Arc::clone(&feed));
        Writer { execution_id, feed, live: Arc::clone(self) }
    }

    /// Follows a job that runs on this node, from the given chunk on; `None` when none does.
    pub fn follow(&self, execution_id: Uuid, from: usize) -> Option<Follow> {
        let feed = Arc::clone(lock(&self.running).get(&execution_id)?);
        Some(Follow { progress: feed.progress.subscribe(), feed, next: from })
    }

    /// The jobs that run on this node now.
    pub fn running(&self) -> Vec<Uuid> {
        lock(&self.running).keys().copied().collect()
    }
}

impl Writer {
    pub fn push(&self, chunk: OutputChunk) {
        let count = {
            let mut chunks = lock(&self.feed.chunks);
            chunks.push(chunk);
            chunks.len()
        };
        self.feed.progress.send_replace((count, true));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.live.running).remove(&self.execution_id);
        self.feed.progress.send_modify(|progress| progress.1 = false);
    }
}

impl Follow {
    /// The next chunk with its index; `None` at the end of the job.
    pub async fn next(&mut self) -> Option<(usize, Stream, Bytes)> {
        let next = self.next;
        let (count, _) = *self.progress.wait_for(|(count, open)| *count > next || !open).await.ok()?;
        if count <= next {
            return None;
        }
        let chunk = lock(&self.feed.chunks).get(next).cloned()?;
        self.next += 1;
        Some((next, chunk.stream, chunk.bytes))
    }

    /// The next chunks, as many as there are but at most `most`, and the index of the first; `None`
    /// at the end of the job. Cancel safe.
    pub async fn some(&mut self, most: usize) -> Option<(usize, Vec<OutputChunk>)> {
        let first = self.next;
        let (count, _) = *self.progress.wait_for(|(count, open)| *count > first || !open).await.ok()?;
        if count <= first {
            return None;
        }
        let chunks = lock(&self.feed.chunks).get(first..count.min(first + most))?.to_vec();
        self.next += chunks.len();
        Some((first, chunks))
    }

    /// Which attempt at the job this is.
    pub fn attempt(&self) -> u32 {
        self.feed.attempt
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
