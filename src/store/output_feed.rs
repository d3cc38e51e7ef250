//! Output of running jobs on its way between nodes: what somebody watches, and what was written so
//! far. Kept without a log, so a database that crashes forgets it; the blobs have it in the end.

use std::time::Duration;

use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// Chunks read by one statement.
const CHUNKS: i64 = 256;

/// A part of a job's output.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutputPart {
    /// From 0.
    pub number: i32,
    /// 1 standard output, 2 standard error.
    pub stream: i16,
    pub bytes: Vec<u8>,
}

impl Store {
    /// Says that somebody watches a job's output for so long from now, and tells the nodes.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn watch_output(&self, execution_id: Uuid, lasting: Duration) -> Result<(), Error> {
        sqlx::query(
            "WITH hasty AS (SELECT set_config('synchronous_commit', 'off', true)), \
                  watch AS (INSERT INTO output_watches (execution_id, until) \
                            SELECT $1, now() + make_interval(secs => $2) FROM hasty \
                            ON CONFLICT (execution_id) DO UPDATE \
                                SET until = greatest(output_watches.until, EXCLUDED.until) RETURNING 1) \
             SELECT pg_notify('tako_vm', $3) FROM watch",
        )
        .bind(execution_id)
        .bind(lasting.as_secs_f64())
        .bind(self.wake_text("watch"))
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("watch output"))
    }

    /// Those of the jobs that somebody watches.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn watched_outputs(&self, execution_ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar("SELECT execution_id FROM output_watches WHERE execution_id = ANY ($1) AND until > now()")
            .bind(execution_ids)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("look for watchers"))
    }

    /// Puts chunks of an attempt's output, the first of them under `first`. May be repeated.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn put_output(
        &self,
        execution_id: Uuid,
        attempt: u32,
        first: usize,
        chunks: &[(i16, &[u8])],
    ) -> Result<(), Error> {
        let (streams, bytes): (Vec<i16>, Vec<&[u8]>) = chunks.iter().copied().unzip();
        sqlx::query(
            "INSERT INTO output_chunks (execution_id, attempt, number, stream, bytes) \
             SELECT $1, $2, $3 + c.n::integer - 1, c.stream, c.bytes \
               FROM unnest($4::smallint[], $5::bytea[]) WITH ORDINALITY AS c (stream, bytes, n) \
             ON CONFLICT DO NOTHING",
        )
        .bind(execution_id)
        .bind(i32::try_from(attempt).unwrap_or(i32::MAX))
        .bind(i32::try_from(first).unwrap_or(i32::MAX))
        .bind(streams)
        .bind(bytes)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("put output"))
    }

    /// Some of an attempt's output from a chunk on, in order; what a node has not put is not there.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn output_parts(&self, execution_id: Uuid, attempt: u32, from: i32) -> Result<Vec<OutputPart>, Error> {
        sqlx::query_as(
            "SELECT number, stream, bytes FROM output_chunks \
              WHERE execution_id = $1 AND attempt = $2 AND number >= $3 ORDER BY number LIMIT $4",
        )
        .bind(execution_id)
        .bind(i32::try_from(attempt).unwrap_or(i32::MAX))
        .bind(from)
        .bind(CHUNKS)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("get output"))
    }

    /// Forgets the output of a job that runs no more.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn forget_output(&self, execution_id: Uuid) -> Result<(), Error> {
        sqlx::query("DELETE FROM output_chunks WHERE execution_id = $1")
            .bind(execution_id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("forget output"))
    }

    /// Forgets watches that are over, and the output of jobs whose node died with them.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn forget_old_output(&self, older_than: Duration) -> Result<(), Error> {
        sqlx::query(
            "WITH watches AS (DELETE FROM output_watches WHERE until < now() - make_interval(secs => $1)) \
             DELETE FROM output_chunks c WHERE put_at < now() - make_interval(secs => $1) \
                AND NOT EXISTS (SELECT FROM queue q WHERE q.execution_id = c.execution_id AND q.lease IS NOT NULL)",
        )
        .bind(older_than.as_secs_f64())
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("forget old output"))
    }
}
