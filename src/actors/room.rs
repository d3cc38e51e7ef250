//! Whether the queue has room for more jobs, which all nodes fill together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::refusal::Refusal;
use crate::store::Store;

/// How many jobs wait in the installation, as far as this node knows.
#[derive(Clone)]
pub(super) struct Room {
    store: Store,
    /// As last counted, with those accepted here since.
    waiting: Arc<AtomicU64>,
    most: u64,
}

impl Room {
    pub(super) fn new(store: Store, most: u32) -> Self {
        Self { store, waiting: Arc::default(), most: most.into() }
    }

    /// Counts anew; what cannot be counted stays as it was.
    pub(super) async fn count(&self) {
        if let Ok(stats) = self.store.queue_stats().await {
            self.waiting.store(stats.pending, Ordering::Relaxed);
        }
    }

    /// Takes room for so many jobs. Far from full, the count of a second ago is good enough; from the
    /// half on other nodes may have filled the queue since, so it is counted.
    pub(super) async fn take(&self, more: u64) -> Result<(), Refusal> {
        if self.waiting.load(Ordering::Relaxed) + more > self.most / 2 {
            self.count().await;
        }
        let mut waiting = self.waiting.load(Ordering::Relaxed);
        loop {
            if waiting + more > self.most {
                return Err(Refusal::QueueFull { waiting, retry_after: Duration::from_secs(5) });
            }
            let taken =
                self.waiting.compare_exchange_weak(waiting, waiting + more, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                Ok(_) => return Ok(()),
                Err(now) => waiting = now,
            }
        }
    }
}
