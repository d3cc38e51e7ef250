//! Brings the output of this node's jobs to those who watch through another node.
//!
//! Only what somebody watches leaves the node, by way of the database: whoever watches says so there,
//! and is told by a notification or, should that be lost, at the next look.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use super::live_output::LiveOutput;
use crate::engine::Stream;
use crate::store::{self, OutputPart, Store};

/// How long a watch lasts that nobody renews, and how often it is renewed.
const WATCH: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(4);

/// Between two looks for watchers of whom no notification told.
const LOOK: Duration = Duration::from_secs(2);

/// Between two statements for one job: what is written meanwhile leaves together.
const GATHER: Duration = Duration::from_millis(50);

/// Chunks of one statement.
const CHUNKS: usize = 256;

/// What is left of jobs that ended otherwise is removed after this.
const LEFT: Duration = Duration::from_secs(3_600);
const CLEAN: Duration = Duration::from_secs(300);

/// Puts the output of watched jobs into the database.
pub struct Broadcast {
    store: Store,
    live: Arc<LiveOutput>,
    told: Notify,
    /// The jobs whose output is on its way.
    sending: Mutex<HashSet<Uuid>>,
}

impl Broadcast {
    pub fn new(store: Store, live: Arc<LiveOutput>) -> Arc<Self> {
        Arc::new(Self { store, live, told: Notify::new(), sending: Mutex::default() })
    }

    /// Somebody began to watch something.
    pub fn look(&self) {
        self.told.notify_one();
    }

    /// Looks for watchers for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut cleaned = Instant::now();
        loop {
            let _ = tokio::time::timeout(LOOK, self.told.notified()).await;
            if let Err(error) = self.send_watched().await {
                tracing::debug!(error = %error, "watchers of output could not be looked for");
            }
            if cleaned.elapsed() >= CLEAN {
                cleaned = Instant::now();
                if let Err(error) = self.store.forget_old_output(LEFT).await {
                    tracing::debug!(error = %error, "old output could not be removed");
                }
            }
        }
    }

    async fn send_watched(self: &Arc<Self>) -> Result<(), store::Error> {
        let running = self.live.running();
        if running.is_empty() {
            return Ok(());
        }
        for execution_id in self.store.watched_outputs(&running).await? {
            if !self.sending().insert(execution_id) {
                continue;
            }
            let broadcast = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = broadcast.send(execution_id).await {
                    tracing::debug!(error = %error, %execution_id, "output does not reach its watchers");
                }
                broadcast.sending().remove(&execution_id);
            });
        }
        Ok(())
    }

    /// Sends a job's output, from its beginning, until it ends or nobody watches.
    async fn send(&self, execution_id: Uuid) -> Result<(), store::Error> {
        let Some(mut follow) = self.live.follow(execution_id, 0) else { return Ok(()) };
        let attempt = follow.attempt();
        let mut seen = Instant::now();
        loop {
            match tokio::time::timeout(LOOK, follow.some(CHUNKS)).await {
                Ok(Some((first, chunks))) => {
                    let chunks: Vec<_> = chunks.iter().map(|chunk| (code(chunk.stream), &chunk.bytes[..])).collect();
                    self.store.put_output(execution_id, attempt, first, &chunks).await?;
                    tokio::time::sleep(GATHER).await;
                }
                // It has ended; the blobs have the rest.
                Ok(None) => return self.store.forget_output(execution_id).await,
                Err(_elapsed) => {}
            }
            if seen.elapsed() >= WATCH {
                if self.store.watched_outputs(&[execution_id]).await?.is_empty() {
                    return self.store.forget_output(execution_id).await;
                }
                seen = Instant::now();
            }
        }
    }

    fn sending(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn code(stream: Stream) -> i16 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

/// A watcher's place in the output of an attempt on another node.
pub struct DistantFollow {
    store: Store,
    execution_id: Uuid,
    attempt: u32,
    next: i32,
    renewed: Option<Instant>,
}

impl DistantFollow {
    pub fn new(store: Store, execution_id: Uuid, attempt: u32) -> Self {
        Self { store, execution_id, attempt, next: 0, renewed: None }
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What came since the last call, perhaps nothing. Call it again within seconds, on the I/O runtime.
    ///
    /// # Errors
    /// What the database answers; the call may be repeated.
    pub async fn poll(&mut self) -> Result<Vec<(Stream, Vec<u8>)>, store::Error> {
        if self.renewed.is_none_or(|at| at.elapsed() >= RENEW) {
            self.store.watch_output(self.execution_id, WATCH).await?;
            self.renewed = Some(Instant::now());
        }
        let parts = self.store.output_parts(self.execution_id, self.attempt, self.next).await?;
        let mut chunks = Vec::with_capacity(parts.len());
        for OutputPart { number, stream, bytes } in parts {
            // After a gap, which a database that was restarted leaves, the job's end tells the rest.
            if number != self.next {
                break;
            }
            self.next += 1;
            chunks.push((if stream == 2 { Stream::Stderr } else { Stream::Stdout }, bytes));
        }
        Ok(chunks)
    }
}
