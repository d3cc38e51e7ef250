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

use super::journal::Journal;
use super::ledger::{self, Ledger};
use crate::clock::Clock;
use crate::config::{Config, Kept};
use crate::domain::{Command, Digest, Rejection, RetentionApplied};
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

/// A put of which no event tells for so long came to nothing; and how often such are looked for.
const PUT_GRACE: Duration = Duration::from_secs(3_600);
const PUTS: Duration = Duration::from_secs(300);

pub struct Retention {
    round: Round,
    pub(super) io: runtime::Handle,
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
        if self.store.begin_upkeep("puts", PUTS).await?
            && let Err(error) = self.sweep_puts().await
        {
            tracing::warn!(error = %error, "blobs that nothing names could not be removed");
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
        if let Some(days) = Some(self.config.retention.dlq_days).filter(|days| *days > 0) {
            self.discard_letters(now, days).await?;
        }
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

    /// Discards dead letters about which nobody decided in their time.
    async fn discard_letters(&self, now: DateTime<Utc>, days: u32) -> Result<(), ledger::Error> {
        loop {
            let old = self.store.dead_letters_before(now - TimeDelta::days(days.into()), PAGE).await?;
            let mut discarded = 0;
            for execution_id in &old {
                match self.discard_letter(*execution_id, days).await {
                    Ok(()) => discarded += 1,
                    Err(error) if error.is_transient() => return Err(error),
                    Err(error) => {
                        tracing::warn!(error = %error, %execution_id, "an old dead letter could not be discarded");
                    }
                }
            }
            if discarded > 0 {
                tracing::info!(discarded, days, "dead letters were discarded after their time");
            }
            if old.len() < PAGE as usize || discarded == 0 {
                return Ok(());
            }
        }
    }

    async fn discard_letter(&self, execution_id: Uuid, days: u32) -> Result<(), ledger::Error> {
        let Some(tracked) = self.ledger.load(execution_id).await? else { return Ok(()) };
        let reason = Some(format!("nobody decided within {days} days"));
        let discard = Command::DiscardDeadLetter { by: "retention".to_owned(), reason };
        match self.ledger.commit(tracked, vec![discard], "retention").await {
            // Somebody decided just now.
            Ok(_) | Err(ledger::Error::Rejected(Rejection::NotADeadLetter)) => Ok(()),
            Err(error) => Err(error),
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

    /// Removes what puts left that came to nothing: their node died, or the append was refused.
    ///
    /// # Errors
    /// What the database or the store of blobs answers; the next time goes on.
    pub async fn sweep_puts(&self) -> Result<Removed, store::Error> {
        let mut removed = Removed::default();
        loop {
            let old = self.store.old_puts(PUT_GRACE, PAGE).await?;
            if old.is_empty() {
                break;
            }
            let (kept, lost): (Vec<_>, Vec<_>) = old.into_iter().partition(|put| put.is_kept);
            for put in lost {
                self.store.doom_unless_kept(put.put_id).await?;
            }
            if kept.is_empty() {
                continue;
            }
            let before = self.store.ago(PUT_GRACE).await?;
            let position = self.store.last_position().await?;
            let hashes: HashSet<_> = kept.iter().map(|put| put.hash).collect();
            let unneeded = self.unneeded(self.clock.now(), hashes).await?;
            let gone = self.store.remove_blobs(&unneeded, position, before).await?;
            removed.blobs += gone.blobs;
            removed.bytes += gone.bytes;
            // One that is needed, or gone, is settled; one that was held meanwhile is looked at again later.
            let missing: HashSet<_> = self.store.missing_blobs(&unneeded).await?.into_iter().collect();
            let held: HashSet<_> = unneeded.into_iter().filter(|hash| !missing.contains(hash)).collect();
            let done: Vec<_> = kept.iter().filter(|put| !held.contains(&put.hash)).map(|put| put.put_id).collect();
            self.store.settle_all(&done).await?;
            if done.len() < kept.len() {
                break;
            }
        }
        self.store.remove_doomed().await?;
        if removed.blobs > 0 {
            tracing::info!(blobs = removed.blobs, bytes = removed.bytes, "blobs that nothing names were removed");
        }
        Ok(removed)
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
