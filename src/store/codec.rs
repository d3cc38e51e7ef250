//! Between the domain's events and records and the text that is stored of them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::append::{NewEvent, RecordRow};
use super::error::Error;
use super::events::StoredEvent;
use super::upcast::{NotUpcast, upcast};
use crate::domain::{Ending, Envelope, ErrorType, Event, EventKind, ExecutionRecord, JobState, Phase};

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
        let event = event_of(&self.event_type, self.schema_version, &self.payload)
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
    /// The row of a record.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for a record that has no JSON form.
    pub fn of(record: &ExecutionRecord) -> Result<Self, Error> {
        let text = serde_json::to_string(record).map_err(Error::unwritable("record", record.execution_id))?;
        Ok(Self {
            tenant: record.submitted.tenant.clone(),
            status: record.status().as_str().to_owned(),
            job_type: record.submitted.job_type.clone(),
            created_at: record.created_at,
            ended_at: ended_at(record),
            code_hash: Some(record.submitted.code),
            input_hash: Some(record.submitted.input),
            parent_execution_id: record.submitted.parent.map(|parent| parent.execution_id),
            relationship: record.submitted.parent.map(|parent| parent.relationship.as_str().to_owned()),
            error_type: record.ending().and_then(error_type),
            record: text,
        })
    }
}

pub(super) fn record_from(execution_id: Uuid, text: &str) -> Result<ExecutionRecord, Error> {
    serde_json::from_str(text).map_err(|error| Error::corrupt("executions", execution_id, "record", error))
}

fn ended_at(record: &ExecutionRecord) -> Option<DateTime<Utc>> {
    match &record.state {
        JobState::Ended { ended_at, .. } => Some(*ended_at),
        JobState::Queued { .. } | JobState::Dequeued { .. } | JobState::Running { .. } => None,
    }
}

fn error_type(ending: &Ending) -> Option<String> {
    let error_type = match ending {
        Ending::Succeeded { .. } => return None,
        Ending::Failed { error, .. } => error.error_type,
        Ending::TimedOut { phase: Phase::Queue, .. } => ErrorType::Timeout,
        Ending::TimedOut { phase: Phase::Startup, .. } => ErrorType::StartupTimeout,
        Ending::TimedOut { phase: Phase::Execution, .. } => ErrorType::ExecutionTimeout,
        Ending::OutOfMemory { .. } => ErrorType::Oom,
        Ending::Cancelled { .. } => ErrorType::Cancelled,
    };
    Some(error_type.as_str().to_owned())
}
