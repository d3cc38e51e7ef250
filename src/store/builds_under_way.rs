//! Builds that have begun and not ended, as their events say.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// A build without an end.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct BuildUnderWay {
    pub build_id: Uuid,
    pub job_type: String,
    /// Of the version, 64 hexadecimal digits.
    pub digest: String,
    pub began_at: DateTime<Utc>,
}

impl Store {
    /// Builds whose node gave no sign of life within `dead_after`, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn builds_of_dead_nodes(&self, dead_after: Duration) -> Result<Vec<BuildUnderWay>, Error> {
        sqlx::query_as(
            "SELECT b.build_id, b.job_type, b.digest, b.began_at FROM builds_under_way b \
              WHERE b.began_at < now() - make_interval(secs => $1) \
                AND NOT EXISTS (SELECT FROM nodes n WHERE n.node_id = b.node_id AND n.state <> 'stopped' \
                                   AND n.heartbeat_at > now() - make_interval(secs => $1)) ORDER BY b.build_id",
        )
        .bind(dead_after.as_secs_f64())
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look for interrupted builds"))
    }
}
