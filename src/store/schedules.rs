//! Schedules: a row for each, written in the transaction that appends to its stream.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::append::{Append, StreamKind};
use super::batch::{self, Prepared};
use super::codec::new_events;
use super::database::Store;
use super::error::Error;
use crate::crash_point::{self, Moment};
use crate::domain::{Digest, Envelope, Schedule};

const APPEND: &str = "append to a schedule";

/// A schedule with what its next append must know.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduled {
    pub schedule: Schedule,
    pub head_hash: Digest,
    /// An execution that it fired and that is not known to be submitted yet.
    pub pending: Option<Uuid>,
}

/// Some of a tenant's schedules, by name.
#[derive(Debug, Clone)]
pub struct SchedulePage {
    pub items: Vec<Scheduled>,
    pub has_more: bool,
}

type Row = (Uuid, [u8; 32], Option<Uuid>, String);

impl Store {
    /// Appends an event to a schedule's stream and writes its row, both or neither; answers with the
    /// event's hash. `None` when another was first: the stream has gone on, or the name is taken. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`Error::Unavailable`], when it is unknown whether it was appended.
    pub async fn append_schedule(
        &self,
        before: Option<&Scheduled>,
        envelope: &Envelope,
        speaker: &str,
        after: &Schedule,
        pending: Option<Uuid>,
    ) -> Result<Option<Digest>, Error> {
        let run = Error::during(APPEND);
        let mut item = Append::events(after.schedule_id, StreamKind::Schedule, new_events([(envelope, speaker)])?);
        if let Some(before) = before {
            item = item.after(before.schedule.version, before.head_hash);
        }
        let item = [Prepared::new(item)?];
        let state = serde_json::to_string(after)
            .map_err(|error| Error::corrupt("schedules", after.schedule_id, "state", error))?;
        // The row first: the log's lock is then held for the append alone.
        let statement = match before {
            None => {
                "INSERT INTO schedules (schedule_id, tenant, name, version, head_hash, removed_at, next_due, pending, state) \
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE $10 = 0 ON CONFLICT DO NOTHING"
            }
            Some(_) => {
                "UPDATE schedules SET tenant = $2, name = $3, version = $4, head_hash = $5, removed_at = $6, \
                        next_due = $7, pending = $8, state = $9 \
                  WHERE schedule_id = $1 AND version = $10"
            }
        };
        let mut transaction = self.pool().begin().await.map_err(&run)?;
        let written = sqlx::query(statement)
            .bind(after.schedule_id)
            .bind(&after.tenant)
            .bind(&after.name)
            .bind(after.version)
            .bind(*item[0].head_hash().as_bytes())
            .bind(after.removed_at)
            .bind(after.next_due())
            .bind(pending)
            .bind(state)
            .bind(before.map_or(0, |before| before.schedule.version))
            .execute(&mut *transaction)
            .await
            .map_err(&run)?;
        if written.rows_affected() == 0 {
            transaction.rollback().await.map_err(&run)?;
            return Ok(None);
        }
        let kind = envelope.event.kind().as_str();
        crash_point::reach("append", kind, Moment::Before);
        let rows = batch::statement(self.node(), &item)?.fetch_all(&mut *transaction).await.map_err(&run)?;
        if rows.first().map(|row| row.1) != Some(0) {
            transaction.rollback().await.map_err(&run)?;
            return Ok(None);
        }
        transaction.commit().await.map_err(&run)?;
        crash_point::reach("append", kind, Moment::After);
        Ok(Some(item[0].head_hash()))
    }

    /// A tenant's schedule of that name, unless it was removed.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Corrupt`] for a row that does not read.
    pub async fn schedule(&self, tenant: &str, name: &str) -> Result<Option<Scheduled>, Error> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT schedule_id, head_hash, pending, state FROM schedules \
              WHERE tenant = $1 AND name = $2 AND removed_at IS NULL",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("read a schedule"))?;
        row.map(scheduled).transpose()
    }

    /// A tenant's schedules that were not removed, by name.
    ///
    /// # Errors
    /// As [`Store::schedule`].
    pub async fn schedules(&self, tenant: &str, limit: u32, offset: u32) -> Result<SchedulePage, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT schedule_id, head_hash, pending, state FROM schedules \
              WHERE tenant = $1 AND removed_at IS NULL ORDER BY name LIMIT $2 OFFSET $3",
        )
        .bind(tenant)
        .bind(i64::from(limit) + 1)
        .bind(i64::from(offset))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list schedules"))?;
        let mut items: Vec<_> = rows.into_iter().map(scheduled).collect::<Result<_, _>>()?;
        let has_more = items.len() > limit as usize;
        items.truncate(limit as usize);
        Ok(SchedulePage { items, has_more })
    }

    /// How many schedules a tenant has.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn count_schedules(&self, tenant: &str) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM schedules WHERE tenant = $1 AND removed_at IS NULL")
            .bind(tenant)
            .fetch_one(self.pool())
            .await
            .map_err(Error::during("count schedules"))?;
        Ok(count.unsigned_abs())
    }

    /// Up to `limit` schedules of which a time has come, or of which an execution waits to be submitted.
    ///
    /// # Errors
    /// As [`Store::schedule`].
    pub async fn due_schedules(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<Scheduled>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "(SELECT schedule_id, head_hash, pending, state FROM schedules WHERE next_due <= $1 \
               ORDER BY next_due LIMIT $2) \
             UNION \
             (SELECT schedule_id, head_hash, pending, state FROM schedules WHERE pending IS NOT NULL LIMIT $2)",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look for due schedules"))?;
        rows.into_iter().map(scheduled).collect()
    }

    /// Notes that an execution that a schedule fired is submitted.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn schedule_submitted(&self, schedule_id: Uuid, execution_id: Uuid) -> Result<(), Error> {
        sqlx::query("UPDATE schedules SET pending = NULL WHERE schedule_id = $1 AND pending = $2")
            .bind(schedule_id)
            .bind(execution_id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("note a submission"))
    }

    /// Keeps the text of a submission.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn put_schedule_job(&self, digest: Digest, job: &str) -> Result<(), Error> {
        sqlx::query("INSERT INTO schedule_jobs (digest, job) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(*digest.as_bytes())
            .bind(job)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("keep a schedule's job"))
    }

    /// The text of a submission.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn schedule_job(&self, digest: Digest) -> Result<Option<String>, Error> {
        sqlx::query_scalar("SELECT job FROM schedule_jobs WHERE digest = $1")
            .bind(*digest.as_bytes())
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during("read a schedule's job"))
    }
}

fn scheduled((schedule_id, head_hash, pending, state): Row) -> Result<Scheduled, Error> {
    let schedule =
        serde_json::from_str(&state).map_err(|error| Error::corrupt("schedules", schedule_id, "state", error))?;
    Ok(Scheduled { schedule, head_hash: Digest::from_bytes(head_hash), pending })
}
