//! Removing what is no longer kept: rows of expired executions, and bytes that nobody names.
//!
//! The log itself is left alone. Which bytes are still needed is read from it each time, so that no
//! append has to count references.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::codec::event_of;
use super::database::Store;
use super::error::Error;
use crate::domain::{Digest, EventKind, ExecutionRecord};

/// Events whose payloads name bytes.
const NAMING: [EventKind; 7] = [
    EventKind::JobSubmitted,
    EventKind::ExecutionSucceeded,
    EventKind::ExecutionFailed,
    EventKind::ExecutionTimedOut,
    EventKind::ExecutionOutOfMemory,
    EventKind::ExecutionCancelled,
    EventKind::RetryScheduled,
];

/// Blobs removed in one transaction; appends wait for one such step at most.
const STEP: usize = 500;

const REMOVE: &str = "remove blobs";

/// What retention must know of an execution.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Listed {
    pub execution_id: Uuid,
    pub tenant: String,
    pub job_type: String,
    /// `None` for one in progress.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Whose blobs are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    All,
    /// What was shredded needs no bytes.
    Unshredded,
}

/// Blobs that were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    pub blobs: u64,
    pub bytes: u64,
}

impl Store {
    /// Whether it is time for a task that one node at a time does; if so, it counts as begun.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn begin_upkeep(&self, task: &str, every: Duration) -> Result<bool, Error> {
        let begun: Option<bool> = sqlx::query_scalar(
            "INSERT INTO upkeep (task, began_at) VALUES ($1, now()) ON CONFLICT (task) DO UPDATE SET began_at = now() \
              WHERE upkeep.began_at <= now() - make_interval(secs => $2) RETURNING true",
        )
        .bind(task)
        .bind(every.as_secs_f64())
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("begin upkeep"))?;
        Ok(begun.is_some())
    }

    /// Up to `limit` executions that have a row, behind an id in the order of ids, which is that of
    /// their creation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn listed(&self, after: Uuid, limit: u32) -> Result<Vec<Listed>, Error> {
        sqlx::query_as(
            "SELECT execution_id, tenant, job_type, ended_at FROM executions WHERE execution_id > $1 \
              ORDER BY execution_id LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list executions"))
    }

    /// Removes the rows of an execution whose stream says that it has expired. May be repeated.
    ///
    /// # Errors
    /// [`Error::Unavailable`], after which all rows are there or none.
    pub async fn forget(&self, record: &ExecutionRecord) -> Result<(), Error> {
        let key = record.submitted.idempotency.as_ref().map(|idempotency| idempotency.key.as_str());
        sqlx::query(
            "WITH endings AS (DELETE FROM endings WHERE status = $2 AND execution_id = $1), \
                  letters AS (DELETE FROM dead_letters WHERE execution_id = $1), \
                  dependencies AS (DELETE FROM dependencies WHERE execution_id = $1), \
                  keys AS (DELETE FROM idempotency_keys WHERE tenant = $3 AND key = $4 AND execution_id = $1) \
             DELETE FROM executions WHERE execution_id = $1",
        )
        .bind(record.execution_id)
        .bind(record.status().as_str())
        .bind(&record.submitted.tenant)
        .bind(key)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("forget an expired execution"))
    }

    /// Up to `limit` blobs that were last put, or held, before a moment, behind a hash in their order.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn old_blobs(
        &self,
        before: DateTime<Utc>,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<Digest>, Error> {
        let hashes: Vec<[u8; 32]> =
            sqlx::query_scalar("SELECT hash FROM blobs WHERE hash > $1 AND created_at < $2 ORDER BY hash LIMIT $3")
                .bind(after.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default())
                .bind(before)
                .bind(i64::from(limit))
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("look for old blobs"))?;
        Ok(hashes.into_iter().map(Digest::from_bytes).collect())
    }

    /// Every blob that the executions name.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Corrupt`] for an event that does not read: what it names must
    /// not be lost.
    pub async fn blobs_of(&self, execution_ids: &[Uuid], naming: Naming) -> Result<HashSet<Digest>, Error> {
        let rows: Vec<Named> = sqlx::query_as(
            "SELECT position, event_type, schema_version, payload::text AS payload FROM events e \
              WHERE stream_id = ANY ($1) AND event_type = ANY ($2) \
                AND ($3 OR NOT EXISTS (SELECT FROM events s WHERE s.stream_id = e.stream_id \
                                          AND s.event_type = 'PayloadShredded'))",
        )
        .bind(execution_ids)
        .bind(NAMING.map(EventKind::as_str))
        .bind(naming == Naming::All)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("read what executions name"))?;
        named(&rows)
    }

    /// Removes those of the candidates that no event behind a position names and that were last put or
    /// held before a moment. Whoever knows that nothing kept names them up to that position may call it. When
    /// it returns, their objects are gone as well.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Objects`], after which what was removed stays so, and the rest of
    /// its objects go with a later call; as [`Store::blobs_of`].
    pub async fn remove_blobs(
        &self,
        candidates: &[Digest],
        mut position: i64,
        before: DateTime<Utc>,
    ) -> Result<Removed, Error> {
        let run = Error::during(REMOVE);
        let mut removed = Removed::default();
        let mut still = HashSet::new();
        for step in candidates.chunks(STEP) {
            // Most of what was appended meanwhile is read before anybody has to wait.
            let mut connection = self.pool().acquire().await.map_err(&run)?;
            (position, still) = named_behind(&mut connection, position, still).await?;
            drop(connection);
            let mut transaction = self.pool().begin().await.map_err(&run)?;
            sqlx::query("SELECT lock_log()").execute(&mut *transaction).await.map_err(&run)?;
            (position, still) = named_behind(&mut transaction, position, still).await?;
            let gone: Vec<[u8; 32]> =
                step.iter().filter(|hash| !still.contains(*hash)).map(|hash| *hash.as_bytes()).collect();
            let sizes: Vec<i64> =
                sqlx::query_scalar("DELETE FROM blobs WHERE hash = ANY ($1) AND created_at < $2 RETURNING size")
                    .bind(gone)
                    .bind(before)
                    .fetch_all(&mut *transaction)
                    .await
                    .map_err(&run)?;
            transaction.commit().await.map_err(&run)?;
            removed.blobs += sizes.len() as u64;
            removed.bytes += sizes.iter().map(|size| size.unsigned_abs()).sum::<u64>();
        }
        // Of what was removed before and could not go then, too.
        self.remove_doomed().await?;
        Ok(removed)
    }
}

#[derive(Debug, FromRow)]
struct Named {
    position: i64,
    event_type: String,
    schema_version: i16,
    payload: String,
}

fn named(rows: &[Named]) -> Result<HashSet<Digest>, Error> {
    let mut named = HashSet::new();
    for row in rows {
        let event = event_of(&row.event_type, row.schema_version, &row.payload)
            .map_err(|error| Error::corrupt("events", row.position, error.column, error.reason))?;
        named.extend(event.blobs());
    }
    Ok(named)
}

/// How far the log is, and what events behind a position name, beside what is known already.
async fn named_behind(
    connection: &mut PgConnection,
    position: i64,
    mut known: HashSet<Digest>,
) -> Result<(i64, HashSet<Digest>), Error> {
    let rows: Vec<Named> = sqlx::query_as(
        "SELECT position, event_type, schema_version, payload::text AS payload FROM events \
          WHERE position > $1 ORDER BY position",
    )
    .bind(position)
    .fetch_all(connection)
    .await
    .map_err(Error::during(REMOVE))?;
    known.extend(named(&rows)?);
    Ok((rows.last().map_or(position, |row| row.position), known))
}
