//! Streams with one writer: a node's own, and that of each build.

use std::sync::Arc;

use actix::Addr;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::appender::{Append, Appender};
use super::ledger;
use crate::clock::Clock;
use crate::domain::{Digest, Envelope, Event};
use crate::store::{self, Outcome};

/// Appends to a stream of which it is the only writer.
#[derive(Clone)]
pub struct Journal {
    stream_id: Uuid,
    kind: store::StreamKind,
    /// As the envelope's `actor`.
    speaker: String,
    correlation_id: Option<String>,
    appender: Addr<Appender>,
    clock: Arc<dyn Clock>,
    /// Version and hash of the latest event; held while one is written, so that they go one by one.
    head: Arc<Mutex<(i32, Option<Digest>)>>,
}

impl Journal {
    /// Of a node: when it came, drained and went.
    pub fn new(node_id: Uuid, appender: Addr<Appender>, clock: Arc<dyn Clock>) -> Self {
        let speaker = format!("node@{node_id}");
        let kind = store::StreamKind::Node;
        Self { stream_id: node_id, kind, speaker, correlation_id: None, appender, clock, head: Arc::default() }
    }

    /// A new stream of what an installation does with its own log.
    pub(super) fn of_upkeep(appender: Addr<Appender>, clock: Arc<dyn Clock>) -> Self {
        let stream_id = Uuid::now_v7();
        let speaker = format!("upkeep@{stream_id}");
        let kind = store::StreamKind::Upkeep;
        Self { stream_id, kind, speaker, correlation_id: None, appender, clock, head: Arc::default() }
    }

    pub(super) fn appender(&self) -> Addr<Appender> {
        self.appender.clone()
    }

    /// Of a build, whose stream goes on from a known head.
    pub fn of_build(
        &self,
        build_id: Uuid,
        node_id: Uuid,
        correlation_id: Option<String>,
        head: (i32, Option<Digest>),
    ) -> Self {
        Self {
            stream_id: build_id,
            kind: store::StreamKind::Build,
            speaker: format!("builder@{node_id}"),
            correlation_id,
            head: Arc::new(Mutex::new(head)),
            ..self.clone()
        }
    }

    /// Of a job type, whose stream goes on from a known head.
    pub fn of_job_type(
        &self,
        stream_id: Uuid,
        node_id: Uuid,
        correlation_id: Option<String>,
        head: (i32, Option<Digest>),
    ) -> Self {
        Self {
            stream_id,
            kind: store::StreamKind::JobType,
            speaker: format!("builder@{node_id}"),
            correlation_id,
            head: Arc::new(Mutex::new(head)),
            ..self.clone()
        }
    }

    /// Appends an event, or says in the process's log why it could not: a node works on
    /// without its journal.
    pub async fn write(&self, event: impl Into<Event>) {
        if let Err(error) = self.append(event).await {
            tracing::warn!(error = %error, "the node's journal misses an event");
        }
    }

    /// Appends an event. Durable when it returns; `false` when the stream has gone on without us.
    pub async fn append(&self, event: impl Into<Event>) -> Result<bool, ledger::Error> {
        // Held until it is appended: the next event must name this one.
        let mut head = self.head.lock().await;
        let append = self.draft(event.into(), *head)?;
        let mut outcome = self.appender.send(Append(vec![append])).await.map_err(|_| ledger::Error::Stopped)?;
        let outcome = outcome.pop().unwrap_or(Err(ledger::Error::Overloaded))?;
        if let Outcome::Appended(appended) | Outcome::Duplicate(appended) = outcome {
            *head = (appended.version, Some(appended.head_hash));
            return Ok(true);
        }
        Ok(false)
    }

    /// An event that follows a head of the stream, not yet appended.
    pub(super) fn draft(&self, event: Event, head: (i32, Option<Digest>)) -> Result<store::Append, store::Error> {
        let envelope = Envelope {
            event_id: Uuid::now_v7(),
            stream_id: self.stream_id,
            version: head.0 + 1,
            recorded_at: self.clock.now(),
            correlation_id: self.correlation_id.clone(),
            event,
        };
        let events = store::new_events([(&envelope, self.speaker.as_str())])?;
        let mut append = store::Append::events(self.stream_id, self.kind, events);
        (append.expected_version, append.prev_hash) = head;
        Ok(append)
    }
}
