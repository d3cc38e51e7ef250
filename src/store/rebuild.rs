//! Making the projection anew from the log, while the program runs.
//!
//! Each execution's row depends on its own stream alone. So the log is walked without a lock,
//! and only rows that seem to differ are folded again and replaced, a few at a time, under the
//! append lock, where a stream and its row cannot move apart. Live traffic waits for one such
//! step at most.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::append::{RecordRow, StreamKind};
use super::codec::fold;
use super::database::Store;
use super::error::Error;
use super::executions::Stored;
use super::streams::Streams;

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
    fn of(stored: &Stored) -> Self {
        let record = &stored.record;
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
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a stream that does not fold, which changes nothing of it;
    /// [`Error::Unavailable`], after which what was repaired stays so.
    pub async fn rebuild_projections(&self) -> Result<Rebuilt, Error> {
        let start = Instant::now();
        let mut rebuilt = Rebuilt::default();
        let mut streams = Streams::new(self, Some(StreamKind::Execution));
        let mut connection = self.pool().acquire().await.map_err(Error::during(REBUILD))?;
        while let Some(events) = streams.next().await? {
            let folded = fold(&events)?;
            rebuilt.events += events.len() as u64;
            rebuilt.executions += folded.len() as u64;
            let ids: HashSet<_> = events.iter().map(|event| event.stream_id).collect();
            let ids: Vec<_> = ids.into_iter().collect();
            let suspects = differing(&mut connection, &ids, &folded).await?;
            self.repair(&suspects, &mut rebuilt).await?;
        }
        drop(connection);
        let strays = self.strays().await?;
        self.repair(&strays, &mut rebuilt).await?;
        rebuilt.took = start.elapsed();
        Ok(rebuilt)
    }

    /// Rows that no stream accounts for.
    async fn strays(&self) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar(
            "SELECT x.execution_id FROM executions x \
              WHERE NOT EXISTS (SELECT FROM events e WHERE e.stream_id = x.execution_id) \
             UNION \
             SELECT n.execution_id FROM endings n \
              WHERE NOT EXISTS (SELECT FROM executions x WHERE x.execution_id = n.execution_id \
                                   AND x.status = n.status AND x.ended_at IS NOT NULL)",
        )
        .fetch_all(self.pool())
        .await
        .map_err(Error::during(REBUILD))
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
        folded.iter().map(|stored| (stored.record.execution_id, Projected::of(stored))).collect();
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
    for row in folded.iter().map(Projected::of).filter(|row| ids.contains(&row.execution_id)) {
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
