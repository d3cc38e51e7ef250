//! Archives: a part of the log in a file of JSON lines that verifies without a database.
//!
//! The first line says what the file is and which seal stands before it; each seal is followed by the
//! events it covers; the last line says how much there is.

use std::borrow::Cow;
use std::io::{self, Write};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::seal::{Seal, exactly};
use crate::domain::Digest;
use crate::store::append::StreamKind;
use crate::store::chain::Link;
use crate::store::database::Store;
use crate::store::error::Error;
use crate::store::events::StoredEvent;

/// What an archive says it is.
pub(super) const FORMAT: &str = "tako-vm archive v1";

/// Seals, or events, read at once.
const PAGE: u32 = 1000;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and nearly all are events")]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Archive(Header),
    Seal(Box<Seal>),
    /// A seal of which no event is here: it links the others.
    Passed(Box<Seal>),
    /// Stands for an event under the seal that is not here.
    Leaf(Leaf),
    #[serde(borrow)]
    Event(ArchivedEvent<'a>),
    End(Exported),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub format: String,
    /// The seal before the first one here; null where the log begins.
    pub after: Option<Box<Seal>>,
}

/// An event with all that its hash and its leaf cover.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchivedEvent<'a> {
    pub position: i64,
    pub stream_id: Uuid,
    #[serde(borrow)]
    pub stream_kind: Cow<'a, str>,
    pub version: i32,
    pub event_id: Uuid,
    #[serde(rename = "type", borrow)]
    pub event_type: Cow<'a, str>,
    pub schema_version: i16,
    #[serde(deserialize_with = "exactly")]
    pub recorded_at: DateTime<Utc>,
    #[serde(borrow)]
    pub actor: Cow<'a, str>,
    pub correlation_id: Option<String>,
    pub causation_id: Option<Uuid>,
    /// The JSON text inside a string, so that whoever formats the line does not change it.
    #[serde(borrow)]
    pub payload: Cow<'a, str>,
    pub prev_hash: Option<Digest>,
    pub hash: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leaf {
    pub position: i64,
    /// The code of the stream's kind.
    pub stream_kind: i16,
    pub hash: Digest,
}

/// How much an archive, or an export, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    pub seals: u64,
    pub events: u64,
    /// 0 for none.
    pub last_seal: i64,
}

impl std::fmt::Display for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} seals up to number {} and {} events", self.seals, self.last_seal, self.events)
    }
}

impl<'a> ArchivedEvent<'a> {
    fn of(event: &'a StoredEvent) -> Self {
        Self {
            position: event.position,
            stream_id: event.stream_id,
            stream_kind: event.stream_kind.as_str().into(),
            version: event.version,
            event_id: event.event_id,
            event_type: event.event_type.as_str().into(),
            schema_version: event.schema_version,
            recorded_at: event.recorded_at,
            actor: event.actor.as_str().into(),
            correlation_id: event.correlation_id.clone(),
            causation_id: event.causation_id,
            payload: event.payload.as_str().into(),
            prev_hash: event.prev_hash,
            hash: event.hash,
        }
    }

    /// The code of the stream's kind.
    pub(super) fn kind(&self) -> Result<i16, &'static str> {
        StreamKind::from_name(&self.stream_kind).map(|kind| kind as i16).ok_or("stream_kind")
    }

    /// What the event's hash covers.
    pub(super) fn link(&self) -> Result<Link<'_>, &'static str> {
        // The hash knows microseconds; more than these could be anything.
        if !self.recorded_at.timestamp_subsec_nanos().is_multiple_of(1000) {
            return Err("recorded_at");
        }
        Ok(Link {
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
        })
    }
}

/// Why there is no archive, or half of one.
#[derive(Debug, thiserror::Error)]
pub enum NotExported {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("the file cannot be written")]
    Write(#[from] io::Error),
    #[error("there is no seal {0} to begin behind")]
    NoSuchSeal(i64),
}

impl Store {
    /// Writes the seals behind one (0: all) as lines of JSON.
    ///
    /// # Errors
    /// [`NotExported`]; what was written before stays.
    pub async fn export_seals(&self, since_seal: i64, out: &mut dyn Write) -> Result<Exported, NotExported> {
        let mut exported = Exported { last_seal: since_seal, ..Exported::default() };
        loop {
            let page = self.seals(exported.last_seal, PAGE).await?;
            if page.is_empty() {
                return Ok(exported);
            }
            for seal in page {
                exported.seals += 1;
                exported.last_seal = seal.seal_no;
                write(out, &Line::Seal(Box::new(seal)))?;
            }
        }
    }

    /// Writes an archive of everything that is sealed behind a seal (0: from the log's beginning).
    ///
    /// # Errors
    /// As [`Store::export_seals`]; and for a seal that is not there.
    pub async fn export_archive(&self, since_seal: i64, out: &mut dyn Write) -> Result<Exported, NotExported> {
        let after = match since_seal {
            0 => None,
            number => {
                let found = self.seals(number - 1, 1).await?.pop().filter(|seal| seal.seal_no == number);
                Some(Box::new(found.ok_or(NotExported::NoSuchSeal(number))?))
            }
        };
        write(out, &Line::Archive(Header { format: FORMAT.to_owned(), after }))?;
        let mut exported = Exported { last_seal: since_seal, ..Exported::default() };
        loop {
            let page = self.seals(exported.last_seal, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for seal in page {
                exported.seals += 1;
                exported.last_seal = seal.seal_no;
                if self.archived_seals(seal.seal_no - 1, seal.seal_no).await?.contains(&seal.seal_no) {
                    write(out, &Line::Passed(Box::new(seal)))?;
                    continue;
                }
                exported.events += self.export_under(seal, |_| true, out).await?;
            }
        }
        write(out, &Line::End(exported))?;
        Ok(exported)
    }

    /// Writes an archive of the streams that began before an id: the seals over their events, in which a
    /// leaf stands for each event of another stream.
    ///
    /// # Errors
    /// As [`Store::export_seals`].
    pub async fn export_streams(&self, before: Uuid, out: &mut dyn Write) -> Result<Exported, NotExported> {
        let ends: (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT (SELECT seal_no FROM seals WHERE last_position >= p.first ORDER BY last_position LIMIT 1), \
                    (SELECT seal_no FROM seals WHERE last_position >= p.last ORDER BY last_position LIMIT 1) \
               FROM (SELECT min(position) AS first, max(position) AS last FROM events WHERE stream_id < $1) p",
        )
        .bind(before)
        .fetch_one(self.pool())
        .await
        .map_err(Error::during("find seals"))?;
        let (first, last) = (ends.0.unwrap_or(1), ends.1.unwrap_or(0));
        let after = self.seals(first - 2, 1).await?.pop().filter(|seal| seal.seal_no == first - 1);
        write(out, &Line::Archive(Header { format: FORMAT.to_owned(), after: after.map(Box::new) }))?;
        let mut exported = Exported { last_seal: first - 1, ..Exported::default() };
        while exported.last_seal < last {
            let Some(seal) = self.seals(exported.last_seal, 1).await?.pop() else { break };
            exported.last_seal = seal.seal_no;
            exported.seals += 1;
            let own: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM events WHERE position BETWEEN $1 AND $2 AND stream_id < $3)",
            )
            .bind(seal.first_position)
            .bind(seal.last_position)
            .bind(before)
            .fetch_one(self.pool())
            .await
            .map_err(Error::during("read events"))?;
            if !own {
                write(out, &Line::Passed(Box::new(seal)))?;
                continue;
            }
            exported.events += self.export_under(seal, |event| event.stream_id < before, out).await?;
        }
        write(out, &Line::End(exported))?;
        Ok(exported)
    }

    /// Writes a seal and what is under it: the events that are wanted, and a leaf for each of the others
    /// and for each that was archived before. Answers how many events there are.
    async fn export_under(
        &self,
        seal: Seal,
        is_wanted: impl Fn(&StoredEvent) -> bool,
        out: &mut dyn Write,
    ) -> Result<u64, NotExported> {
        let (mut position, last, mut count) = (seal.first_position - 1, seal.last_position, 0);
        let mut archived = self.archived_leaves(seal.first_position, last).await?.into_iter().peekable();
        write(out, &Line::Seal(Box::new(seal)))?;
        while position < last {
            let events = self.log_events(position, &[], PAGE).await?;
            let Some(newest) = events.last() else { break };
            position = newest.position;
            for event in events.iter().take_while(|event| event.position <= last) {
                while let Some(leaf) = archived.next_if(|leaf| leaf.position < event.position) {
                    write(out, &Line::Leaf(leaf))?;
                }
                if is_wanted(event) {
                    write(out, &Line::Event(ArchivedEvent::of(event)))?;
                    count += 1;
                } else {
                    let (position, stream_kind, hash) = (event.position, event.stream_kind as i16, event.hash);
                    write(out, &Line::Leaf(Leaf { position, stream_kind, hash }))?;
                }
            }
        }
        for leaf in archived {
            write(out, &Line::Leaf(leaf))?;
        }
        Ok(count)
    }

    async fn archived_leaves(&self, first: i64, last: i64) -> Result<Vec<Leaf>, Error> {
        let rows: Vec<(i64, i16, [u8; 32])> = sqlx::query_as(
            "SELECT position, stream_kind, hash FROM archived_leaves WHERE position BETWEEN $1 AND $2 ORDER BY position",
        )
        .bind(first)
        .bind(last)
        .fetch_all(self.pool())
        .await
        .map_err(Error::during("read archived leaves"))?;
        let leaf = |(position, stream_kind, hash)| Leaf { position, stream_kind, hash: Digest::from_bytes(hash) };
        Ok(rows.into_iter().map(leaf).collect())
    }
}

fn write(out: &mut dyn Write, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
