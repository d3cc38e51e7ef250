//! Between the domain's events and records and the text that is stored of them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::append::{NewEvent, RecordRow};
use super::error::Error;
use super::events::StoredEvent;
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
        let unknown = |column, value: &dyn std::fmt::Display| {
            Error::corrupt("events", self.position, column, format_args!("{value} is not known to this program"))
        };
        let kind = EventKind::from_name(&self.event_type).ok_or_else(|| unknown("event_type", &self.event_type))?;
        let event = match self.schema_version {
            // Here stand the upcasters, from the oldest version to today's.
            1 => Event::from_payload(kind, &self.payload),
            version => return Err(unknown("schema_version", &version)),
        };
        Ok(Envelope {
            event_id: self.event_id,
            stream_id: self.stream_id,
            version: self.version,
            recorded_at: self.recorded_at,
            correlation_id: self.correlation_id.clone(),
            event: event.map_err(|error| Error::corrupt("events", self.position, "payload", error))?,
        })
    }
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
