//! How many executions there are of each status, without counting all of them every time.

use std::collections::BTreeMap;

use super::database::Store;
use super::error::Error;
use crate::domain::{EventKind, Status};

const COUNT: &str = "count executions";

/// What each end is called in the log, of which an execution has exactly one.
const ENDS: [(EventKind, Status); 5] = [
    (EventKind::ExecutionSucceeded, Status::Succeeded),
    (EventKind::ExecutionFailed, Status::Failed),
    (EventKind::ExecutionTimedOut, Status::Timeout),
    (EventKind::ExecutionOutOfMemory, Status::Oom),
    (EventKind::ExecutionCancelled, Status::Cancelled),
];

/// Executions by status, as of a position of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusCounts {
    position: i64,
    ended: BTreeMap<&'static str, u64>,
    in_progress: BTreeMap<String, u64>,
}

impl StatusCounts {
    pub fn of(&self, status: Status) -> u64 {
        let name = status.as_str();
        self.ended.get(name).or(self.in_progress.get(name)).copied().unwrap_or_default()
    }
}

impl Store {
    /// Counts everything. Takes time in proportion to the executions.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn status_counts(&self) -> Result<StatusCounts, Error> {
        // One statement, and so one snapshot.
        let rows: Vec<(i64, Option<String>, i64)> = sqlx::query_as(
            "SELECT e.position, n.status, coalesce(n.count, 0) \
               FROM (SELECT coalesce(max(position), 0) AS position FROM events) e \
               LEFT JOIN (SELECT status, count(*) AS count FROM endings GROUP BY status) n ON true",
        )
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(COUNT))?;
        let mut counts = StatusCounts::default();
        for (position, status, count) in rows {
            counts.position = position;
            if let Some((_, status)) = ENDS.iter().find(|(_, ending)| Some(ending.as_str()) == status.as_deref()) {
                counts.ended.insert(status.as_str(), count.unsigned_abs());
            }
        }
        counts.in_progress = self.in_progress().await?;
        Ok(counts)
    }

    /// Counts what was appended since. Takes time in proportion to that and to the queue.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn status_counts_since(&self, mut counts: StatusCounts) -> Result<StatusCounts, Error> {
        let end = self.last_position().await?;
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT event_type, count(*) FROM events \
              WHERE position > $1 AND position <= $2 AND event_type = ANY ($3) GROUP BY event_type",
        )
        .bind(counts.position)
        .bind(end)
        .bind(ENDS.map(|(kind, _)| kind.as_str()))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(COUNT))?;
        for (name, count) in rows {
            if let Some((_, status)) = ENDS.iter().find(|(kind, _)| kind.as_str() == name) {
                *counts.ended.entry(status.as_str()).or_default() += count.unsigned_abs();
            }
        }
        counts.position = end;
        counts.in_progress = self.in_progress().await?;
        Ok(counts)
    }

    async fn in_progress(&self) -> Result<BTreeMap<String, u64>, Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT x.status, count(*) FROM queue q JOIN executions x ON x.execution_id = q.execution_id \
              GROUP BY x.status",
        )
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(COUNT))?;
        Ok(rows.into_iter().map(|(status, count)| (status, count.unsigned_abs())).collect())
    }
}
