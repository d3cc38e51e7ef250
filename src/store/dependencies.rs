//! Who waits for whose end. Rows come with a submission and change with ends, by what the migrations
//! put beside the queue; the log says what was made of them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::database::Store;
use super::error::Error;
use crate::domain::{DependencyEnd, Status};

/// Seconds since 1970 at the begin of the year 9999, as the migrations have it.
const NEVER: i64 = 253_370_764_800;

/// The `not_before` of a job that waits for others: no claim finds it.
pub fn held_back() -> DateTime<Utc> {
    DateTime::from_timestamp(NEVER, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

impl Store {
    /// Up to `limit` jobs that wait for an execution that has ended, which nobody has told them yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn dependents_to_tell(&self, limit: u32) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "SELECT DISTINCT execution_id FROM dependencies WHERE ended AND NOT settled ORDER BY execution_id LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("look for dependents"))
    }

    /// How those of the executions ended that have, and those that are no longer there.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Corrupt`] for a record that does not read.
    pub async fn ends_of(&self, execution_ids: &[Uuid]) -> Result<Vec<DependencyEnd>, Error> {
        let rows: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT execution_id, status FROM executions WHERE execution_id = ANY ($1)")
                .bind(execution_ids)
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("read statuses"))?;
        let mut statuses: HashMap<Uuid, Option<Status>> =
            rows.into_iter().map(|(id, status)| (id, Status::from_name(&status))).collect();
        let gone: Vec<_> = execution_ids.iter().copied().filter(|id| !statuses.contains_key(id)).collect();
        // An expired one has no row, and its stream for as long as the log holds it.
        if !gone.is_empty() {
            for stored in self.records(&gone).await? {
                statuses.insert(stored.record.execution_id, Some(stored.record.status()));
            }
        }
        Ok(execution_ids
            .iter()
            .map(|id| DependencyEnd { execution_id: *id, status: statuses.get(id).copied().flatten() })
            .filter(|end| end.status.is_none_or(Status::is_terminal))
            .collect())
    }

    /// Notes that a job was told of the ends of some, or of all that it waited for.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn settle_dependencies(&self, execution_id: Uuid, ended: Option<&[Uuid]>) -> Result<(), Error> {
        sqlx::query(
            "UPDATE dependencies SET settled = true \
              WHERE execution_id = $1 AND NOT settled AND ($2::uuid[] IS NULL OR after_id = ANY ($2))",
        )
        .bind(execution_id)
        .bind(ended)
        .execute(self.pool())
        .await
        .map(drop)
        .map_err(Error::during("settle dependencies"))
    }
}
