//! Claiming work, and what of it was claimed by whom. Rows come, go back and leave with appends
//! only; see [`super::QueueChange`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;
use crate::crash_point::{self, Moment};

/// A job that one node may now work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub execution_id: Uuid,
    /// Greater than that of every earlier claim; guards each append by the claimant.
    pub lease: i64,
    /// The attempt that this claim begins, 1 for the first.
    pub attempt: u32,
    pub priority: i16,
    pub tenant: String,
    pub job_type: String,
    /// Somebody asked to cancel it while it was claimed before.
    pub cancel_requested: bool,
}

/// A claim as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct HeldClaim {
    pub execution_id: Uuid,
    pub lease: i64,
    pub node_id: Uuid,
}

/// How much work there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Claimable now.
    pub pending: u64,
    /// Claimable later.
    pub delayed: u64,
    /// Claimed.
    pub running: u64,
}

/// What keeps a waiting job from being claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// Its job type, or all of them.
    Paused,
    /// No node that lives has what its job type asks for.
    NoNode,
    TenantLimit,
    JobTypeLimit,
    KeyLimit,
}

impl Hindrance {
    const ALL: [Self; 5] = [Self::Paused, Self::NoNode, Self::TenantLimit, Self::JobTypeLimit, Self::KeyLimit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::NoNode => "no_node",
            Self::TenantLimit => "tenant_limit",
            Self::JobTypeLimit => "job_type_limit",
            Self::KeyLimit => "key_limit",
        }
    }
}

type ClaimRow =
    (Option<Uuid>, Option<i64>, Option<i32>, Option<i16>, Option<String>, Option<String>, Option<bool>, Vec<i64>);

impl Store {
    /// Claims up to `limit` jobs for a node: the most urgent first, of these those of the tenant with
    /// the fewest at work, of these the longest in the queue; none that a limit, a pause or its
    /// placement keeps from running now on this node. No other node can claim them until they are released. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Refused`] for a node that is not registered as running; [`Error::Unavailable`].
    pub async fn claim(&self, node_id: Uuid, limit: usize) -> Result<Vec<Claim>, Error> {
        self.claim_where(node_id, limit, None).await
    }

    /// The same, only of some job types.
    ///
    /// # Errors
    /// As [`Store::claim`].
    pub async fn claim_of(&self, node_id: Uuid, limit: usize, job_types: &[String]) -> Result<Vec<Claim>, Error> {
        self.claim_where(node_id, limit, Some(job_types)).await
    }

    async fn claim_where(
        &self,
        node_id: Uuid,
        limit: usize,
        job_types: Option<&[String]>,
    ) -> Result<Vec<Claim>, Error> {
        let floors = self.floors().clone();
        crash_point::reach("store", "claim", Moment::Before);
        let rows: Vec<ClaimRow> = sqlx::query_as("SELECT * FROM claim_jobs($1, $2, $3, $4)")
            .bind(node_id)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(job_types)
            .bind(floors)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("claim jobs"))?;
        let mut claims = Vec::with_capacity(rows.len());
        for row in rows {
            let (execution_id, lease, attempt, priority, tenant, job_type, cancel_requested, floors) = row;
            *self.floors() = floors;
            let Some(execution_id) = execution_id else { continue };
            let missing = || Error::corrupt("queue", execution_id, "claim", "a column is null");
            claims.push(Claim {
                execution_id,
                lease: lease.ok_or_else(missing)?,
                attempt: attempt.and_then(|attempt| attempt.try_into().ok()).ok_or_else(missing)?,
                priority: priority.ok_or_else(missing)?,
                tenant: tenant.ok_or_else(missing)?,
                job_type: job_type.ok_or_else(missing)?,
                cancel_requested: cancel_requested.ok_or_else(missing)?,
            });
        }
        if !claims.is_empty() {
            crash_point::reach("store", "claim", Moment::After);
        }
        claims.sort_unstable_by_key(|claim| (std::cmp::Reverse(claim.priority), claim.lease));
        Ok(claims)
    }

    /// Takes back a claim of which the log knows nothing, because its node died before it could
    /// append; a claim the log knows is released by an append. True when the lease held the job.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn release_claim(&self, execution_id: Uuid, lease: i64) -> Result<bool, Error> {
        sqlx::query_scalar("SELECT release_claim($1, $2)")
            .bind(execution_id)
            .bind(lease)
            .fetch_one(self.pool())
            .await
            .map_err(Error::during("release claim"))
    }

    /// Claims of nodes that did not send a heartbeat for `dead_after`, by the database's clock, or
    /// that nobody knows; oldest lease first. None while the database itself has not run for so long: no
    /// node could speak before, and each gets its time.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn expired_claims(&self, dead_after: Duration) -> Result<Vec<HeldClaim>, Error> {
        sqlx::query_as(
            "SELECT q.execution_id, q.lease, q.node_id \
               FROM queue q LEFT JOIN nodes n USING (node_id) \
              WHERE q.lease IS NOT NULL \
                AND (n.node_id IS NULL OR n.heartbeat_at < clock_timestamp() - $1 \
                                      AND pg_postmaster_start_time() < clock_timestamp() - $1) \
              ORDER BY q.lease",
        )
        .bind(interval(dead_after))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look for expired claims"))
    }

    /// What a node has claimed, oldest lease first: after a restart, what it must give back.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn claims_of(&self, node_id: Uuid) -> Result<Vec<HeldClaim>, Error> {
        sqlx::query_as(
            "SELECT execution_id, lease, node_id FROM queue WHERE lease IS NOT NULL AND node_id = $1 ORDER BY lease",
        )
        .bind(node_id)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("read a node's claims"))
    }

    /// The jobs a node has claimed and somebody wants cancelled.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn cancel_requested(&self, node_id: Uuid) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "SELECT execution_id FROM queue WHERE lease IS NOT NULL AND node_id = $1 AND cancel_requested",
        )
        .bind(node_id)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look for cancels"))
    }

    /// When the next delayed job becomes claimable.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn next_not_before(&self) -> Result<Option<DateTime<Utc>>, Error> {
        sqlx::query_scalar(
            "SELECT min(first) FROM generate_series(0, 9) p, LATERAL ( \
                 SELECT q.not_before AS first FROM queue q \
                  WHERE q.lease IS NULL AND q.not_before IS NOT NULL AND q.priority = p \
                  ORDER BY q.not_before LIMIT 1) f",
        )
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("look for delayed jobs"))
    }

    /// How many jobs would be claimed before this one, plus one; `None` when it is not waiting.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn queue_position(&self, execution_id: Uuid) -> Result<Option<u64>, Error> {
        let position: Option<i64> = sqlx::query_scalar(
            "SELECT 1 + (SELECT count(*) FROM queue o \
                          WHERE o.lease IS NULL AND o.execution_id <> q.execution_id \
                            AND (o.not_before IS NULL OR o.not_before <= coalesce(q.not_before, clock_timestamp())) \
                            AND (o.priority > q.priority OR (o.priority = q.priority AND o.seq < q.seq))) \
               FROM queue q WHERE q.execution_id = $1 AND q.lease IS NULL",
        )
        .bind(execution_id)
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("read queue position"))?;
        Ok(position.map(i64::unsigned_abs))
    }

    /// What keeps a job that waits from being claimed; `None` when nothing but its turn does, or when it
    /// does not wait.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn hindrance(&self, execution_id: Uuid) -> Result<Option<Hindrance>, Error> {
        let found: Option<Option<String>> = sqlx::query_scalar(
            "SELECT CASE \
                 WHEN EXISTS (SELECT FROM job_type_pauses p WHERE p.is_paused AND p.job_type IN (q.job_type, '*')) \
                     THEN 'paused' \
                 WHEN NOT EXISTS (SELECT FROM nodes n WHERE n.state = 'running' \
                         AND n.heartbeat_at > clock_timestamp() - make_interval(secs => s.dead_after) \
                         AND (u.job_type IS NULL OR is_fit(n, u))) THEN 'no_node' \
                 WHEN q.not_before > clock_timestamp() THEN NULL \
                 WHEN is_full(q.tenant, jsonb_build_object(q.tenant, (SELECT count(*) FROM queue o \
                          WHERE o.lease IS NOT NULL AND o.tenant = q.tenant)), s) THEN 'tenant_limit' \
                 WHEN u.concurrency <= (SELECT count(*) FROM queue o \
                          WHERE o.lease IS NOT NULL AND o.job_type = q.job_type) THEN 'job_type_limit' \
                 WHEN q.limit_size <= (SELECT count(*) FROM queue o WHERE o.lease IS NOT NULL \
                          AND o.tenant = q.tenant AND o.limit_key = q.limit_key) THEN 'key_limit' \
             END \
               FROM queue q CROSS JOIN claim_settings s LEFT JOIN job_type_rules u ON u.job_type = q.job_type \
              WHERE q.execution_id = $1 AND q.lease IS NULL",
        )
        .bind(execution_id)
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("look what hinders a job"))?;
        Ok(found.flatten().and_then(|name| Hindrance::ALL.into_iter().find(|hindrance| hindrance.as_str() == name)))
    }

    /// How much work waits and runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn queue_stats(&self) -> Result<QueueStats, Error> {
        let (pending, delayed, running): (i64, i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE lease IS NULL AND (not_before IS NULL OR not_before <= clock_timestamp())), \
                    count(*) FILTER (WHERE lease IS NULL AND not_before > clock_timestamp()), \
                    count(*) FILTER (WHERE lease IS NOT NULL) \
               FROM queue",
        )
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("count the queue"))?;
        Ok(QueueStats {
            pending: pending.unsigned_abs(),
            delayed: delayed.unsigned_abs(),
            running: running.unsigned_abs(),
        })
    }
}

fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}
