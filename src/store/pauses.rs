//! Job types of which no job may start. The table is the newest event of each stream, and changes in one
//! transaction with it.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::append::{Append, Outcome};
use super::database::Store;
use super::error::Error;
use crate::crash_point::{self, Moment};
use crate::domain::EventKind;

/// All job types.
pub const EVERY_JOB_TYPE: &str = "*";

const PAUSE: &str = "pause job type";

/// Whether jobs of a type may start, as it was said last.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Pause {
    /// Or [`EVERY_JOB_TYPE`].
    pub job_type: String,
    /// Of its pauses alone.
    pub stream_id: Uuid,
    pub is_paused: bool,
    pub changed_at: DateTime<Utc>,
    pub changed_by: String,
    pub reason: Option<String>,
}

impl Store {
    /// What was said of every job type that was ever paused, by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn pauses(&self) -> Result<Vec<Pause>, Error> {
        sqlx::query_as("SELECT * FROM job_type_pauses ORDER BY job_type")
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("list pauses"))
    }

    /// Appends the event of a pause or its end and puts it in force, both or neither, and wakes every
    /// node. No claim made after it returns takes a job of a paused type. `false`, with nothing
    /// done, when somebody else was faster.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Invalid`] for an event that cannot be appended.
    pub async fn record_pause(&self, event: Append, pause: &Pause) -> Result<bool, Error> {
        let run = Error::during(PAUSE);
        let mut transaction = self.pool().begin().await.map_err(&run)?;
        let changed = sqlx::query(
            "INSERT INTO job_type_pauses (job_type, stream_id, is_paused, changed_at, changed_by, reason) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (job_type) DO UPDATE SET is_paused = $3, changed_at = $4, changed_by = $5, reason = $6 \
             WHERE job_type_pauses.stream_id = $2",
        )
        .bind(&pause.job_type)
        .bind(pause.stream_id)
        .bind(pause.is_paused)
        .bind(pause.changed_at)
        .bind(&pause.changed_by)
        .bind(&pause.reason)
        .execute(&mut *transaction)
        .await
        .map_err(&run)?;
        let kind = if pause.is_paused { EventKind::JobTypePaused } else { EventKind::JobTypeResumed };
        crash_point::reach("append", kind.as_str(), Moment::Before);
        let is_first = changed.rows_affected() == 1;
        if !is_first || !matches!(self.append_within(&mut transaction, event).await?, Outcome::Appended(_)) {
            transaction.rollback().await.map_err(run)?;
            return Ok(false);
        }
        sqlx::query("SELECT pg_notify('tako_vm', $1)")
            .bind(r#"{"node": "", "queue": true, "ended": false, "cancel": false}"#)
            .execute(&mut *transaction)
            .await
            .map_err(&run)?;
        transaction.commit().await.map_err(run)?;
        crash_point::reach("append", kind.as_str(), Moment::After);
        Ok(true)
    }
}
