//! Who waits for which execution to end, on this node.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

/// Wakes waiting requests. The log is the truth: a waiter looks at the record before it waits
/// and after it was woken, so a lost wake-up costs time and never an answer.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: Mutex<HashMap<Uuid, watch::Sender<bool>>>,
}

/// One who waits, until it goes: most go without having waited, or without an answer.
struct Waiting {
    waiters: std::sync::Arc<Waiters>,
    execution_id: Uuid,
    told: Option<watch::Receiver<bool>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // First, so that it is not counted below.
        self.told = None;
        self.waiters.forget(self.execution_id);
    }
}

impl Waiters {
    /// Waits for the end of an execution: true once it was told of, false when the time is over.
    ///
    /// Call before looking at the record, poll after.
    pub fn ended(
        self: &std::sync::Arc<Self>,
        execution_id: Uuid,
        within: Duration,
    ) -> impl Future<Output = bool> + Send + 'static {
        let told = self.lock().entry(execution_id).or_insert_with(|| watch::channel(false).0).subscribe();
        let mut waiting = Waiting { waiters: std::sync::Arc::clone(self), execution_id, told: Some(told) };
        async move {
            let Some(told) = &mut waiting.told else { return false };
            tokio::time::timeout(within, told.wait_for(|ended| *ended)).await.is_ok_and(|told| told.is_ok())
        }
    }

    /// Tells everyone who waits for it that an execution has ended.
    pub fn wake(&self, execution_id: Uuid) {
        if let Some(told) = self.lock().remove(&execution_id) {
            told.send_replace(true);
        }
    }

    /// The executions somebody waits for.
    pub fn awaited(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    fn forget(&self, execution_id: Uuid) {
        let mut waiting = self.lock();
        if waiting.get(&execution_id).is_some_and(|told| told.receiver_count() == 0) {
            waiting.remove(&execution_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<bool>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_goes_without_waiting_leaves_nothing_behind() {
        let (waiters, id) = (Arc::<Waiters>::default(), Uuid::now_v7());
        drop(waiters.ended(id, Duration::from_secs(60)));
        assert!(waiters.awaited().is_empty());
        let (one, other) = (waiters.ended(id, Duration::from_secs(60)), waiters.ended(id, Duration::from_secs(60)));
        assert!(tokio::time::timeout(Duration::from_millis(1), one).await.is_err());
        assert_eq!(waiters.awaited(), [id]);
        waiters.wake(id);
        assert!(other.await);
        assert!(waiters.awaited().is_empty());
    }
}
