//! Reading the log.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row, types::Json};
use uuid::Uuid;

use super::append::StreamKind;
use super::chain::Link;
use super::database::Store;
use super::error::Error;
use super::row::{digest, optional_digest};
use crate::domain::{Digest, EventKind};

/// An event with its whole envelope, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// In the whole log, from 1, without gaps, in the order of commits.
    pub position: i64,
    pub event_id: Uuid,
    pub stream_id: Uuid,
    pub stream_kind: StreamKind,
    /// In its stream, from 1.
    pub version: i32,
    pub event_type: String,
    pub schema_version: i16,
    pub recorded_at: DateTime<Utc>,
    pub actor: String,
    pub correlation_id: Option<String>,
    pub causation_id: Option<Uuid>,
    /// JSON text, to the byte as it was appended.
    pub payload: String,
    /// The payload with what is private in it, where that was encrypted and its key is there.
    pub opened: Option<String>,
    /// `None` for the first event of a stream.
    pub prev_hash: Option<Digest>,
    pub hash: Digest,
}

/// Which events of the log to read; what is empty or `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    pub kinds: Vec<EventKind>,
    pub stream: Option<Uuid>,
    /// Recorded at this moment or later, and before that one.
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
}

impl StoredEvent {
    /// The payload as it may be read; its hash is that of `payload`.
    pub fn readable(&self) -> &str {
        self.opened.as_deref().unwrap_or(&self.payload)
    }

    /// What the event's hash covers.
    pub fn link(&self) -> Link<'_> {
        Link {
            stream_id: self.stream_id,
            version: self.version,
            event_id: self.event_id,
            event_type: &self.event_type,
            schema_version: self.schema_version,
            recorded_at: self.recorded_at,
            actor: &self.actor,
            correlation_id: self.correlation_id.as_deref(),
            causation_id: self.causation_id,
            payload: &self.payload,
        }
    }
}

impl FromRow<'_, PgRow> for StoredEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let kind: i16 = row.try_get("stream_kind")?;
        let payload: Json<&serde_json::value::RawValue> = row.try_get("payload")?;
        Ok(Self {
            position: row.try_get("position")?,
            event_id: row.try_get("event_id")?,
            stream_id: row.try_get("stream_id")?,
            stream_kind: StreamKind::from_code(kind)
                .ok_or_else(|| sqlx::Error::Decode(format!("stream kind {kind} is not known").into()))?,
            version: row.try_get("version")?,
            event_type: row.try_get("event_type")?,
            schema_version: row.try_get("schema_version")?,
            recorded_at: row.try_get("recorded_at")?,
            actor: row.try_get("actor")?,
            correlation_id: row.try_get("correlation_id")?,
            causation_id: row.try_get("causation_id")?,
            payload: payload.0.get().to_owned(),
            opened: None,
            prev_hash: optional_digest(row, "prev_hash")?,
            hash: digest(row, "hash")?,
        })
    }
}

impl Store {
    /// Up to `limit` events of a stream after `version`, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Refused`] for a row that does not read.
    pub async fn stream_events(&self, stream_id: Uuid, version: i32, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        let events =
            sqlx::query_as("SELECT * FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version LIMIT $3")
                .bind(stream_id)
                .bind(version)
                .bind(i64::from(limit))
                .fetch_all(self.pool())
                .await
                .map_err(Error::during("read stream"))?;
        self.open_payloads(events).await
    }

    /// Up to `limit` events after `position` in the order of the log, of the given kinds (none:
    /// of all). Whoever goes on from the last position it saw never skips an event.
    ///
    /// # Errors
    /// As [`Store::stream_events`].
    pub async fn log_events(&self, position: i64, kinds: &[EventKind], limit: u32) -> Result<Vec<StoredEvent>, Error> {
        let names: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
        let events = sqlx::query_as(
            "SELECT * FROM events WHERE position > $1 AND ($2 = '{}' OR event_type = ANY ($2)) \
             ORDER BY position LIMIT $3",
        )
        .bind(position)
        .bind(names)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("read log"))?;
        self.open_payloads(events).await
    }

    /// Up to `limit` events after one position and up to another that a filter lets through, in
    /// the order of the log. Positions appear in their order, so what was not there up to the
    /// [`Store::last_position`] of a moment never will be.
    ///
    /// # Errors
    /// As [`Store::stream_events`].
    pub async fn log_page(
        &self,
        after: i64,
        up_to: i64,
        filter: &LogFilter,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, Error> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT * FROM events WHERE position > ");
        query.push_bind(after).push(" AND position <= ").push_bind(up_to);
        if !filter.kinds.is_empty() {
            let names: Vec<_> = filter.kinds.iter().map(|kind| kind.as_str()).collect();
            query.push(" AND event_type = ANY (").push_bind(names).push(")");
        }
        if let Some(stream) = filter.stream {
            query.push(" AND stream_id = ").push_bind(stream);
        }
        if let Some(since) = filter.since {
            query.push(" AND recorded_at >= ").push_bind(since);
        }
        if let Some(until) = filter.until {
            query.push(" AND recorded_at < ").push_bind(until);
        }
        query.push(" ORDER BY position LIMIT ").push_bind(i64::from(limit));
        let events = query.build_query_as().fetch_all(self.pool()).await.map_err(Error::during("read log"))?;
        self.open_payloads(events).await
    }

    /// The position of the newest event; 0 for an empty log.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn last_position(&self) -> Result<i64, Error> {
        sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
            .fetch_one(self.pool())
            .await
            .map_err(Error::during("read log's end"))
    }
}
