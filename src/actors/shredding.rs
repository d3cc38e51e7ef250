//! Shredding: an execution's or a tenant's private payload becomes unreadable for everybody, and what
//! was proven of it stays proven.
//!
//! The key goes first and the log says so after; whatever fails in between, the same wish again
//! completes it.

use std::collections::HashSet;

use actix::prelude::*;
use serde::Serialize;
use uuid::Uuid;

use super::journal::Journal;
use super::refusal::{Refusal, answer};
use super::retention::{Retention, Round};
use super::submission::Origin;
use crate::domain::{Command, Digest, TenantShredded};
use crate::store;

/// Makes the private payload of an ended execution unreadable, of whichever tenant.
#[derive(Debug, Message)]
#[rtype(result = "Result<Shredded, Refusal>")]
pub struct Shred {
    pub origin: Origin,
    pub execution_id: Uuid,
    pub reason: Option<String>,
}

/// The same for all that a tenant has had so far.
#[derive(Debug, Message)]
#[rtype(result = "Result<Shredded, Refusal>")]
pub struct ShredTenant {
    pub origin: Origin,
    pub tenant: String,
    pub reason: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Shredded {
    /// Executions whose streams say now that they were shredded.
    pub executions: u64,
    /// None means that nothing was encrypted: what is private in the log stays readable there.
    pub destroyed_keys: u64,
    pub removed_blobs: u64,
    pub removed_bytes: u64,
}

impl Round {
    async fn shred(&self, wish: Shred) -> Result<Shredded, Refusal> {
        let Shred { origin, execution_id, reason } = wish;
        let mut done = Shredded::default();
        self.shred_one(&origin, execution_id, reason, &mut done).await?;
        self.remove_bytes(HashSet::from([execution_id]), &mut done).await?;
        Ok(done)
    }

    async fn shred_one(
        &self,
        origin: &Origin,
        execution_id: Uuid,
        reason: Option<String>,
        done: &mut Shredded,
    ) -> Result<(), Refusal> {
        let refused = |error| Refusal::of(error, execution_id);
        let tracked = self.ledger.load(execution_id).await.map_err(refused)?;
        let tracked = tracked.ok_or(Refusal::NotFound(execution_id))?;
        if !tracked.record.is_ended() {
            return Err(Refusal::NotEnded(execution_id));
        }
        let version = tracked.record.version;
        let keys = self.store.destroy_execution_key(execution_id).await?;
        let command = Command::Shred { by: origin.by.clone(), reason, keys };
        let tracked = self.ledger.commit(tracked, vec![command], &origin.correlation_id).await.map_err(refused)?;
        done.destroyed_keys += keys;
        done.executions += u64::from(tracked.record.version > version);
        Ok(())
    }

    async fn shred_tenant(&self, wish: ShredTenant) -> Result<Shredded, Refusal> {
        let ShredTenant { origin, tenant, reason } = wish;
        let count = self.store.in_progress_of(&tenant).await?;
        if count > 0 {
            return Err(Refusal::InProgress { tenant, count });
        }
        let keys = self.store.destroy_tenant_key(&tenant).await?;
        let fact = TenantShredded { tenant: tenant.clone(), by: origin.by.clone(), reason: reason.clone(), keys };
        let journal = Journal::of_upkeep(self.journal.appender(), self.clock.clone());
        journal.append(fact).await.map_err(|error| Refusal::of(error, Uuid::nil()))?;
        let mut done = Shredded { destroyed_keys: keys, ..Shredded::default() };
        let (mut after, mut shredded) = (Uuid::nil(), HashSet::new());
        loop {
            let page = self.store.listed(after, super::retention::PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.execution_id;
            for listed in page.into_iter().filter(|listed| listed.tenant == tenant && listed.ended_at.is_some()) {
                self.shred_one(&origin, listed.execution_id, reason.clone(), &mut done).await?;
                shredded.insert(listed.execution_id);
            }
        }
        self.remove_bytes(shredded, &mut done).await?;
        Ok(done)
    }

    /// Removes the bytes that only shredded executions name.
    async fn remove_bytes(&self, shredded: HashSet<Uuid>, done: &mut Shredded) -> Result<(), store::Error> {
        let position = self.store.last_position().await?;
        let ids: Vec<_> = shredded.into_iter().collect();
        let mut named: HashSet<Digest> = HashSet::new();
        for ids in ids.chunks(super::retention::PAGE as usize) {
            named.extend(self.store.blobs_of(ids, store::Naming::All).await?);
        }
        let unneeded = self.unneeded(self.clock.now(), named).await?;
        // However lately it was put: it must not be found by anybody.
        let before = self.clock.now() + chrono::TimeDelta::days(1);
        let removed = self.store.remove_blobs(&unneeded, position, before).await?;
        done.removed_blobs += removed.blobs;
        done.removed_bytes += removed.bytes;
        Ok(())
    }
}

impl Handler<Shred> for Retention {
    type Result = ResponseFuture<Result<Shredded, Refusal>>;

    fn handle(&mut self, wish: Shred, _: &mut Self::Context) -> Self::Result {
        let round = self.round().clone();
        answer(&self.io, async move { round.shred(wish).await })
    }
}

impl Handler<ShredTenant> for Retention {
    type Result = ResponseFuture<Result<Shredded, Refusal>>;

    fn handle(&mut self, wish: ShredTenant, _: &mut Self::Context) -> Self::Result {
        let round = self.round().clone();
        answer(&self.io, async move { round.shred_tenant(wish).await })
    }
}
