//! The partitions of the log: making the next ones, and dropping old ones that were archived.

use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::append::{Append, NewEvent, StreamKind};
use super::batch::{self, Prepared};
use super::database::Store;
use super::error::Error;

const DROP: &str = "drop partitions";

/// Streams that are in one partition, or in some that follow one another.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Partition {
    pub name: String,
    /// `None` for the first.
    pub from_stream: Option<Uuid>,
    /// Not among them.
    pub to_stream: Uuid,
}

/// Why old streams may not be dropped yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Holds {
    /// Executions whose record has not expired.
    pub records: i64,
    /// Nodes that may still be running.
    pub nodes: i64,
    /// Schedules that were not removed.
    pub schedules: i64,
    /// Events that no seal covers.
    pub unsealed: i64,
    pub events: i64,
    /// No stream can begin in it any more.
    pub is_past: bool,
}

impl Holds {
    pub fn is_free(&self) -> bool {
        self.is_past && (self.records, self.nodes, self.schedules, self.unsealed) == (0, 0, 0, 0)
    }
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.is_past {
            return f.write_str("streams that can still begin");
        }
        write!(
            f,
            "{} executions that have not expired, {} nodes that may be running, {} schedules, \
             {} events that are not sealed",
            self.records, self.nodes, self.schedules, self.unsealed
        )
    }
}

impl Store {
    /// Makes the partitions of so many months ahead, where they are missing.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] when events of such a month stand elsewhere already.
    pub async fn make_partitions(&self, months: i32) -> Result<i32, Error> {
        sqlx::query_scalar("SELECT make_event_partitions($1)")
            .bind(months)
            .fetch_one(self.pool())
            .await
            .map_err(Error::during("make partitions"))
    }

    /// The partitions whose streams all began before an id, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn partitions_before(&self, stream: Uuid) -> Result<Vec<Partition>, Error> {
        sqlx::query_as("SELECT * FROM event_partitions WHERE to_stream <= $1 ORDER BY to_stream")
            .bind(stream)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("list partitions"))
    }

    /// What keeps the streams before an id from being dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn holds_before(&self, to_stream: Uuid) -> Result<Holds, Error> {
        let mut connection = self.pool().acquire().await.map_err(Error::during(DROP))?;
        holds(&mut connection, to_stream).await
    }

    /// Drops whole partitions in one transaction with the event that says so, if nothing holds their streams
    /// and they have as many events as were archived; answers what held them otherwise. What is
    /// kept of them: their seals, and the hashes of events whose seals cover others, too.
    ///
    /// # Errors
    /// [`Error::Refused`] for a login that does not own the tables; [`Error::Unavailable`].
    pub async fn drop_partitions(
        &self,
        partitions: &[Partition],
        archived: i64,
        said: NewEvent,
    ) -> Result<Option<Holds>, Error> {
        let run = Error::during(DROP);
        let Some(last) = partitions.last() else { return Ok(None) };
        let mut transaction = self.pool().begin().await.map_err(&run)?;
        // The application's role drops nothing; the login does it itself.
        sqlx::query("SET LOCAL ROLE NONE").execute(&mut *transaction).await.map_err(&run)?;
        sqlx::query("SELECT lock_log()").execute(&mut *transaction).await.map_err(&run)?;
        let holds = holds(&mut transaction, last.to_stream).await?;
        if !holds.is_free() || holds.events != archived {
            transaction.rollback().await.map_err(&run)?;
            return Ok(Some(holds));
        }
        for statement in [
            "INSERT INTO archived_seals SELECT s.seal_no FROM seals s WHERE s.first_position <= \
                 (SELECT max(position) FROM events WHERE stream_id < $1) \
                AND NOT EXISTS (SELECT FROM events e WHERE e.position BETWEEN s.first_position AND s.last_position \
                                   AND e.stream_id >= $1) ON CONFLICT DO NOTHING",
            "INSERT INTO archived_leaves SELECT e.position, e.stream_kind, e.hash FROM events e \
                 JOIN seals s ON e.position BETWEEN s.first_position AND s.last_position \
                WHERE e.stream_id < $1 AND NOT EXISTS (SELECT FROM archived_seals a WHERE a.seal_no = s.seal_no)",
            "DELETE FROM archived_leaves l USING seals s, archived_seals a \
              WHERE l.position BETWEEN s.first_position AND s.last_position AND a.seal_no = s.seal_no \
                AND $1::uuid IS NOT NULL",
        ] {
            sqlx::query(statement).bind(last.to_stream).execute(&mut *transaction).await.map_err(&run)?;
        }
        let item = Append::events(Uuid::now_v7(), StreamKind::Upkeep, vec![said]);
        let item = [Prepared::new(item)?];
        let rows = batch::statement(self.node(), &item)?.fetch_all(&mut *transaction).await.map_err(&run)?;
        if rows.first().map(|row| row.1) != Some(0) {
            return Err(Error::corrupt("events", "archive", "verdict", "the event was not appended"));
        }
        for partition in partitions {
            let drop = format!("DROP TABLE \"{}\"", partition.name);
            sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut *transaction).await.map_err(&run)?;
            sqlx::query("DELETE FROM event_partitions WHERE name = $1")
                .bind(&partition.name)
                .execute(&mut *transaction)
                .await
                .map_err(&run)?;
        }
        transaction.commit().await.map_err(&run)?;
        Ok(None)
    }
}

async fn holds(connection: &mut PgConnection, to_stream: Uuid) -> Result<Holds, Error> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM executions WHERE execution_id < $1) AS records, \
                (SELECT count(*) FROM nodes WHERE node_id < $1 AND state <> 'stopped' \
                    AND heartbeat_at > now() - interval '1 day') AS nodes, \
                (SELECT count(*) FROM schedules WHERE schedule_id < $1 AND removed_at IS NULL) AS schedules, \
                (SELECT count(*) FROM events WHERE stream_id < $1 AND position > \
                     (SELECT coalesce(max(last_position), 0) FROM seals)) AS unsealed, \
                (SELECT count(*) FROM events WHERE stream_id < $1) AS events, \
                $1 <= first_stream_of(now()) AS is_past",
    )
    .bind(to_stream)
    .fetch_one(connection)
    .await
    .map_err(Error::during(DROP))
}
