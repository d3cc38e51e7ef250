//! How far the projection is, and how large.

use super::database::Store;
use super::error::Error;

/// What is derived from the log, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
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
    /// The newest migration, which is the version of the tables.
    pub version: i64,
}

impl Store {
    /// Counts everything; takes time in proportion to the executions.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn projections(&self) -> Result<Projections, Error> {
        sqlx::query_as(
            "SELECT coalesce((SELECT max(position) FROM events), 0) AS newest, \
                    coalesce((SELECT max(last_position) FROM seals), 0) AS sealed, \
                    (SELECT count(*) FROM executions) AS executions, (SELECT count(*) FROM endings) AS endings, \
                    (SELECT count(*) FROM queue) AS queued, (SELECT count(*) FROM dead_letters) AS dead_letters, \
                    (SELECT count(*) FROM executions x WHERE ended_at IS NULL \
                        AND NOT EXISTS (SELECT FROM queue q WHERE q.execution_id = x.execution_id)) AS astray, \
                    (SELECT max(version) FROM _sqlx_migrations) AS version",
        )
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("count projections"))
    }
}
