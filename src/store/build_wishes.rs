//! Builds that one node asks of others, and what comes back.

use std::time::Duration;

use sqlx::FromRow;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// Lines read by one statement.
const LINES: i64 = 1_000;

/// What is to be built, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct BuildWish {
    pub wish_id: Uuid,
    /// A job type, or a version of one.
    pub job_type: String,
    pub version_tag: Option<String>,
    pub wished_by: String,
    pub correlation_id: Option<String>,
}

/// How far a node is with a wish.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct WishState {
    pub node_id: Uuid,
    pub taken: bool,
    /// Whether the node still gives signs of life.
    pub is_alive: bool,
    /// JSON, as [`Store::end_wish`] was given it.
    pub outcome: Option<String>,
}

impl Store {
    /// Asks every live node that works to build; answers with these nodes.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn wish_build(&self, wish: &BuildWish, dead_after: Duration) -> Result<Vec<Uuid>, Error> {
        let asked: Vec<(Uuid,)> = sqlx::query_as(
            "WITH asked AS (\
                 INSERT INTO build_wishes (wish_id, node_id, job_type, version_tag, wished_by, correlation_id) \
                 SELECT $1, node_id, $2, $3, $4, $5 FROM nodes \
                  WHERE state = 'running' AND role <> 'api' AND heartbeat_at > now() - make_interval(secs => $6) \
                 RETURNING node_id) \
             SELECT node_id FROM asked, pg_notify('tako_vm', $7)",
        )
        .bind(wish.wish_id)
        .bind(&wish.job_type)
        .bind(&wish.version_tag)
        .bind(&wish.wished_by)
        .bind(&wish.correlation_id)
        .bind(dead_after.as_secs_f64())
        .bind(self.wake_text("build"))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("ask for a build"))?;
        Ok(asked.into_iter().map(|(node_id,)| node_id).collect())
    }

    /// The wishes that a node has not taken so far; now it has.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn take_wishes(&self, node_id: Uuid) -> Result<Vec<BuildWish>, Error> {
        sqlx::query_as(
            "UPDATE build_wishes SET taken_at = clock_timestamp() \
              WHERE node_id = $1 AND taken_at IS NULL AND outcome IS NULL \
             RETURNING wish_id, job_type, version_tag, wished_by, correlation_id",
        )
        .bind(node_id)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("take builds"))
    }

    /// Keeps lines that a node's build said, the first of them under `first`, and answers whether
    /// somebody cancelled it. A line holds no NUL character.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn put_build_lines(
        &self,
        wish_id: Uuid,
        node_id: Uuid,
        first: usize,
        lines: &[String],
    ) -> Result<bool, Error> {
        let cancelled: Option<bool> = sqlx::query_scalar(
            "WITH put AS (\
                 INSERT INTO build_lines (wish_id, node_id, number, line) \
                 SELECT $1, $2, $3 + l.n::integer - 1, l.line FROM unnest($4::text[]) WITH ORDINALITY AS l (line, n) \
                 ON CONFLICT DO NOTHING) \
             SELECT cancelled FROM build_wishes WHERE wish_id = $1 AND node_id = $2",
        )
        .bind(wish_id)
        .bind(node_id)
        .bind(i32::try_from(first).unwrap_or(i32::MAX))
        .bind(lines)
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("put build lines"))?;
        Ok(cancelled.unwrap_or(true))
    }

    /// Says how a node's build ended.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn end_wish(&self, wish_id: Uuid, node_id: Uuid, outcome: &str) -> Result<(), Error> {
        sqlx::query("UPDATE build_wishes SET outcome = $3 WHERE wish_id = $1 AND node_id = $2")
            .bind(wish_id)
            .bind(node_id)
            .bind(outcome)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("end build"))
    }

    /// Cancels a wish on every node.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn cancel_wish(&self, wish_id: Uuid) -> Result<(), Error> {
        sqlx::query("UPDATE build_wishes SET cancelled = true WHERE wish_id = $1")
            .bind(wish_id)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("cancel build"))
    }

    /// How far each node is.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn wish_states(&self, wish_id: Uuid, dead_after: Duration) -> Result<Vec<WishState>, Error> {
        sqlx::query_as(
            "SELECT w.node_id, w.taken_at IS NOT NULL AS taken, w.outcome, \
                    EXISTS (SELECT FROM nodes n WHERE n.node_id = w.node_id AND n.state <> 'stopped' \
                               AND n.heartbeat_at > now() - make_interval(secs => $2)) AS is_alive \
               FROM build_wishes w WHERE w.wish_id = $1 ORDER BY w.node_id",
        )
        .bind(wish_id)
        .bind(dead_after.as_secs_f64())
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look at builds"))
    }

    /// Some of what a node's build said, from a line on.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn build_lines(&self, wish_id: Uuid, node_id: Uuid, from: usize) -> Result<Vec<String>, Error> {
        sqlx::query_scalar(
            "SELECT line FROM build_lines WHERE wish_id = $1 AND node_id = $2 AND number >= $3 ORDER BY number LIMIT $4",
        )
        .bind(wish_id)
        .bind(node_id)
        .bind(i32::try_from(from).unwrap_or(i32::MAX))
        .bind(LINES)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("get build lines"))
    }

    /// Forgets wishes that were made so long ago, and what was said of them.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn forget_wishes(&self, older_than: Duration) -> Result<(), Error> {
        sqlx::query(
            "WITH old AS (DELETE FROM build_wishes WHERE created_at < now() - make_interval(secs => $1) RETURNING wish_id) \
             DELETE FROM build_lines l USING old WHERE l.wish_id = old.wish_id",
        )
        .bind(older_than.as_secs_f64())
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("forget builds"))
    }
}
