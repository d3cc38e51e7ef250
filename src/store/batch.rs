//! A batch of items as the arrays that `append_events` takes.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{Arguments, Postgres};
use uuid::Uuid;

use super::append::{Append, DeadLetterChange, NewEvent, QueueChange};
use super::chain::{self, Link};
use super::error::Error;
use crate::domain::Digest;

const APPEND: &str = "append events";

/// An item that the database can hold, with the hashes of its events.
#[derive(Debug)]
pub(super) struct Prepared {
    pub item: Append,
    hashes: Vec<Digest>,
}

impl Prepared {
    /// Cuts times to microseconds, refuses what would fail the whole batch, hashes the events.
    pub(super) fn new(mut item: Append) -> Result<Self, Error> {
        check(&item)?;
        let mut hashes = Vec::with_capacity(item.events.len());
        let mut previous = item.prev_hash;
        for (version, event) in (item.expected_version + 1..).zip(&mut item.events) {
            event.recorded_at = event.recorded_at.trunc_subsecs(6);
            let own = chain::hash(previous.as_ref(), &link(item.stream_id, version, event));
            hashes.push(own);
            previous = Some(own);
        }
        Ok(Self { item, hashes })
    }

    pub(super) fn head_hash(&self) -> Digest {
        // `check` refuses an item without events.
        self.hashes.last().copied().unwrap_or(Digest::from_bytes([0; 32]))
    }
}

fn link(stream_id: Uuid, version: i32, event: &NewEvent) -> Link<'_> {
    Link {
        stream_id,
        version,
        event_id: event.event_id,
        event_type: &event.event_type,
        schema_version: event.schema_version,
        recorded_at: event.recorded_at,
        actor: &event.actor,
        correlation_id: event.correlation_id.as_deref(),
        causation_id: event.causation_id,
        payload: &event.payload,
    }
}

fn check(item: &Append) -> Result<(), Error> {
    let id = item.stream_id;
    let invalid = |field, reason| Err(Error::Invalid { operation: APPEND, field, id: id.to_string(), reason });
    let text = |field, text: &str| Error::unless_text(text, APPEND, field, id);
    if item.events.is_empty() {
        return invalid("events", "are empty");
    }
    if (item.expected_version == 0) != item.prev_hash.is_none() {
        return invalid("prev_hash", "does not fit the expected version");
    }
    for event in &item.events {
        text("event_type", &event.event_type)?;
        text("actor", &event.actor)?;
        text("correlation_id", event.correlation_id.as_deref().unwrap_or_default())?;
        text("payload", &event.payload)?;
    }
    if let Some(record) = &item.record {
        text("tenant", &record.tenant)?;
        text("status", &record.status)?;
        text("job_type", &record.job_type)?;
    }
    if let QueueChange::Enqueue { tenant, job_type, priority, .. } = &item.queue {
        text("tenant", tenant)?;
        text("job_type", job_type)?;
        if !(0..=9).contains(priority) {
            return invalid("priority", "is not between 0 and 9");
        }
    }
    if let Some(idempotency) = &item.idempotency {
        text("tenant", &idempotency.tenant)?;
        text("idempotency key", &idempotency.key)?;
    }
    if let DeadLetterChange::Insert(letter) = &item.dead_letter {
        text("tenant", &letter.tenant)?;
        text("job_type", &letter.job_type)?;
        text("error_type", &letter.error_type)?;
        text("client_ip", letter.client_ip.as_deref().unwrap_or_default())?;
        text("correlation_id", letter.correlation_id.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

/// What two items must not share inside one wave.
#[derive(PartialEq, Eq, Hash)]
enum Shared<'a> {
    Stream(Uuid),
    Event(Uuid),
    Key(&'a str, &'a str),
}

/// Puts each item into the first wave after those of the items it depends on.
fn waves(items: &[Prepared]) -> Vec<i32> {
    let mut next: HashMap<Shared<'_>, i32> = HashMap::with_capacity(items.len() * 3);
    items
        .iter()
        .map(|Prepared { item, .. }| {
            let mut shared = vec![Shared::Stream(item.stream_id)];
            shared.extend(item.events.iter().map(|event| Shared::Event(event.event_id)));
            if let Some(key) = &item.idempotency {
                shared.push(Shared::Key(&key.tenant, &key.key));
            }
            let wave = shared.iter().filter_map(|key| next.get(key)).copied().max().unwrap_or(0);
            for key in shared {
                next.insert(key, wave + 1);
            }
            wave
        })
        .collect()
}

/// One row of `append_events`: item (from 1), verdict, first and last position, version, head
/// hash, held lease, and the execution and fingerprint of a taken key.
pub(super) type Row =
    (i32, i16, Option<i64>, Option<i64>, i32, Option<Vec<u8>>, Option<i64>, Option<Uuid>, Option<Vec<u8>>);

/// The statement that appends the items, with its 52 arguments.
pub(super) fn statement(node: &str, items: &[Prepared]) -> Result<Statement, Error> {
    let mut columns = Columns(PgArguments::default());
    columns.push(node)?;
    columns.items(items)?;
    columns.events(items)?;
    columns.records(items)?;
    columns.queue(items)?;
    columns.dead_letters(items)?;
    columns.blobs(items)?;
    Ok(sqlx::query_as_with(
        "SELECT * FROM append_events(\
         $1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,\
         $25,$26,$27,$28,$29,$30,$31,$32,$33,$34,$35,$36,$37,$38,$39,$40,$41,$42,$43,$44,$45,\
         $46,$47,$48,$49,$50,$51,$52)",
        columns.0,
    ))
}

pub(super) type Statement = QueryAs<'static, Postgres, Row, PgArguments>;

/// Items with their number, counted from 1 as PostgreSQL's arrays are.
fn numbered(items: &[Prepared]) -> impl Iterator<Item = (i32, &Prepared)> + Clone {
    (1..).zip(items)
}

/// The arguments, column by column in the order of the function's parameters.
struct Columns(PgArguments);

impl Columns {
    fn push<'t, T>(&mut self, value: T) -> Result<(), Error>
    where
        T: sqlx::Encode<'t, Postgres> + sqlx::Type<Postgres>,
    {
        let encoded = self.0.add(value).map_err(sqlx::Error::Encode);
        encoded.map_err(Error::during(APPEND))
    }

    fn array<'t, S, T>(&mut self, rows: impl Iterator<Item = S>, value: impl FnMut(S) -> T) -> Result<(), Error>
    where
        Vec<T>: sqlx::Encode<'t, Postgres> + sqlx::Type<Postgres>,
    {
        self.push(rows.map(value).collect::<Vec<T>>())
    }

    fn items(&mut self, items: &[Prepared]) -> Result<(), Error> {
        let rows = || items.iter().map(|prepared| &prepared.item);
        self.push(waves(items))?;
        self.array(rows(), |item| item.stream_id)?;
        self.array(rows(), |item| item.stream_kind as i16)?;
        self.array(rows(), |item| item.expected_version)?;
        self.array(rows(), |item| item.prev_hash.map(bytes))?;
        self.array(rows(), |item| i32::try_from(item.events.len()).unwrap_or(i32::MAX))?;
        self.array(rows(), |item| item.events.first().map(|event| event.event_id))?;
        self.array(rows(), |item| item.events.last().map(|event| event.event_id))?;
        self.array(rows(), |item| item.lease)?;
        self.array(rows(), |item| item.idempotency.as_ref().map(|key| key.tenant.as_str()))?;
        self.array(rows(), |item| item.idempotency.as_ref().map(|key| key.key.as_str()))?;
        self.array(rows(), |item| item.idempotency.as_ref().map(|key| bytes(key.fingerprint)))
    }

    fn events(&mut self, items: &[Prepared]) -> Result<(), Error> {
        let rows = || {
            numbered(items).flat_map(|(number, Prepared { item, hashes })| {
                let previous = std::iter::once(item.prev_hash.as_ref()).chain(hashes.iter().map(Some));
                let events = item.events.iter().zip(item.expected_version + 1..);
                let hashes = previous.zip(hashes);
                events.zip(hashes).map(move |(event, hash)| (number, event, hash))
            })
        };
        self.array(rows(), |(number, _, _)| number)?;
        self.array(rows(), |(_, (event, _), _)| event.event_id)?;
        self.array(rows(), |(_, (_, version), _)| version)?;
        self.array(rows(), |(_, (event, _), _)| event.event_type.as_ref())?;
        self.array(rows(), |(_, (event, _), _)| event.schema_version)?;
        self.array(rows(), |(_, (event, _), _)| event.recorded_at)?;
        self.array(rows(), |(_, (event, _), _)| event.actor.as_str())?;
        self.array(rows(), |(_, (event, _), _)| event.correlation_id.as_deref())?;
        self.array(rows(), |(_, (event, _), _)| event.causation_id)?;
        self.array(rows(), |(_, _, (previous, _))| previous.copied().map(bytes))?;
        self.array(rows(), |(_, _, (_, own))| bytes(*own))?;
        self.array(rows(), |(_, (event, _), _)| event.payload.as_str())
    }

    fn records(&mut self, items: &[Prepared]) -> Result<(), Error> {
        let rows = || {
            numbered(items)
                .filter_map(|(number, prepared)| prepared.item.record.as_ref().map(|record| (number, record)))
        };
        self.array(rows(), |(number, _)| number)?;
        self.array(rows(), |(_, record)| record.tenant.as_str())?;
        self.array(rows(), |(_, record)| record.status.as_str())?;
        self.array(rows(), |(_, record)| record.job_type.as_str())?;
        self.array(rows(), |(_, record)| record.created_at)?;
        self.array(rows(), |(_, record)| record.ended_at)?;
        self.array(rows(), |(_, record)| record.parent_execution_id)
    }

    fn queue(&mut self, items: &[Prepared]) -> Result<(), Error> {
        let rows: Vec<_> =
            numbered(items).filter_map(|(number, prepared)| QueueRow::new(number, &prepared.item.queue)).collect();
        self.array(rows.iter(), |row| row.item)?;
        self.array(rows.iter(), |row| row.change)?;
        self.array(rows.iter(), |row| row.tenant)?;
        self.array(rows.iter(), |row| row.job_type)?;
        self.array(rows.iter(), |row| row.priority)?;
        self.array(rows.iter(), |row| row.not_before)?;
        self.array(rows.iter(), |row| row.attempts)
    }

    fn dead_letters(&mut self, items: &[Prepared]) -> Result<(), Error> {
        let rows: Vec<_> = numbered(items)
            .filter_map(|(number, prepared)| match &prepared.item.dead_letter {
                DeadLetterChange::None => None,
                DeadLetterChange::Insert(letter) => Some((number, 1_i16, Some(letter))),
                DeadLetterChange::Remove => Some((number, 2, None)),
            })
            .collect();
        let letters = || rows.iter().map(|row| row.2);
        self.array(rows.iter(), |row| row.0)?;
        self.array(rows.iter(), |row| row.1)?;
        self.array(letters(), |letter| letter.map(|letter| letter.created_at))?;
        self.array(letters(), |letter| letter.map(|letter| count(letter.retry_count)))?;
        self.array(letters(), |letter| letter.map(|letter| letter.tenant.as_str()))?;
        self.array(letters(), |letter| letter.map(|letter| letter.job_type.as_str()))?;
        self.array(letters(), |letter| letter.map(|letter| letter.error_type.as_str()))?;
        // Made from what a job said, and only shown: the event keeps it as it was.
        self.array(letters(), |letter| letter.map(|letter| letter.error_message.replace('\0', "\u{fffd}")))?;
        self.array(letters(), |letter| letter.and_then(|letter| letter.client_ip.as_deref()))?;
        self.array(letters(), |letter| letter.and_then(|letter| letter.correlation_id.as_deref()))
    }

    fn blobs(&mut self, items: &[Prepared]) -> Result<(), Error> {
        let rows =
            || numbered(items).flat_map(|(number, prepared)| prepared.item.blobs.iter().map(move |b| (number, b)));
        self.array(rows(), |(number, _)| number)?;
        self.array(rows(), |(_, blob)| bytes(blob.hash()))?;
        self.array(rows(), |(_, blob)| blob.bytes().as_ref())
    }
}

struct QueueRow<'a> {
    item: i32,
    change: i16,
    tenant: Option<&'a str>,
    job_type: Option<&'a str>,
    priority: Option<i16>,
    not_before: Option<DateTime<Utc>>,
    attempts: Option<i32>,
}

impl<'a> QueueRow<'a> {
    fn new(item: i32, change: &'a QueueChange) -> Option<Self> {
        let row = |change, not_before, attempts| Self {
            item,
            change,
            tenant: None,
            job_type: None,
            priority: None,
            not_before,
            attempts,
        };
        Some(match change {
            QueueChange::None => return None,
            QueueChange::Enqueue { tenant, job_type, priority, not_before, is_keyed } => Self {
                tenant: Some(tenant),
                job_type: Some(job_type),
                priority: Some(*priority),
                // Below 0, the row takes its key from the event.
                ..row(1, *not_before, Some(-i32::from(*is_keyed)))
            },
            QueueChange::Release { not_before, attempt } => row(2, *not_before, Some(count(*attempt))),
            QueueChange::Remove => row(3, None, None),
            QueueChange::FlagCancel => row(4, None, None),
        })
    }
}

fn bytes(digest: Digest) -> [u8; 32] {
    *digest.as_bytes()
}

/// Small by nature; what is not stays at the column's end.
fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
