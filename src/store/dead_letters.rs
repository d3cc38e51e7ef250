//! Jobs that the service failed for good and that wait for somebody to decide.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::append::DeadLetterRow;
use super::database::Store;
use super::error::Error;

pub(super) type Columns = (Uuid, DateTime<Utc>, i32, String, String, String, String, Option<String>, Option<String>);

pub(super) fn letter(columns: Columns) -> DeadLetterRow {
    let (execution_id, created_at, retry_count, tenant, job_type, error_type, error_message, client_ip, correlation_id) =
        columns;
    DeadLetterRow {
        execution_id,
        tenant,
        job_type,
        error_type,
        error_message,
        retry_count: retry_count.unsigned_abs(),
        created_at,
        client_ip,
        correlation_id,
    }
}

/// Which dead letters; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    pub tenant: Option<String>,
    pub error_type: Option<String>,
}

impl Store {
    /// Up to `limit` dead letters, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        limit: u32,
        offset: u64,
    ) -> Result<Vec<DeadLetterRow>, Error> {
        let query = "SELECT execution_id, created_at, retry_count, tenant, job_type, error_type, error_message, \
             client_ip, correlation_id FROM dead_letters \
             WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR error_type = $2) \
             ORDER BY execution_id DESC LIMIT $3 OFFSET $4";
        let rows: Vec<Columns> = sqlx::query_as(query)
            .bind(&filter.tenant)
            .bind(&filter.error_type)
            .bind(i64::from(limit))
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("list dead letters"))?;
        Ok(rows.into_iter().map(letter).collect())
    }

    /// The dead letter of an execution.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn dead_letter(&self, execution_id: Uuid) -> Result<Option<DeadLetterRow>, Error> {
        let row: Option<Columns> = sqlx::query_as(
            "SELECT execution_id, created_at, retry_count, tenant, job_type, error_type, error_message, \
             client_ip, correlation_id FROM dead_letters \
             WHERE execution_id = $1",
        )
        .bind(execution_id)
        .fetch_optional(self.pool())
        .await
        .map_err(Error::during("get dead letter"))?;
        Ok(row.map(letter))
    }

    /// Up to `limit` executions whose dead letters came before a moment, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn dead_letters_before(&self, moment: DateTime<Utc>, limit: u32) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar("SELECT execution_id FROM dead_letters WHERE created_at < $1 ORDER BY created_at LIMIT $2")
            .bind(moment)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("look for old dead letters"))
    }

    /// How many there are of each error type, the most frequent first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn dead_letter_counts(&self, tenant: Option<&str>) -> Result<Vec<(String, u64)>, Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT error_type, count(*) FROM dead_letters WHERE ($1::text IS NULL OR tenant = $1) \
             GROUP BY error_type ORDER BY count(*) DESC, error_type",
        )
        .bind(tenant)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("count dead letters"))?;
        Ok(rows.into_iter().map(|(error_type, count)| (error_type, count.unsigned_abs())).collect())
    }
}
