//! Keeps this node alive in the others' eyes, and takes up what dead nodes left.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime;
use uuid::Uuid;

use super::ledger::{self, Ledger};
use crate::domain::Command;
use crate::engine::pool::Pool;
use crate::store;

/// Between two looks for sandboxes that belong to nobody.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

pub struct Reaper {
    round: Round,
    heartbeat: Duration,
    io: runtime::Handle,
    busy: bool,
}

#[derive(Clone)]
pub struct Round {
    pub node_id: Uuid,
    pub ledger: Ledger,
    pub store: store::Store,
    pub pool: Arc<Pool>,
    /// Without a heartbeat for so long, a node is taken for dead.
    pub dead_after: Duration,
}

impl Reaper {
    pub fn new(round: Round, heartbeat: Duration, io: runtime::Handle) -> Self {
        Self { round, heartbeat, io, busy: false }
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        // A database that hangs must not pile rounds up.
        if self.busy {
            return;
        }
        self.busy = true;
        let round = self.round.clone();
        let task = self.io.spawn(async move { round.beat().await });
        let done = task.into_actor(self).map(|result, reaper, _| {
            reaper.busy = false;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %error, "a heartbeat did not reach the database"),
                Err(lost) => tracing::error!(error = %lost, "a heartbeat was lost"),
            }
        });
        context.spawn(done);
    }
}

impl Round {
    async fn beat(&self) -> Result<(), ledger::Error> {
        self.store.heartbeat(self.node_id).await?;
        self.pool.tend();
        for expired in self.store.expired_claims(self.dead_after).await? {
            let Some(tracked) = self.ledger.load(expired.execution_id).await? else { continue };
            let correlation_id = tracked.record.correlation_id.clone().unwrap_or_default();
            let command = Command::ExpireLease { lease: expired.lease, cause: "its node does not answer".to_owned() };
            let enclosed = ledger::Enclosed { lease: Some(expired.lease), blobs: Vec::new() };
            match self.ledger.commit_with(tracked.clone(), vec![command], &correlation_id, enclosed).await {
                Ok(_) => tracing::warn!(
                    execution_id = %expired.execution_id, lease = expired.lease, "a job was taken from a dead node"
                ),
                // The claim never became an event: its node died in between. The row alone is given back.
                Err(ledger::Error::Rejected(_)) => {
                    self.store.release_claim(expired.execution_id, expired.lease).await?;
                }
                Err(ledger::Error::LeaseLost) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes sandboxes whose node is not alive.
    pub async fn sweep(&self) -> Result<usize, String> {
        let labels = self.pool.labels();
        let found = self.pool.engine().list(&labels.installation).await.map_err(|error| error.to_string())?;
        if found.iter().all(|(_, labels)| labels.node_id == self.pool.labels().node_id) {
            return Ok(0);
        }
        let alive: HashSet<String> = self
            .store
            .live_nodes(self.dead_after)
            .await
            .map_err(|error| error.to_string())?
            .into_iter()
            .map(|id| id.to_string())
            .collect();
        let mut removed = 0;
        for (sandbox_id, labels) in found {
            if alive.contains(&labels.node_id) || labels.node_id == self.pool.labels().node_id {
                continue;
            }
            self.pool.engine().remove(&sandbox_id).await.map_err(|error| error.to_string())?;
            removed += 1;
        }
        Ok(removed)
    }
}

impl Actor for Reaper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.beat(context);
        context.run_interval(self.heartbeat, |reaper, context| reaper.beat(context));
        let round = self.round.clone();
        self.io.spawn(async move {
            loop {
                match round.sweep().await {
                    Ok(0) => {}
                    Ok(removed) => tracing::warn!(removed, "sandboxes of dead nodes were removed"),
                    Err(error) => tracing::warn!(error, "orphaned sandboxes could not be looked for"),
                }
                tokio::time::sleep(SWEEP_INTERVAL).await;
            }
        });
    }
}
