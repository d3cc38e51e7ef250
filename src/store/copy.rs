//! Reading many events at once, by PostgreSQL's binary COPY: several times as fast as rows, and
//! the bytes are those that are stored.
//!
//! The format is that of the manual's page on COPY, under "Binary Format".

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::chain::Link;
use super::database::Store;
use super::error::Error;
use crate::domain::Digest;

const COPY: &str = "copy events";

/// Begins every binary COPY; flags and the length of an extension follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Microseconds from 1970 to 2000, which PostgreSQL counts from.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// In the order in which [`Copied::read`] takes them.
const COLUMNS: &str = "position, event_id, stream_id, recorded_at, causation_id, version, schema_version, stream_kind, \
                       event_type, actor, correlation_id, prev_hash, hash, payload";

/// Events as they came from the database.
pub(super) struct Copied {
    bytes: Vec<u8>,
}

/// An event in the bytes that were copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawEvent<'a> {
    pub position: i64,
    pub stream_kind: i16,
    pub link: Link<'a>,
    pub prev_hash: Option<Digest>,
    pub hash: Digest,
}

/// What cannot be read of an event; its position is known even then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub position: i64,
    pub column: &'static str,
}

impl Store {
    /// The events that a condition lets through, in an order, `limit` at most. The condition and
    /// the order must come from this program alone: COPY has no parameters.
    pub(super) async fn copy_events(&self, condition: &str, order: &str, limit: i64) -> Result<Copied, Error> {
        let mut connection = self.pool().acquire().await.map_err(Error::during(COPY))?;
        copy_events(&mut connection, condition, order, limit).await
    }
}

/// The same in the transaction of a connection.
pub(super) async fn copy_events(
    connection: &mut PgConnection,
    condition: &str,
    order: &str,
    limit: i64,
) -> Result<Copied, Error> {
    let statement = format!(
        "COPY (SELECT {COLUMNS} FROM events WHERE {condition} ORDER BY {order} LIMIT {limit}) TO STDOUT (FORMAT binary)"
    );
    let run = Error::during(COPY);
    let mut bytes = Vec::new();
    let mut stream = connection.copy_out_raw(&statement).await.map_err(&run)?;
    while let Some(part) = stream.try_next().await.map_err(&run)? {
        let part: Bytes = part;
        bytes.extend_from_slice(&part);
    }
    Ok(Copied { bytes })
}

impl Copied {
    /// Goes through the events.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that are no binary COPY.
    pub(super) fn read<'a>(
        &'a self,
        mut each: impl FnMut(Result<RawEvent<'a>, Unreadable>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let broken = || Error::corrupt("events", "copied", "format", "it is not what a binary COPY is");
        let mut cursor = Cursor(&self.bytes);
        if cursor.take(SIGNATURE.len()) != Some(SIGNATURE) || cursor.i32().is_none() {
            return Err(broken());
        }
        let extension = cursor.i32().and_then(|length| usize::try_from(length).ok()).ok_or_else(broken)?;
        cursor.take(extension).ok_or_else(broken)?;
        loop {
            match cursor.i16().ok_or_else(broken)? {
                // The trailer.
                -1 => return Ok(()),
                14 => {
                    let mut fields = [None; 14];
                    for field in &mut fields {
                        *field = cursor.field().ok_or_else(broken)?;
                    }
                    each(RawEvent::of(&fields).ok_or_else(broken)?)?;
                }
                _ => return Err(broken()),
            }
        }
    }
}

impl<'a> RawEvent<'a> {
    /// `None` without a position.
    fn of(fields: &[Option<&'a [u8]>; 14]) -> Option<Result<Self, Unreadable>> {
        let position = i64::from_be_bytes(fixed(fields[0])?);
        Some(Self::with(position, fields).map_err(|column| Unreadable { position, column }))
    }

    fn with(position: i64, fields: &[Option<&'a [u8]>; 14]) -> Result<Self, &'static str> {
        let [_, event_id, stream_id, recorded_at, causation_id, version, schema_version, kind, rest @ ..] = *fields;
        let [event_type, actor, correlation_id, prev_hash, hash, payload] = rest;
        Ok(Self {
            position,
            stream_kind: i16::from_be_bytes(fixed(kind).ok_or("stream_kind")?),
            link: Link {
                stream_id: id(stream_id).ok_or("stream_id")?,
                version: i32::from_be_bytes(fixed(version).ok_or("version")?),
                event_id: id(event_id).ok_or("event_id")?,
                event_type: text(event_type).ok_or("event_type")?,
                schema_version: i16::from_be_bytes(fixed(schema_version).ok_or("schema_version")?),
                recorded_at: moment(recorded_at).ok_or("recorded_at")?,
                actor: text(actor).ok_or("actor")?,
                correlation_id: optional(correlation_id, text).ok_or("correlation_id")?,
                causation_id: optional(causation_id, id).ok_or("causation_id")?,
                payload: text(payload).ok_or("payload")?,
            },
            prev_hash: optional(prev_hash, digest).ok_or("prev_hash")?,
            hash: digest(hash).ok_or("hash")?,
        })
    }
}

fn fixed<const N: usize>(field: Option<&[u8]>) -> Option<[u8; N]> {
    field?.try_into().ok()
}

fn id(field: Option<&[u8]>) -> Option<Uuid> {
    fixed(field).map(Uuid::from_bytes)
}

fn digest(field: Option<&[u8]>) -> Option<Digest> {
    fixed(field).map(Digest::from_bytes)
}

fn text(field: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(field?).ok()
}

/// `None` for the two infinities and what else lies beyond all calendars.
fn moment(field: Option<&[u8]>) -> Option<DateTime<Utc>> {
    let micros = i64::from_be_bytes(fixed(field)?).checked_add(EPOCH_MICROS)?;
    DateTime::from_timestamp_micros(micros)
}

/// What may be null: `None` for a field that is there and does not read.
fn optional<'a, T>(field: Option<&'a [u8]>, read: impl Fn(Option<&'a [u8]>) -> Option<T>) -> Option<Option<T>> {
    match field {
        None => Some(None),
        some => read(some).map(Some),
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        fixed(self.take(2)).map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        fixed(self.take(4)).map(i32::from_be_bytes)
    }

    /// `Some(None)` for null.
    #[expect(clippy::option_option, reason = "a field that is null is read, and one that is cut is not")]
    fn field(&mut self) -> Option<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Some(None),
            length => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One event as the server would send it.
    fn copied(change: impl FnOnce(&mut Vec<Option<Vec<u8>>>)) -> Copied {
        let mut fields: Vec<Option<Vec<u8>>> = vec![
            Some(7_i64.to_be_bytes().into()),
            Some(vec![1; 16]),
            Some(vec![2; 16]),
            Some(0_i64.to_be_bytes().into()),
            None,
            Some(3_i32.to_be_bytes().into()),
            Some(1_i16.to_be_bytes().into()),
            Some(1_i16.to_be_bytes().into()),
            Some(b"JobSubmitted".into()),
            Some(b"intake".into()),
            None,
            None,
            Some(vec![9; 32]),
            Some(b"{}".into()),
        ];
        change(&mut fields);
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0; 8]);
        bytes.extend((fields.len() as i16).to_be_bytes());
        for field in fields {
            match field {
                None => bytes.extend((-1_i32).to_be_bytes()),
                Some(field) => {
                    bytes.extend((field.len() as i32).to_be_bytes());
                    bytes.extend(field);
                }
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        Copied { bytes }
    }

    fn first(copied: &Copied) -> Result<RawEvent<'_>, Unreadable> {
        let mut found = None;
        let read = copied.read(|event| {
            found = Some(event);
            Ok(())
        });
        read.unwrap();
        found.unwrap()
    }

    #[test]
    fn an_event_is_read_with_every_field() {
        let copied = copied(|_| {});
        let event = first(&copied).unwrap();
        assert_eq!((event.position, event.stream_kind, event.prev_hash), (7, 1, None));
        assert_eq!((event.link.version, event.link.payload, event.link.causation_id), (3, "{}", None));
        assert_eq!(event.link.recorded_at.to_rfc3339(), "2000-01-01T00:00:00+00:00");
    }

    #[test]
    fn what_no_program_of_ours_wrote_is_named() {
        for (field, value, column) in [
            (3, Some(i64::MAX.to_be_bytes().to_vec()), "recorded_at"),
            (11, Some(vec![1; 31]), "prev_hash"),
            (12, None, "hash"),
            (13, None, "payload"),
            (4, Some(vec![]), "causation_id"),
        ] {
            let copied = copied(|fields| fields[field] = value);
            assert_eq!(first(&copied).unwrap_err(), Unreadable { position: 7, column });
        }
    }

    #[test]
    fn bytes_that_end_too_soon_are_refused() {
        let whole = copied(|_| {}).bytes;
        for length in 0..whole.len() {
            let cut = Copied { bytes: whole[..length].to_vec() };
            assert!(cut.read(|_| Ok(())).is_err(), "{length}");
        }
    }
}
