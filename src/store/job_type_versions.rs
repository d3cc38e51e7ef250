//! Versions of job types: what each is made of, and which image it was built as.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;

/// More versions than that are not told apart by a prefix.
const MOST_MATCHES: i64 = 20;

/// A built version.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct JobTypeVersion {
    pub job_type: String,
    /// Of the recipe, 64 hexadecimal digits.
    pub digest: String,
    /// Reference and digest of the image.
    pub image: String,
    pub image_digest: String,
    /// When the build ended.
    pub created_at: DateTime<Utc>,
    /// The build's stream.
    pub build_id: Uuid,
    pub dockerfile_hash: Option<String>,
    /// Of `lock`.
    pub requirements_hash: Option<String>,
    /// Every package with its version and hash, one per line.
    pub lock: Option<String>,
    pub version_tag: Option<String>,
    pub built_by: Option<String>,
    /// When a job last ran on it, to a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// What a version is made of.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct StoredRecipe {
    /// 64 hexadecimal digits.
    pub digest: String,
    pub job_type: String,
    /// Canonical JSON.
    pub recipe: String,
}

impl Store {
    /// Records a built version; a rebuild of the same version replaces its image.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for text with a NUL.
    pub async fn put_job_type_version(&self, version: &JobTypeVersion) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO job_type_versions (job_type, digest, image, image_digest, created_at, build_id, \
                 dockerfile_hash, requirements_hash, lock, version_tag, built_by, last_used_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             ON CONFLICT (job_type, digest) DO UPDATE \
             SET image = $3, image_digest = $4, created_at = $5, build_id = $6, dockerfile_hash = $7, \
                 requirements_hash = $8, lock = $9, version_tag = coalesce($10, job_type_versions.version_tag), \
                 built_by = $11",
        )
        .bind(&version.job_type)
        .bind(&version.digest)
        .bind(&version.image)
        .bind(&version.image_digest)
        .bind(version.created_at)
        .bind(version.build_id)
        .bind(&version.dockerfile_hash)
        .bind(&version.requirements_hash)
        .bind(&version.lock)
        .bind(&version.version_tag)
        .bind(&version.built_by)
        .bind(version.last_used_at)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("put job type version"))
    }

    /// A job type's built versions, newest first; of all job types without a name.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn job_type_versions(&self, job_type: Option<&str>) -> Result<Vec<JobTypeVersion>, Error> {
        sqlx::query_as(
            "SELECT * FROM job_type_versions WHERE $1::text IS NULL OR job_type = $1 \
             ORDER BY created_at DESC, digest",
        )
        .bind(job_type)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("list job type versions"))
    }

    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn job_type_version(&self, job_type: &str, digest: &str) -> Result<Option<JobTypeVersion>, Error> {
        sqlx::query_as("SELECT * FROM job_type_versions WHERE job_type = $1 AND digest = $2")
            .bind(job_type)
            .bind(digest)
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during("get job type version"))
    }

    /// Notes that jobs ran on a version now; on one that was not built, nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn touch_job_type_version(&self, job_type: &str, digest: &str) -> Result<(), Error> {
        sqlx::query("UPDATE job_type_versions SET last_used_at = now() WHERE job_type = $1 AND digest = $2")
            .bind(job_type)
            .bind(digest)
            .execute(self.pool())
            .await
            .map(drop)
            .map_err(Error::during("touch job type version"))
    }

    /// Keeps what a version is made of. The same digest is the same recipe, so one that is there
    /// is left alone. Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for text with a NUL.
    pub async fn put_recipe(&self, recipe: &StoredRecipe, shared_code: Option<&[u8]>) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO job_type_recipes (digest, job_type, recipe, shared_code) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (job_type, digest) DO NOTHING",
        )
        .bind(&recipe.digest)
        .bind(&recipe.job_type)
        .bind(&recipe.recipe)
        .bind(shared_code)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("put recipe"))
    }

    /// The recipes of a job type whose digests begin so, up to twenty. The prefix must be
    /// hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn recipes(&self, job_type: &str, prefix: &str) -> Result<Vec<StoredRecipe>, Error> {
        sqlx::query_as(
            "SELECT digest, job_type, recipe FROM job_type_recipes WHERE job_type = $1 AND digest LIKE $2 || '%' \
             ORDER BY digest LIMIT $3",
        )
        .bind(job_type)
        .bind(prefix)
        .bind(MOST_MATCHES)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("find recipes"))
    }

    /// The archive of a version's shared files, if it has some.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn shared_code(&self, job_type: &str, digest: &str) -> Result<Option<Vec<u8>>, Error> {
        let found: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT shared_code FROM job_type_recipes WHERE job_type = $1 AND digest = $2")
                .bind(job_type)
                .bind(digest)
                .fetch_optional(self.pool())
                .await
                .map_err(Error::during("get shared code"))?;
        Ok(found.flatten())
    }
}
