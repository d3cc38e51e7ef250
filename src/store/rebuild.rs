//! Making the projection anew from the log, while the program runs.
//!
//! Each execution's row depends on its own stream alone. So the log is walked without a lock,
//! and only rows that seem to differ are folded again and replaced, a few at a time, under the
//! append lock, where a stream and its row cannot move apart. Live traffic waits for one such
//! step at most.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt as _, stream};
use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::append::{RecordRow, StreamKind};
use super::codec::{event_of, fold};
use super::copy::{Copied, RawEvent};
use super::database::Store;
use super::error::Error;
use super::executions::Stored;
use crate::domain::{Envelope, ExecutionRecord};

/// Events of whole streams that are read and folded together, about.
const PART: i64 = 10_000;

/// Parts that are read, folded and compared at the same time. Each takes a connection.
const LANES: usize = 3;

/// Rows replaced in one transaction.
const STEP: usize = 500;

const REBUILD: &str = "rebuild projections";

/// What a rebuild read and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub events: u64,
    pub executions: u64,
    /// Executions whose row was missing, differed from the fold or had no events; now right.
    pub repaired: Vec<Uuid>,
    pub took: Duration,
}

/// Streams whose ids lie behind one and go up to another.
#[derive(Debug, Clone, Copy)]
struct Part {
    after: Option<Uuid>,
    last: Option<Uuid>,
}

impl Part {
    fn condition(self, column: &str) -> String {
        let after = self.after.map_or(String::new(), |after| format!(" AND {column} > '{after}'"));
        let last = self.last.map_or(String::new(), |last| format!(" AND {column} <= '{last}'"));
        format!("true{after}{last}")
    }
}

struct Compared {
    events: u64,
    executions: u64,
    /// Executions whose rows are not what was folded, or were not when they were read.
    suspects: Vec<Uuid>,
}

struct Folded {
    events: u64,
    rows: Vec<Projected>,
}

const ROWS: &str = "SELECT execution_id, parent_execution_id, created_at, tenant, job_type, version, status, ended_at, \
                    '{}'::text[] AS endings FROM executions";

/// An execution's row together with what `endings` says of it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
struct Projected {
    execution_id: Uuid,
    parent_execution_id: Option<Uuid>,
    created_at: chrono::DateTime<chrono::Utc>,
    tenant: String,
    job_type: String,
    version: i32,
    status: String,
    ended_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Statuses under which the execution stands in `endings`.
    endings: Vec<String>,
}

impl Projected {
    fn of(record: &ExecutionRecord) -> Self {
        let row = RecordRow::of(record);
        Self {
            execution_id: record.execution_id,
            parent_execution_id: row.parent_execution_id,
            created_at: row.created_at,
            tenant: row.tenant,
            job_type: row.job_type,
            version: record.version,
            endings: row.ended_at.iter().map(|_| row.status.clone()).collect(),
            status: row.status,
            ended_at: row.ended_at,
        }
    }
}

impl Store {
    /// Folds every execution from its events, compares with its row and repairs what differs.
    /// Says after each part how many events are folded.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a stream that does not fold, which changes nothing of it;
    /// [`Error::Unavailable`], after which what was repaired stays so.
    pub async fn rebuild_projections(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<Rebuilt, Error> {
        let start = Instant::now();
        let mut rebuilt = Rebuilt::default();
        let parts = self.parts().map_ok(|part| self.compare(part)).try_buffered(LANES);
        let mut parts = std::pin::pin!(parts);
        while let Some(compared) = parts.try_next().await? {
            rebuilt.events += compared.events;
            rebuilt.executions += compared.executions;
            self.repair(&compared.suspects, &mut rebuilt).await?;
            progress(rebuilt.events);
        }
        rebuilt.took = start.elapsed();
        Ok(rebuilt)
    }

    /// Cuts the streams into parts, which together hold every id there can be.
    fn parts(&self) -> impl Stream<Item = Result<Part, Error>> {
        stream::try_unfold(Some(None), move |from: Option<Option<Uuid>>| async move {
            let Some(after) = from else { return Ok(None) };
            let last: Option<Uuid> = sqlx::query_scalar(
                "SELECT stream_id FROM events WHERE $1::uuid IS NULL OR stream_id > $1 \
                  ORDER BY stream_id OFFSET $2 LIMIT 1",
            )
            .bind(after)
            .bind(PART)
            .fetch_optional(self.pool())
            .await
            .map_err(Error::during(REBUILD))?;
            Ok(Some((Part { after, last }, last.map(Some))))
        })
    }

    async fn compare(&self, part: Part) -> Result<Compared, Error> {
        let condition = part.condition("stream_id");
        let condition = format!("{condition} AND stream_kind = {}", StreamKind::Execution as i16);
        let copied = self.copy_events(&condition, "stream_id, version", i64::MAX).await?;
        let folding = tokio::task::spawn_blocking(move || fold_copied(&copied));
        let run = Error::during(REBUILD);
        let mut live: HashMap<Uuid, Projected> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("{ROWS} WHERE {}", part.condition("execution_id"))))
                .fetch_all(self.pool())
                .await
                .map_err(&run)?
                .into_iter()
                .map(|row: Projected| (row.execution_id, row))
                .collect();
        let endings: Vec<(Uuid, String)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT execution_id, status FROM endings WHERE {}",
            part.condition("execution_id")
        )))
        .fetch_all(self.pool())
        .await
        .map_err(&run)?;
        let mut suspects = HashSet::new();
        for (execution_id, status) in endings {
            match live.get_mut(&execution_id) {
                Some(row) => row.endings.push(status),
                None => drop(suspects.insert(execution_id)),
            }
        }
        let folded = match folding.await {
            Ok(folded) => folded?,
            Err(lost) => std::panic::resume_unwind(lost.into_panic()),
        };
        let executions = folded.rows.len() as u64;
        for row in folded.rows {
            if live.remove(&row.execution_id).as_ref() != Some(&row) {
                suspects.insert(row.execution_id);
            }
        }
        // Rows that no stream accounts for.
        suspects.extend(live.into_keys());
        Ok(Compared { events: folded.events, executions, suspects: suspects.into_iter().collect() })
    }

    async fn repair(&self, suspects: &[Uuid], rebuilt: &mut Rebuilt) -> Result<(), Error> {
        for ids in suspects.chunks(STEP) {
            let mut transaction = self.pool().begin().await.map_err(Error::during(REBUILD))?;
            sqlx::query("SELECT lock_log()").execute(&mut *transaction).await.map_err(Error::during(REBUILD))?;
            let events: Vec<_> =
                sqlx::query_as("SELECT * FROM events WHERE stream_id = ANY ($1) ORDER BY stream_id, version")
                    .bind(ids)
                    .fetch_all(&mut *transaction)
                    .await
                    .map_err(Error::during(REBUILD))?;
            let folded = fold(&events)?;
            let differing = differing(&mut transaction, ids, &folded).await?;
            replace(&mut transaction, &differing, &folded).await?;
            transaction.commit().await.map_err(Error::during(REBUILD))?;
            rebuilt.repaired.extend(differing);
        }
        Ok(())
    }
}

/// The rows of whole streams, given event by event: streams one after the other, each in the order of
/// versions.
fn fold_copied(copied: &Copied) -> Result<Folded, Error> {
    let mut folded = Folded { events: 0, rows: Vec::new() };
    let mut record: Option<ExecutionRecord> = None;
    copied.read(|event| {
        let event = event.map_err(|at| Error::corrupt("events", at.position, at.column, "is not what is written"))?;
        if record.as_ref().is_some_and(|record| record.execution_id != event.link.stream_id) {
            folded.rows.extend(record.take().as_ref().map(Projected::of));
        }
        let evolved = ExecutionRecord::evolve(record.take(), &envelope(&event)?);
        record = evolved.map_err(|error| Error::corrupt("events", event.position, "payload", error))?;
        folded.events += 1;
        Ok(())
    })?;
    folded.rows.extend(record.as_ref().map(Projected::of));
    Ok(folded)
}

fn envelope(event: &RawEvent<'_>) -> Result<Envelope, Error> {
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

/// Those of the executions whose rows are not what was folded.
async fn differing(connection: &mut PgConnection, ids: &[Uuid], folded: &[Stored]) -> Result<Vec<Uuid>, Error> {
    let rows: Vec<Projected> = sqlx::query_as(
        "SELECT i.id AS execution_id, x.parent_execution_id, x.created_at, x.tenant, x.job_type, x.version, \
                x.status, x.ended_at, \
                ARRAY(SELECT n.status FROM unnest(ARRAY['succeeded', 'failed', 'timeout', 'oom', 'cancelled']) s \
                        JOIN endings n ON n.status = s AND n.execution_id = i.id) AS endings \
           FROM unnest($1) AS i (id) JOIN executions x ON x.execution_id = i.id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
    .map_err(Error::during(REBUILD))?;
    let mut live: HashMap<_, _> = rows.into_iter().map(|row| (row.execution_id, row)).collect();
    let mut right: HashMap<_, _> =
        folded.iter().map(|stored| (stored.record.execution_id, Projected::of(&stored.record))).collect();
    Ok(ids.iter().copied().filter(|id| live.remove(id) != right.remove(id)).collect())
}

/// Puts what was folded in the place of whatever is there.
async fn replace(connection: &mut PgConnection, ids: &[Uuid], folded: &[Stored]) -> Result<(), Error> {
    let run = Error::during(REBUILD);
    for statement in
        ["DELETE FROM executions WHERE execution_id = ANY ($1)", "DELETE FROM endings WHERE execution_id = ANY ($1)"]
    {
        sqlx::query(statement).bind(ids).execute(&mut *connection).await.map_err(&run)?;
    }
    for row in folded.iter().map(|stored| Projected::of(&stored.record)).filter(|row| ids.contains(&row.execution_id)) {
        sqlx::query(
            "INSERT INTO executions (execution_id, parent_execution_id, created_at, tenant, job_type, version, \
                 status, ended_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(row.execution_id)
        .bind(row.parent_execution_id)
        .bind(row.created_at)
        .bind(&row.tenant)
        .bind(&row.job_type)
        .bind(row.version)
        .bind(&row.status)
        .bind(row.ended_at)
        .execute(&mut *connection)
        .await
        .map_err(&run)?;
        sqlx::query("INSERT INTO endings (status, execution_id) SELECT unnest($1::text[]), $2")
            .bind(&row.endings)
            .bind(row.execution_id)
            .execute(&mut *connection)
            .await
            .map_err(&run)?;
    }
    Ok(())
}
