//! How far the projection is, and how large.

use chrono::{DateTime, Utc};

use super::database::Store;
use super::error::Error;
use super::rebuild::REBUILD_LOCK;

/// What is derived from the log, counted.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Projections {
    /// The position of the newest event, and so how many events there are. Rows are written in
    /// the transaction of their events, so that this is also how far the projection is.
    pub newest: i64,
    /// The last position that a seal covers.
    pub sealed: i64,
    pub executions: i64,
    pub endings: i64,
    pub queued: i64,
    pub dead_letters: i64,
    /// Executions that have not ended by their rows, and are not in the queue. Always 0.
    pub astray: i64,
    /// The newest migration, which is the shape of the tables.
    pub migration: i64,
    /// Which of the versions that rebuilds made is in use, and since when.
    pub version: i64,
    pub live_at: DateTime<Utc>,
    /// Executions in which the version before differed from the log; `None` for the first.
    pub differing: Option<i64>,
    #[sqlx(skip)]
    pub building: Option<BuildingVersion>,
}

/// A version that is not in use yet.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BuildingVersion {
    pub version: i64,
    pub started_at: DateTime<Utc>,
    /// It holds every event up to this position.
    pub checkpoint: i64,
    /// Whether somebody works on it. Else its program died, and the next rebuild removes it.
    pub is_worked_on: bool,
}

impl Store {
    /// Counts everything; takes time in proportion to the executions.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn projections(&self) -> Result<Projections, Error> {
        let run = Error::during("count projections");
        let mut counted: Projections = sqlx::query_as(
            "SELECT coalesce((SELECT max(position) FROM events), 0) AS newest, \
                    coalesce((SELECT max(last_position) FROM seals), 0) AS sealed, \
                    (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM endings) AS endings, \
                    (SELECT count(*) FROM queue) AS queued, (SELECT count(*) FROM dead_letters) AS dead_letters, \
                    (SELECT count(*) FROM executions x WHERE ended_at IS NULL \
                        AND NOT EXISTS (SELECT FROM queue q WHERE q.execution_id = x.execution_id)) AS astray, \
                    (SELECT max(version) FROM _sqlx_migrations) AS migration, \
                    v.version, v.live_at, v.differing \
               FROM projection_versions v WHERE v.live_at IS NOT NULL ORDER BY v.version DESC LIMIT 1",
        )
        .fetch_one(self.pool())
        .await
        .map_err(&run)?;
        counted.building = sqlx::query_as(
            "SELECT version, started_at, checkpoint, \
                    EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                               AND (l.classid::bigint << 32) | l.objid::bigint = $1) AS is_worked_on \
               FROM projection_versions WHERE live_at IS NULL ORDER BY version DESC LIMIT 1",
        )
        .bind(REBUILD_LOCK)
        .fetch_optional(self.pool())
        .await
        .map_err(run)?;
        Ok(counted)
    }
}
