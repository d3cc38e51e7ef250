//! Keeps this node alive in the others' eyes, and takes up what dead nodes left.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chrono::TimeDelta;
use tokio::runtime;
use uuid::Uuid;

use super::builds::Builds;
use super::fleet::Fleet;
use super::ledger::{self, Enclosed, Ledger, Patience};
use super::queue::{HeldLeases, Queue};
use super::slot::LoseLease;
use super::writes::Writes;
use crate::clock::FollowingClock;
use crate::domain::Command;
use crate::engine::pool::Pool;
use crate::store::{self, HeldClaim};

/// Between two looks for sandboxes that belong to nobody.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// By how much the time may be off before it is told.
const TOLERATED: TimeDelta = TimeDelta::seconds(1);

pub struct Reaper {
    round: Round,
    heartbeat: Duration,
    io: runtime::Handle,
    busy: bool,
    /// Leases that no slot seemed to hold at the last look.
    suspects: HashSet<i64>,
}

#[derive(Clone)]
pub struct Round {
    pub node_id: Uuid,
    pub ledger: Ledger,
    pub store: store::Store,
    pub pool: Arc<Pool>,
    pub queue: Addr<Queue>,
    pub builds: Arc<Builds>,
    pub fleet: Arc<Fleet>,
    /// Told whether heartbeats are taken.
    pub writes: Arc<Writes>,
    /// Set to the database's time with each heartbeat.
    pub clock: Arc<FollowingClock>,
    /// Without a heartbeat for so long, a node is taken for dead.
    pub dead_after: Duration,
}

impl Reaper {
    pub fn new(round: Round, heartbeat: Duration, io: runtime::Handle) -> Self {
        Self { round, heartbeat, io, busy: false, suspects: HashSet::new() }
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        // A database that hangs must not pile rounds up.
        if self.busy {
            return;
        }
        self.busy = true;
        let (round, suspects) = (self.round.clone(), std::mem::take(&mut self.suspects));
        let task = self.io.spawn(async move { round.beat(suspects).await });
        let done = task.into_actor(self).map(|result, reaper, _| {
            reaper.busy = false;
            match result {
                Ok(Ok(suspects)) => reaper.suspects = suspects,
                Ok(Err(error)) => tracing::warn!(error = %error, "a heartbeat did not reach the database"),
                Err(lost) => tracing::error!(error = %lost, "a heartbeat was lost"),
            }
        });
        context.spawn(done);
    }
}

impl Round {
    /// One look; answers with the leases of this node that no slot seems to hold.
    async fn beat(&self, suspects: HashSet<i64>) -> Result<HashSet<i64>, ledger::Error> {
        let beaten = self.store.heartbeat(self.node_id).await;
        self.writes.heartbeat(beaten.as_ref());
        let behind = self.clock.follow(beaten?);
        // A heartbeat needs no room. A node that is not ready is given no jobs to append, so it has to try.
        if self.writes.doubts_appends() {
            self.writes.append(self.store.try_to_grow().await.as_ref());
        }
        if behind.abs() > TOLERATED {
            tracing::warn!(
                behind_ms = behind.num_milliseconds(),
                "this node's time was not the database's, and is now"
            );
        }
        self.pool.tend();
        self.fleet.set(self.store.live_roles(self.dead_after).await?);
        for expired in self.store.expired_claims(self.dead_after).await? {
            self.expire(expired, "its node does not answer").await?;
        }
        self.builds.end_interrupted(self.dead_after).await?;
        self.compare_leases(suspects).await
    }

    /// Holds what the slots work on against what the database says is this node's.
    ///
    /// A lease that a slot works under and the database has given away, because this node was frozen or
    /// cut off, is lost: its sandbox goes now, not when the job would end.
    ///
    /// A claim that no slot works on would be held for as long as this node lives. One look may
    /// come between a claim and its slot; after two it is a stray.
    async fn compare_leases(&self, suspects: HashSet<i64>) -> Result<HashSet<i64>, ledger::Error> {
        // Asked before the database: a claim made in between is then no lost one.
        let held = self.held().await?;
        let claims = self.store.claims_of(self.node_id).await?;
        let gone = held.into_iter().filter(|lease| claims.iter().all(|claim| claim.lease != *lease));
        // A job that has just ended has no claim, and its slot may not know yet; after two looks it is lost.
        let (lost, ending): (HashSet<i64>, HashSet<i64>) = gone.partition(|lease| suspects.contains(lease));
        if !lost.is_empty() {
            let lost = LoseLease { leases: Arc::new(lost) };
            self.queue.send(lost).await.map_err(|_| ledger::Error::Stopped)?;
        }
        if claims.is_empty() {
            return Ok(ending);
        }
        let held = self.held().await?;
        let (strays, fresh): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .filter(|claim| !held.contains(&claim.lease))
            .partition(|claim| suspects.contains(&claim.lease));
        for stray in strays {
            self.expire(stray, "no slot of its node works on it").await?;
        }
        Ok(fresh.into_iter().map(|claim| claim.lease).chain(ending).collect())
    }

    async fn held(&self) -> Result<HashSet<i64>, ledger::Error> {
        self.queue.send(HeldLeases).await.map_err(|_| ledger::Error::Stopped)
    }

    async fn expire(&self, claim: HeldClaim, cause: &str) -> Result<(), ledger::Error> {
        let HeldClaim { execution_id, lease, .. } = claim;
        let Some(tracked) = self.ledger.load(execution_id).await? else { return Ok(()) };
        let correlation_id = tracked.record.correlation_id.clone().unwrap_or_default();
        let command = Command::ExpireLease { lease, cause: cause.to_owned() };
        let enclosed = Enclosed { lease: Some(lease), blobs: Vec::new() };
        match self.ledger.commit_with(tracked, vec![command], &correlation_id, enclosed, Patience::Once).await {
            Ok(_) => {
                tracing::warn!(%execution_id, lease, cause, "a job was taken back from its claimant");
                Ok(())
            }
            // The claim never became an event: its node died in between. The row alone is given back.
            Err(ledger::Error::Rejected(_)) => {
                self.store.release_claim(execution_id, lease).await?;
                Ok(())
            }
            Err(ledger::Error::LeaseLost) => Ok(()),
            Err(error) => Err(error),
        }
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
