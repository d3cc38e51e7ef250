//! Job types as administrators defined them: the newest event of each job type's stream.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::append::StreamKind;
use super::database::Store;
use super::error::Error;

/// A job type as it is now.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DefinedJobType {
    pub name: String,
    pub stream_id: Uuid,
    /// 1 for the first definition.
    pub revision: i32,
    pub defined_at: DateTime<Utc>,
    pub defined_by: String,
    /// Canonical JSON.
    pub definition: String,
}

impl Store {
    /// Keeps a definition under its digest. Put it before the event that names it. Durable when
    /// it returns.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for text with a NUL.
    pub async fn put_job_type_definition(&self, digest: &str, definition: &str) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO job_type_definitions (digest, definition) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING",
        )
        .bind(digest)
        .bind(definition)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("put job type definition"))
    }

    /// All of them, by name. Of two streams of one name, which two nodes began at the same time, the
    /// first comes last, and counts.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn defined_job_types(&self) -> Result<Vec<DefinedJobType>, Error> {
        sqlx::query_as(
            "SELECT e.payload->>'name' AS name, e.stream_id, e.version AS revision, e.recorded_at AS defined_at, \
                    e.payload->>'by' AS defined_by, d.definition \
               FROM (SELECT DISTINCT ON (stream_id) * FROM events WHERE stream_kind = 5 \
                      ORDER BY stream_id, version DESC) e \
               JOIN job_type_definitions d ON d.digest = e.payload->>'definition' \
              WHERE e.event_type = 'JobTypeDefined' AND e.stream_kind = $1 ORDER BY 1, e.stream_id DESC",
        )
        .bind(StreamKind::JobType as i16)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list job types"))
    }
}
