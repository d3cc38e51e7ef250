//! A sandbox of the native engine, and the lease on the cell it is in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::cell::Cell;
use super::cells::Cells;
use super::cgroup::Usage;
use crate::engine::session::{GRACE, Session};
use crate::engine::{Error, Job, OutputChunk, Run, Sandbox};

/// A cell that is somebody's. Dropped, it ends its sandbox and goes back by itself.
pub struct Lease {
    pub cells: Arc<Cells>,
    pub cell: Option<Cell>,
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Gives the cell up without ending anything in it: it has no sandbox.
    pub fn into_idle(mut self) -> (Option<Cell>, Option<OwnedSemaphorePermit>) {
        (self.cell.take(), self.permit.take())
    }

    /// Ends the sandbox, returns the cell and tells what the sandbox used. A cell that does not
    /// manage is dropped, which kills what is left in it.
    pub async fn end(mut self) -> Usage {
        // The cell stays in the lease while this waits: dropped then, the lease cleans up.
        let Some(cell) = self.cell.as_mut() else { return Usage::default() };
        let ended = cell.end().await;
        // What the cgroup counted is true even where the launcher is lost.
        let usage = cell.usage();
        if let (Some(cell), Ok(())) = (self.cell.take(), ended) {
            self.cells.put_back(cell);
        }
        usage
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut cell) = self.cell.take() else { return };
        let (cells, permit) = (self.cells.clone(), self.permit.take());
        // Without a runtime the cell itself is dropped, which kills what is in it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if cell.end().await.is_ok() {
                    cells.put_back(cell);
                }
                drop(permit);
            });
        }
    }
}

/// A started sandbox.
pub struct NativeSandbox {
    pub id: String,
    pub startup: Duration,
    pub session: Session,
    pub lease: Lease,
}

#[async_trait]
impl Sandbox for NativeSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    fn startup(&self) -> Duration {
        self.startup
    }

    fn is_waiting(&mut self) -> bool {
        self.session.is_waiting()
    }

    async fn run(
        self: Box<Self>,
        job: Job,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<Run, Error> {
        let Self { session, lease, .. } = *self;
        let outcome = session.run(job, output, cancel, GRACE).await;
        let usage = lease.end().await;
        match outcome {
            Ok(mut run) => {
                complete(&mut run, usage);
                Ok(run)
            }
            Err(Error::Lost { message, oom_killed }) => {
                Err(Error::Lost { message, oom_killed: usage.oom_killed.unwrap_or(oom_killed) })
            }
            Err(error) => Err(error),
        }
    }

    async fn destroy(self: Box<Self>) {
        let Self { session, lease, .. } = *self;
        drop(session);
        lease.end().await;
    }
}

/// The guest cannot see its cgroup; the host can.
fn complete(run: &mut Run, usage: Usage) {
    if let Some(peak) = usage.peak_bytes {
        run.report.peak_memory_bytes = peak;
    }
    if usage.oom_killed.is_some() {
        run.report.oom_killed = usage.oom_killed;
    }
}
