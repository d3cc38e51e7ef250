//! Built versions of job types: which image a pinned version runs on.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// A built version.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct JobTypeVersion {
    pub job_type: String,
    /// Of what the version was built from, `sha256:<hex>`.
    pub digest: String,
    /// Reference and digest of the image.
    pub image: String,
    pub image_digest: String,
    pub created_at: DateTime<Utc>,
    /// The build's stream.
    pub build_id: Uuid,
}

impl Store {
    /// Records a built version; a rebuild of the same version replaces its image.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for text with a NUL.
    pub async fn put_job_type_version(&self, version: &JobTypeVersion) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO job_type_versions (job_type, digest, image, image_digest, created_at, build_id) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (job_type, digest) DO UPDATE \
             SET image = $3, image_digest = $4, created_at = $5, build_id = $6",
        )
        .bind(&version.job_type)
        .bind(&version.digest)
        .bind(&version.image)
        .bind(&version.image_digest)
        .bind(version.created_at)
        .bind(version.build_id)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("put job type version"))
    }

    /// A job type's built versions, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn job_type_versions(&self, job_type: &str) -> Result<Vec<JobTypeVersion>, Error> {
        sqlx::query_as("SELECT * FROM job_type_versions WHERE job_type = $1 ORDER BY created_at DESC, digest")
            .bind(job_type)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("list job type versions"))
    }
}
