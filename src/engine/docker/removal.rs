//! Removal of containers: begun at once, never cancelled, waited for at shutdown.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::daemon::{CallError, Daemon};

/// Answers that a container is not removed, after which it is given up.
const MOST_REFUSALS: u32 = 5;

const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Removes containers in tasks of its own, so that a dropped future leaves nothing behind.
pub(super) struct Removals {
    daemon: Arc<Daemon>,
    tasks: TaskTracker,
    /// Kept because a guard may be dropped on a thread that is not the runtime's.
    runtime: Handle,
}

/// A container that exists, or may: dropping this kills and removes it.
pub(super) struct Container {
    name: String,
    removals: Arc<Removals>,
    owned: bool,
}

impl Removals {
    pub fn new(daemon: Arc<Daemon>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { daemon, tasks: TaskTracker::new(), runtime })
    }

    /// Takes over a container by its name or id.
    pub fn own(self: &Arc<Self>, name: String) -> Container {
        Container { name, removals: Arc::clone(self), owned: true }
    }

    /// Runs `work` to its end whatever becomes of the caller; [`Removals::settle`] waits for it.
    pub fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Waits until everything begun has ended, for at most `limit`; answers whether it has.
    pub async fn settle(&self, limit: Duration) -> bool {
        self.tasks.close();
        let settled = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        self.tasks.reopen();
        settled
    }

    fn begin(&self, name: String, create_unsure: bool) -> tokio::task::JoinHandle<()> {
        let daemon = Arc::clone(&self.daemon);
        self.spawn(async move { persist(&daemon, &name, create_unsure).await })
    }

    /// Keeps removing a container whose creation had no answer: it may yet appear.
    pub fn forget_creation(&self, name: String) {
        self.begin(name, true);
    }
}

impl Container {
    pub fn id(&self) -> &str {
        &self.name
    }

    /// Kills and removes the container; returns when it is gone or removal has been given up.
    pub async fn remove(mut self) {
        self.owned = false;
        let removal = self.removals.begin(std::mem::take(&mut self.name), false);
        // A task that panicked has nothing to tell that its log line did not.
        let _ = removal.await;
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.owned {
            self.removals.begin(std::mem::take(&mut self.name), false);
        }
    }
}

/// Removes once; a container that is gone, or going, counts as removed.
pub(super) async fn remove(daemon: &Daemon, name: &str) -> Result<(), CallError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let request = daemon.docker.remove_container(name, Some(options));
    match daemon.attempt("remove", daemon.call_timeout, request).await {
        Err(error) if error.is_absent() => Ok(()),
        Err(CallError::Answered { status: 409, message, .. }) if message.contains("already in progress") => Ok(()),
        result => result,
    }
}

/// Goes on for as long as the daemon does not answer: while this node lives, no other removes for it.
async fn persist(daemon: &Daemon, name: &str, create_unsure: bool) {
    let mut looks = if create_unsure { 3 } else { 1 };
    let mut refusals = 0;
    let mut pause = Duration::from_secs(1);
    loop {
        match remove(daemon, name).await {
            Ok(()) => looks -= 1,
            Err(error @ CallError::Answered { .. }) if refusals == MOST_REFUSALS => {
                tracing::warn!(container = name, %error, "not removed; its labels tell the reaper");
                return;
            }
            Err(error) => {
                refusals += u32::from(matches!(error, CallError::Answered { .. }));
                tracing::debug!(container = name, %error, "removal failed; trying again");
            }
        }
        if looks == 0 {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
