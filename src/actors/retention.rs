//! Lets go of what the rules of retention no longer keep.
//!
//! Every node has one, and the database lets one of them begin at a time. All of it may be repeated and
//! may stop anywhere: an execution's rows go in the transaction in which its stream says that it has expired;
//! bytes go once no kept execution names them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, stream};
use tokio::runtime;
use uuid::Uuid;

use super::intake::Refusal;
use super::journal::Journal;
use super::ledger::{self, Ledger};
use crate::clock::Clock;
use crate::config::{Config, Kept};
use crate::domain::{Command, Digest, RetentionApplied};
use crate::store::{self, Listed, Naming, Removed, Store};

/// Between two looks whether it is time.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(86_400);

/// For which the log's partitions are made.
const MONTHS_AHEAD: i32 = 3;

/// Executions looked at together.
pub(super) const PAGE: u32 = 500;

/// Expiries that are under way together, and so leave in one statement.
const TOGETHER: usize = 32;

/// Blobs that are judged in one pass over the kept executions; each is 32 bytes here.
const CANDIDATES: u32 = 200_000;

/// A blob that was put or held so lately may be about to be named.
const GRACE: TimeDelta = TimeDelta::days(1);

pub struct Retention {
    round: Round,
    io: runtime::Handle,
    busy: bool,
}

#[derive(Clone)]
pub struct Round {
    pub store: Store,
    pub ledger: Ledger,
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub config: Arc<Config>,
}

impl Retention {
    pub fn new(round: Round, io: runtime::Handle) -> Self {
        Self { round, io, busy: false }
    }

    pub(super) fn round(&self) -> &Round {
        &self.round
    }

    pub(super) fn answer<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> ResponseFuture<Result<T, Refusal>> {
        let task = self.io.spawn(task);
        Box::pin(async move { task.await.unwrap_or(Err(Refusal::Internal)) })
    }

    fn look(&mut self, context: &mut Context<Self>) {
        if self.busy {
            return;
        }
        self.busy = true;
        let round = self.round.clone();
        let task = self.io.spawn(async move { round.look().await });
        let done = task.into_actor(self).map(|result, retention, _| {
            retention.busy = false;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %error, "what is no longer kept could not be removed"),
                Err(lost) => tracing::error!(error = %lost, "a removal of what is no longer kept was lost"),
            }
        });
        context.spawn(done);
    }
}

impl Actor for Retention {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.look(context);
        context.run_interval(self.round.config.retention.every.min(LONGEST_LOOK), Self::look);
    }
}

impl Round {
    async fn look(&self) -> Result<(), ledger::Error> {
        if self.store.begin_upkeep("partitions", DAY).await? {
            self.store.make_partitions(MONTHS_AHEAD).await?;
        }
        if !self.store.begin_upkeep("retention", self.config.retention.every).await? {
            return Ok(());
        }
        let applied = self.apply().await?;
        if applied.expired_records > 0 || applied.removed_blobs > 0 {
            tracing::info!(?applied, "what is no longer kept was removed");
            self.journal.write(applied).await;
        }
        Ok(())
    }

    async fn apply(&self) -> Result<RetentionApplied, ledger::Error> {
        let (now, start) = (self.clock.now(), Instant::now());
        let Kept { records_days, blobs_days } = self.config.shortest_kept();
        let expired_records = match records_days {
            Some(days) => self.expire(now, days).await?,
            None => 0,
        };
        let removed = match blobs_days {
            Some(days) => self.sweep(now, days).await?,
            None => Removed::default(),
        };
        Ok(RetentionApplied {
            expired_records,
            removed_blobs: removed.blobs,
            removed_bytes: removed.bytes,
            duration_ms: start.elapsed().as_millis() as u64,
        })
    }

    /// Expires what has ended long enough ago; nothing younger than `days` has.
    async fn expire(&self, now: DateTime<Utc>, days: u32) -> Result<u64, ledger::Error> {
        let youngest = now - TimeDelta::days(days.into());
        let (mut after, mut expired) = (Uuid::nil(), 0);
        loop {
            let page = self.store.listed(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(expired) };
            after = last.execution_id;
            // In the order of creation: whatever follows was created, and has ended, later.
            let is_over = created_after(after, youngest + GRACE);
            let due = page.into_iter().filter_map(|listed| {
                let days = self.config.kept(&listed.tenant, &listed.job_type).records_days?;
                (listed.ended_at? <= now - TimeDelta::days(days.into())).then_some((listed.execution_id, days))
            });
            let mut ends = stream::iter(due).map(|(id, days)| self.expire_one(id, days)).buffer_unordered(TOGETHER);
            while let Some(end) = ends.next().await {
                match end {
                    Ok(()) => expired += 1,
                    Err((execution_id, error)) => {
                        tracing::warn!(error = %error, %execution_id, "an execution could not be expired");
                    }
                }
            }
            if is_over {
                return Ok(expired);
            }
        }
    }

    async fn expire_one(&self, execution_id: Uuid, records_days: u32) -> Result<(), (Uuid, ledger::Error)> {
        let failed = |error| (execution_id, error);
        let tracked = self.ledger.load(execution_id).await.map_err(failed)?;
        let Some(tracked) = tracked else { return Ok(()) };
        let tracked = self.ledger.commit(tracked, vec![Command::Expire { records_days }], "retention").await;
        let tracked = tracked.map_err(failed)?;
        // Of one that an older program expired, and did not get so far.
        self.store.forget(&tracked.record).await.map_err(|error| failed(error.into()))
    }

    /// Removes bytes that no kept execution names.
    async fn sweep(&self, now: DateTime<Utc>, days: u32) -> Result<Removed, store::Error> {
        let before = now - TimeDelta::days(days.into()).max(GRACE);
        let (mut after, mut removed) = (None, Removed::default());
        loop {
            let page = self.store.old_blobs(before, after, CANDIDATES).await?;
            let Some(last) = page.last() else { return Ok(removed) };
            after = Some(*last);
            let position = self.store.last_position().await?;
            let candidates = self.unneeded(now, page.into_iter().collect()).await?;
            let found = self.store.remove_blobs(&candidates, position, before).await?;
            removed.blobs += found.blobs;
            removed.bytes += found.bytes;
        }
    }

    /// Those of the blobs that no execution names whose bytes are kept.
    pub(super) async fn unneeded(
        &self,
        now: DateTime<Utc>,
        mut blobs: HashSet<Digest>,
    ) -> Result<Vec<Digest>, store::Error> {
        let mut after = Uuid::nil();
        while !blobs.is_empty() {
            let page = self.store.listed(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.execution_id;
            let keeping: Vec<Uuid> =
                page.iter().filter(|listed| self.keeps_bytes(now, listed)).map(|listed| listed.execution_id).collect();
            for named in self.store.blobs_of(&keeping, Naming::Unshredded).await? {
                blobs.remove(&named);
            }
        }
        Ok(blobs.into_iter().collect())
    }

    fn keeps_bytes(&self, now: DateTime<Utc>, listed: &Listed) -> bool {
        let (Some(ended_at), Some(days)) =
            (listed.ended_at, self.config.kept(&listed.tenant, &listed.job_type).blobs_days)
        else {
            return true;
        };
        ended_at > now - TimeDelta::days(days.into())
    }
}

/// Whether an id (UUIDv7) says that it was made after a moment; other ids say nothing.
fn created_after(id: Uuid, moment: DateTime<Utc>) -> bool {
    id.get_version_num() == 7 && (id.as_u128() >> 80) as i64 > moment.timestamp_millis()
}
