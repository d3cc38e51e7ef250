//! Job types as administrators defined them: what each job type's stream came to.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// A job type as it is now.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DefinedJobType {
    pub name: String,
    /// Its events may have been archived and dropped.
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

    /// All of them, by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn defined_job_types(&self) -> Result<Vec<DefinedJobType>, Error> {
        sqlx::query_as(
            "SELECT t.name, t.stream_id, t.revision, t.defined_at, t.defined_by, d.definition \
               FROM job_types t JOIN job_type_definitions d ON d.digest = t.definition ORDER BY t.name",
        )
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list job types"))
    }
}
