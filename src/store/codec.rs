//! Between the domain's events and records and the text that is stored of them.

use super::append::{NewEvent, RecordRow};
use super::error::Error;
use super::events::StoredEvent;
use super::executions::Stored;
use super::upcast::{NotUpcast, upcast};
use crate::domain::{Envelope, Event, EventKind, ExecutionRecord, JobState};

/// Events as they are appended, each with the part that speaks.
///
/// # Errors
/// [`Error::Unwritable`] for a payload that has no JSON form.
pub fn new_events<'a>(events: impl IntoIterator<Item = (&'a Envelope, &'a str)>) -> Result<Vec<NewEvent>, Error> {
    events
        .into_iter()
        .map(|(envelope, speaker)| {
            let kind = envelope.event.kind();
            Ok(NewEvent {
                event_id: envelope.event_id,
                event_type: kind.as_str().into(),
                schema_version: kind.schema_version(),
                recorded_at: envelope.recorded_at,
                actor: speaker.to_owned(),
                correlation_id: envelope.correlation_id.clone(),
                causation_id: None,
                payload: envelope.event.payload().map_err(Error::unwritable(kind.as_str(), envelope.stream_id))?,
            })
        })
        .collect()
}

impl StoredEvent {
    /// The event in today's model: a payload of an older schema version passes its upcasters.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a type or schema version that this program does not know, and for
    /// a payload that does not read.
    pub fn envelope(&self) -> Result<Envelope, Error> {
        let event = event_of(&self.event_type, self.schema_version, self.readable())
            .map_err(|error| Error::corrupt("events", self.position, error.column, error.reason))?;
        Ok(Envelope {
            event_id: self.event_id,
            stream_id: self.stream_id,
            version: self.version,
            recorded_at: self.recorded_at,
            correlation_id: self.correlation_id.clone(),
            event,
        })
    }
}

/// What is stored of an event does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{column} cannot be read: {reason}")]
pub struct Unreadable {
    pub column: &'static str,
    pub reason: String,
}

/// An event of a stored type, schema version and payload, in today's model.
///
/// # Errors
/// [`Unreadable`], for a type or schema version that this program does not know and for a
/// payload that is not what its schema version says.
pub fn event_of(event_type: &str, schema_version: i16, payload: &str) -> Result<Event, Unreadable> {
    let unreadable = |column, reason: String| Unreadable { column, reason };
    let kind = EventKind::from_name(event_type)
        .ok_or_else(|| unreadable("event_type", format!("{event_type} is not known to this program")))?;
    let payload = upcast(kind, schema_version, payload).map_err(|error| match error {
        NotUpcast::UnknownVersion(_) => unreadable("schema_version", error.to_string()),
        NotUpcast::Misfit(_) => unreadable("payload", error.to_string()),
    })?;
    Event::from_payload(kind, &payload).map_err(|error| unreadable("payload", error.to_string()))
}

impl RecordRow {
    /// What lists know of a record.
    pub fn of(record: &ExecutionRecord) -> Self {
        Self {
            tenant: record.submitted.tenant.clone(),
            job_type: record.submitted.job_type.clone(),
            created_at: record.created_at,
            parent_execution_id: record.submitted.parent.map(|parent| parent.execution_id),
            status: record.status().as_str().to_owned(),
            ended_at: match &record.state {
                JobState::Ended { ended_at, .. } => Some(*ended_at),
                JobState::Queued { .. } | JobState::Dequeued { .. } | JobState::Running { .. } => None,
            },
        }
    }
}

/// The records of whole streams, given event by event: streams one after the other, each in the
/// order of versions.
pub(super) fn fold(events: &[StoredEvent]) -> Result<Vec<Stored>, Error> {
    let streams = events.chunk_by(|one, next| one.stream_id == next.stream_id);
    streams.filter_map(|stream| fold_stream(stream).transpose()).collect()
}

/// `None` for a stream that has no record: a rejected job.
fn fold_stream(events: &[StoredEvent]) -> Result<Option<Stored>, Error> {
    let mut record = None;
    for event in events {
        let folded = ExecutionRecord::evolve(record, &event.envelope()?);
        record = folded.map_err(|error| Error::corrupt("events", event.position, "payload", error))?;
    }
    let head = events.last().map(|event| event.hash);
    Ok(record.zip(head).map(|(record, head_hash)| Stored { record, head_hash }))
}
