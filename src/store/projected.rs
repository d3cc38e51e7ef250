//! The rows that are derived from the log, made from whole streams at a time.

use chrono::{DateTime, Utc};
use futures::{Stream, stream};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::append::{DeadLetterRow, RecordRow, StreamKind};
use super::codec::event_of;
use super::copy::{Copied, RawEvent};
use super::database::Store;
use super::error::Error;
use crate::domain::{DeadLetter, Envelope, Event, ExecutionRecord, Status};

const WRITE: &str = "write projections";

/// A table of them, as `projection_tables()` in the migrations names it.
pub(super) struct Table {
    pub name: &'static str,
    /// The columns of its primary key.
    pub key: &'static [&'static str],
}

pub(super) const TABLES: [Table; 3] = [
    Table { name: "executions", key: &["execution_id"] },
    Table { name: "endings", key: &["status", "execution_id"] },
    Table { name: "dead_letters", key: &["execution_id"] },
];

/// Streams whose ids lie behind one and go up to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    after: Option<Uuid>,
    last: Option<Uuid>,
}

impl Part {
    /// For a column of ids.
    pub(super) fn condition(self, column: &str) -> String {
        let after = self.after.map_or(String::new(), |after| format!(" AND {column} > '{after}'"));
        let last = self.last.map_or(String::new(), |last| format!(" AND {column} <= '{last}'"));
        format!("true{after}{last}")
    }
}

/// All rows of one execution.
struct Projected {
    execution_id: Uuid,
    version: i32,
    row: RecordRow,
    dead_letter: Option<DeadLetterRow>,
}

/// What whole streams came to.
pub(super) struct Folded {
    pub events: u64,
    rows: Vec<Projected>,
}

impl Store {
    /// Cuts the streams into parts of about `size` events, which together hold every id there can be.
    pub(super) fn parts(&self, size: i64) -> impl Stream<Item = Result<Part, Error>> {
        stream::try_unfold(Some(None), move |from: Option<Option<Uuid>>| async move {
            let Some(after) = from else { return Ok(None) };
            let last: Option<Uuid> = sqlx::query_scalar(
                "SELECT stream_id FROM events WHERE $1::uuid IS NULL OR stream_id > $1 \
                  ORDER BY stream_id OFFSET $2 LIMIT 1",
            )
            .bind(after)
            .bind(size)
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during("cut the log into parts"))?;
            Ok(Some((Part { after, last }, last.map(Some))))
        })
    }

    /// Reads and folds the streams of executions that a condition lets through. The condition
    /// must come from this program alone.
    pub(super) async fn fold_streams(&self, condition: &str) -> Result<Folded, Error> {
        let condition = format!("stream_kind = {} AND {condition}", StreamKind::Execution as i16);
        let copied = self.copy_events(&condition, "stream_id, version", i64::MAX).await?;
        match tokio::task::spawn_blocking(move || Folded::of(&copied)).await {
            Ok(folded) => folded,
            Err(lost) => std::panic::resume_unwind(lost.into_panic()),
        }
    }
}

/// One execution on its way through its stream.
#[derive(Default)]
pub(super) struct Folding {
    pub record: Option<ExecutionRecord>,
    letter: Option<DeadLetterRow>,
}

impl Folding {
    pub(super) fn evolve(&mut self, envelope: &Envelope) -> Result<(), crate::domain::NotFoldable> {
        self.record = ExecutionRecord::evolve(self.record.take(), envelope)?;
        if let (Some(record), Event::JobDeadLettered(letter)) = (&self.record, &envelope.event) {
            self.letter = Some(DeadLetterRow::of(record, letter, envelope.recorded_at));
        }
        Ok(())
    }

    /// `None` for a stream that has no record: a rejected job.
    fn projected(self) -> Option<Projected> {
        let dead_letter = self.dead_letter().cloned();
        // An expired execution has no rows.
        let record = self.record.filter(|record| record.expired_at.is_none())?;
        Some(Projected {
            execution_id: record.execution_id,
            version: record.version,
            row: RecordRow::of(&record),
            dead_letter,
        })
    }

    /// The dead letter that somebody has to decide about.
    pub(super) fn dead_letter(&self) -> Option<&DeadLetterRow> {
        let record = self.record.as_ref()?;
        let is_waiting = record.dead_letter == Some(DeadLetter::Waiting) && record.expired_at.is_none();
        self.letter.as_ref().filter(|_| is_waiting)
    }
}

impl Folded {
    /// Of streams one after the other, each in the order of versions.
    fn of(copied: &Copied) -> Result<Self, Error> {
        let mut folded = Self { events: 0, rows: Vec::new() };
        let mut stream = None;
        let mut folding = Folding::default();
        copied.read(|event| {
            let event =
                event.map_err(|at| Error::corrupt("events", at.position, at.column, "is not what is written"))?;
            if stream.replace(event.link.stream_id) != Some(event.link.stream_id) {
                folded.rows.extend(std::mem::take(&mut folding).projected());
            }
            let evolved = folding.evolve(&envelope(&event)?);
            evolved.map_err(|error| Error::corrupt("events", event.position, "payload", error))?;
            folded.events += 1;
            Ok(())
        })?;
        folded.rows.extend(folding.projected());
        Ok(folded)
    }

    /// Inserts the rows into the tables of a version that has none of them.
    pub(super) async fn insert(&self, connection: &mut PgConnection, version: i64) -> Result<(), Error> {
        let run = Error::during(WRITE);
        let rows = &self.rows;
        let executions = format!(
            "INSERT INTO executions_v{version} (execution_id, parent_execution_id, created_at, tenant, job_type, \
                                                version, status, ended_at) \
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::int4[], \
                                  $7::text[], $8::timestamptz[])"
        );
        sqlx::query(AssertSqlSafe(executions))
            .bind(column(rows, |row| row.execution_id))
            .bind(column(rows, |row| row.row.parent_execution_id))
            .bind(column(rows, |row| row.row.created_at))
            .bind(column(rows, |row| row.row.tenant.clone()))
            .bind(column(rows, |row| row.row.job_type.clone()))
            .bind(column(rows, |row| row.version))
            .bind(column(rows, |row| row.row.status.clone()))
            .bind(column(rows, |row| row.row.ended_at))
            .execute(&mut *connection)
            .await
            .map_err(&run)?;
        let endings = format!(
            "INSERT INTO endings_v{version} (status, execution_id) \
             SELECT e.status, e.id FROM unnest($1::text[], $2::uuid[], $3::bool[]) AS e (status, id, is_ended) \
              WHERE e.is_ended"
        );
        sqlx::query(AssertSqlSafe(endings))
            .bind(column(rows, |row| row.row.status.clone()))
            .bind(column(rows, |row| row.execution_id))
            .bind(column(rows, |row| row.row.ended_at.is_some()))
            .execute(&mut *connection)
            .await
            .map_err(&run)?;
        let letters: Vec<_> = rows.iter().filter_map(|row| row.dead_letter.as_ref()).collect();
        if letters.is_empty() {
            return Ok(());
        }
        let dead_letters = format!(
            "INSERT INTO dead_letters_v{version} (execution_id, created_at, retry_count, tenant, job_type, \
                                                  error_type, error_message, client_ip, correlation_id) \
             SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::int4[], $4::text[], $5::text[], $6::text[], \
                                  $7::text[], $8::text[], $9::text[])"
        );
        sqlx::query(AssertSqlSafe(dead_letters))
            .bind(column(&letters, |letter| letter.execution_id))
            .bind(column(&letters, |letter| letter.created_at))
            .bind(column(&letters, |letter| letter.retry_count.cast_signed()))
            .bind(column(&letters, |letter| letter.tenant.clone()))
            .bind(column(&letters, |letter| letter.job_type.clone()))
            .bind(column(&letters, |letter| letter.error_type.clone()))
            .bind(column(&letters, |letter| letter.error_message.clone()))
            .bind(column(&letters, |letter| letter.client_ip.clone()))
            .bind(column(&letters, |letter| letter.correlation_id.clone()))
            .execute(connection)
            .await
            .map(drop)
            .map_err(run)
    }
}

fn column<R, T>(rows: &[R], value: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Takes the rows of executions out of the tables of a version.
pub(super) async fn remove(connection: &mut PgConnection, version: i64, ids: &[Uuid]) -> Result<(), Error> {
    let terminal: Vec<_> = Status::ALL.into_iter().filter(|s| s.is_terminal()).map(Status::as_str).collect();
    for table in TABLES {
        let delete = format!("DELETE FROM {}_v{version} WHERE execution_id = ANY ($1)", table.name);
        // The key begins with the status, and must be given whole to be looked up.
        let by_status = if table.key[0] == "status" { " AND status = ANY ($2)" } else { " AND $2 IS NOT NULL" };
        sqlx::query(AssertSqlSafe(delete + by_status))
            .bind(ids)
            .bind(&terminal)
            .execute(&mut *connection)
            .await
            .map_err(Error::during(WRITE))?;
    }
    Ok(())
}

impl DeadLetterRow {
    /// What is kept at hand of a job that failed for good, while somebody has to decide.
    pub fn of(record: &ExecutionRecord, letter: &crate::domain::JobDeadLettered, at: DateTime<Utc>) -> Self {
        Self {
            execution_id: record.execution_id,
            tenant: record.submitted.tenant.clone(),
            job_type: record.submitted.job_type.clone(),
            error_type: letter.error_type.as_str().to_owned(),
            error_message: letter.message.clone(),
            retry_count: letter.attempts.saturating_sub(1),
            created_at: at,
            client_ip: record.submitted.client_ip.clone(),
            correlation_id: record.correlation_id.clone(),
        }
    }
}

pub(super) fn envelope(event: &RawEvent<'_>) -> Result<Envelope, Error> {
    let link = &event.link;
    let read = event_of(link.event_type, link.schema_version, link.payload);
    Ok(Envelope {
        event_id: link.event_id,
        stream_id: link.stream_id,
        version: link.version,
        recorded_at: link.recorded_at,
        correlation_id: link.correlation_id.map(str::to_owned),
        event: read.map_err(|error| Error::corrupt("events", event.position, error.column, error.reason))?,
    })
}
