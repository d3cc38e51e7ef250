//! The only writer of the event log.

use sqlx::postgres::PgConnection;

use super::append::{Append, Appended, Outcome};
use super::batch::{self, Prepared};
use super::database::Store;
use super::error::Error;
use crate::crash_point::{self, Moment};
use crate::domain::Digest;

const APPEND: &str = "append events";

/// The verdict on an item that was written.
const APPENDED: i16 = 0;

impl Store {
    /// Appends one item.
    ///
    /// # Errors
    /// As [`Store::append_batch`].
    pub async fn append(&self, item: Append) -> Result<Outcome, Error> {
        let mut results = self.append_batch(vec![item]).await;
        results.pop().unwrap_or(Err(Error::Affected {
            operation: APPEND,
            table: "events",
            id: String::new(),
            affected: 0,
        }))
    }

    /// Appends items in one statement and answers in their order, each by itself.
    ///
    /// Each item is written whole (events, record, queue row, key, dead letter, blobs) or not at
    /// all, and is durable when this returns [`Outcome::Appended`]. Items may depend on earlier
    /// ones of the same batch. When the database refuses the batch for its data, it is halved
    /// until only the items that cause it fail.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Refused`] for an item that can never be appended.
    /// [`Error::Unavailable`] when it is unknown whether it was appended; the same item, with
    /// the same event ids, may be given again.
    pub async fn append_batch(&self, mut items: Vec<Append>) -> Vec<Result<Outcome, Error>> {
        if let Err(error) = self.close_payloads(&mut items).await {
            return items.iter().map(|_| Err(error.clone())).collect();
        }
        let mut results = Vec::with_capacity(items.len());
        let mut prepared = Vec::with_capacity(items.len());
        for item in items {
            match Prepared::new(item) {
                Ok(item) => {
                    prepared.push(item);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut outcomes = self.append_prepared(&prepared).await.into_iter();
        results.into_iter().filter_map(|result| result.or_else(|| outcomes.next())).collect()
    }

    /// Appends one item in a transaction of the caller's, which holds the log's lock from then on.
    pub(super) async fn append_within(&self, transaction: &mut PgConnection, item: Append) -> Result<Outcome, Error> {
        let mut items = vec![item];
        self.close_payloads(&mut items).await?;
        let items = items.into_iter().map(Prepared::new).collect::<Result<Vec<_>, _>>()?;
        let rows =
            batch::statement(self.node(), &items)?.fetch_all(transaction).await.map_err(Error::during(APPEND))?;
        let only = rows.into_iter().zip(&items).next();
        let (row, item) = only.ok_or_else(|| Error::corrupt("events", "batch", "outcomes", 0))?;
        outcome(row, item)
    }

    /// Halves a refused batch, earlier half first, until single items remain.
    async fn append_prepared(&self, items: &[Prepared]) -> Vec<Result<Outcome, Error>> {
        let mut results = Vec::with_capacity(items.len());
        let mut waiting = vec![items];
        while let Some(items) = waiting.pop() {
            if items.is_empty() {
                continue;
            }
            match self.append_once(items).await {
                Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
                Err(error) if items.len() > 1 && !error.is_transient() => {
                    let (earlier, later) = items.split_at(items.len() / 2);
                    waiting.push(later);
                    waiting.push(earlier);
                }
                Err(error) => results.extend(items.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    async fn append_once(&self, items: &[Prepared]) -> Result<Vec<Outcome>, Error> {
        reach(items.iter(), Moment::Before);
        let mut rows =
            batch::statement(self.node(), items)?.fetch_all(self.pool()).await.map_err(Error::during(APPEND))?;
        rows.sort_unstable_by_key(|row| row.0);
        if rows.len() != items.len() {
            return Err(Error::corrupt("events", "batch", "outcomes", rows.len()));
        }
        reach(rows.iter().zip(items).filter(|(row, _)| row.1 == APPENDED).map(|(_, item)| item), Moment::After);
        rows.into_iter().zip(items).map(|(row, item)| outcome(row, item)).collect()
    }
}

/// Passes the crash points of what is appended.
fn reach<'a>(items: impl Iterator<Item = &'a Prepared>, moment: Moment) {
    if crash_point::is_armed() {
        items
            .flat_map(|item| &item.item.events)
            .for_each(|event| crash_point::reach("append", &event.event_type, moment));
    }
}

fn outcome(row: batch::Row, prepared: &Prepared) -> Result<Outcome, Error> {
    let (_, verdict, first, last, version, head_hash, held, execution_id, fingerprint) = row;
    let item = &prepared.item;
    let missing = |column| Error::corrupt("events", item.stream_id, column, "is missing");
    let appended = |head_hash| {
        let first_position = first.ok_or_else(|| missing("position"))?;
        let last_position = last.ok_or_else(|| missing("position"))?;
        Ok(Appended { first_position, last_position, version, head_hash })
    };
    let hash = |bytes: Option<Vec<u8>>, column| {
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Digest::from_bytes).ok_or_else(|| missing(column))
    };
    match verdict {
        APPENDED => Ok(Outcome::Appended(appended(prepared.head_hash())?)),
        1 => Ok(Outcome::Duplicate(appended(hash(head_hash, "hash")?)?)),
        2 => Ok(Outcome::VersionConflict { expected: item.expected_version, actual: version }),
        3 => Ok(Outcome::LeaseLost { held }),
        4 => Ok(Outcome::IdempotencyTaken {
            execution_id: execution_id.ok_or_else(|| missing("execution_id"))?,
            fingerprint: hash(fingerprint, "fingerprint")?,
        }),
        other => Err(Error::corrupt("events", item.stream_id, "verdict", other)),
    }
}
