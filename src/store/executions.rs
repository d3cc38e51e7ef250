//! Reading execution records: the table of executions says which, the log says what.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::codec::fold;
use super::database::Store;
use super::error::Error;
use crate::domain::{Digest, ExecutionRecord, Status};

/// A record with the hash of the last event in it, which the next append must name.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub record: ExecutionRecord,
    pub head_hash: Digest,
}

/// Which executions to list; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tenant: Option<String>,
    pub status: Option<Status>,
    pub job_type: Option<String>,
    pub parent_execution_id: Option<Uuid>,
    /// Created at this moment or later, and before that one.
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// Only those that come after this one in a list: a page begins where the one before ended,
    /// at the same cost however deep it is.
    pub before: Option<Uuid>,
}

/// A page of records, newest first.
#[derive(Debug, Clone)]
pub struct Page {
    pub records: Vec<Stored>,
    /// There are records after this page.
    pub has_more: bool,
}

impl Store {
    /// An execution's record.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Corrupt`] for a record that does not read.
    pub async fn record(&self, execution_id: Uuid) -> Result<Option<Stored>, Error> {
        let events: Vec<_> = sqlx::query_as("SELECT * FROM stream_events($1)")
            .bind(execution_id)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("read a record"))?;
        Ok(fold(&self.open_payloads(events).await?)?.pop())
    }

    /// The records of those executions that exist, newest first.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub async fn records(&self, execution_ids: &[Uuid]) -> Result<Vec<Stored>, Error> {
        let events: Vec<_> =
            sqlx::query_as("SELECT * FROM events WHERE stream_id = ANY ($1) ORDER BY stream_id DESC, version")
                .bind(execution_ids)
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("read records"))?;
        fold(&self.open_payloads(events).await?)
    }

    /// The records that a filter lets through, newest first.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub async fn list(&self, filter: &Filter, limit: u32, offset: u64) -> Result<Page, Error> {
        let mut query = QueryBuilder::new("SELECT e.* FROM (SELECT x.execution_id");
        let id = push_filter(&mut query, filter);
        query.push(" ORDER BY ").push(id).push(" DESC LIMIT ").push_bind(i64::from(limit) + 1);
        query.push(" OFFSET ").push_bind(i64::try_from(offset).unwrap_or(i64::MAX));
        query.push(") l JOIN events e ON e.stream_id = l.execution_id ORDER BY e.stream_id DESC, e.version");
        let events: Vec<_> =
            query.build_query_as().fetch_all(self.pool()).await.map_err(Error::during("list executions"))?;
        let mut records = fold(&self.open_payloads(events).await?)?;
        let has_more = records.len() > limit as usize;
        records.truncate(limit as usize);
        Ok(Page { records, has_more })
    }

    /// Those of the executions that have ended; one question for all that are waited for.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn ended(&self, execution_ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        sqlx::query_scalar("SELECT execution_id FROM executions WHERE execution_id = ANY ($1) AND ended_at IS NOT NULL")
            .bind(execution_ids)
            .fetch_all(self.pool())
            .await
            .map_err(Error::during("look for ends"))
    }
}

/// Answers with the id by which to sort and to cut: of the table that says most about the answer.
/// PostgreSQL takes the two sides of a join for the same where they must be equal, not where one
/// is greater.
fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) -> &'static str {
    let mut id = "x.execution_id";
    query.push(" FROM executions x");
    match filter.status {
        Some(status) if status.is_terminal() => {
            id = "n.execution_id";
            query.push(" JOIN endings n ON n.execution_id = x.execution_id WHERE n.status = ");
            query.push_bind(status.as_str());
        }
        // No index knows these; the queue holds nothing else.
        Some(status) => {
            query.push(" JOIN queue q ON q.execution_id = x.execution_id WHERE x.status = ");
            query.push_bind(status.as_str());
        }
        None => {
            query.push(" WHERE true");
        }
    }
    if let Some(tenant) = &filter.tenant {
        query.push(" AND x.tenant = ").push_bind(tenant.clone());
    }
    if let Some(job_type) = &filter.job_type {
        query.push(" AND x.job_type = ").push_bind(job_type.clone());
    }
    if let Some(parent) = filter.parent_execution_id {
        query.push(" AND x.parent_execution_id = ").push_bind(parent);
    }
    // The id is made just before the event that creates the execution. An hour is more than any two
    // clocks differ, so the index leaves away nothing that the exact moment would not.
    if let Some(since) = filter.since {
        query.push(" AND x.created_at >= ").push_bind(since);
        query.push(format!(" AND {id} >= ")).push_bind(first_id_of(since - TimeDelta::hours(1)));
    }
    if let Some(until) = filter.until {
        query.push(" AND x.created_at < ").push_bind(until);
        query.push(format!(" AND {id} < ")).push_bind(first_id_of(until + TimeDelta::hours(1)));
    }
    if let Some(before) = filter.before {
        query.push(format!(" AND {id} < ")).push_bind(before);
    }
    id
}

/// The smallest UUIDv7 of a moment: its milliseconds since 1970 in the first 48 bits.
fn first_id_of(moment: DateTime<Utc>) -> Uuid {
    let milliseconds = moment.timestamp_millis().clamp(0, (1 << 48) - 1).unsigned_abs();
    Uuid::from_u128(u128::from(milliseconds) << 80)
}
