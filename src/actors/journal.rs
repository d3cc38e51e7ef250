//! The node's own stream: when it came, drained and went.

use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;
use uuid::Uuid;

use super::appender::{Append, Appender};
use super::ledger;
use crate::clock::Clock;
use crate::domain::{Digest, Envelope, Event};
use crate::store::{self, Outcome};

/// Appends to the stream of one node, of which it is the only writer.
#[derive(Clone)]
pub struct Journal {
    node_id: Uuid,
    appender: Addr<Appender>,
    clock: Arc<dyn Clock>,
    /// Version and hash of the latest event.
    head: Arc<Mutex<(i32, Option<Digest>)>>,
}

impl Journal {
    pub fn new(node_id: Uuid, appender: Addr<Appender>, clock: Arc<dyn Clock>) -> Self {
        Self { node_id, appender, clock, head: Arc::default() }
    }

    /// Appends an event, or says in the process's log why it could not: a node works on
    /// without its journal.
    pub async fn write(&self, event: impl Into<Event>) {
        if let Err(error) = self.try_write(event.into()).await {
            tracing::warn!(error = %error, "the node's journal misses an event");
        }
    }

    async fn try_write(&self, event: Event) -> Result<(), ledger::Error> {
        let (version, head_hash) = *self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let envelope = Envelope {
            event_id: Uuid::now_v7(),
            stream_id: self.node_id,
            version: version + 1,
            recorded_at: self.clock.now(),
            correlation_id: None,
            event,
        };
        let speaker = format!("node@{}", self.node_id);
        let mut append = store::Append::events(
            self.node_id,
            store::StreamKind::Node,
            store::new_events([(&envelope, speaker.as_str())])?,
        );
        append.expected_version = version;
        append.prev_hash = head_hash;
        let mut outcome = self.appender.send(Append(vec![append])).await.map_err(|_| ledger::Error::Stopped)?;
        let outcome = outcome.pop().unwrap_or(Err(ledger::Error::Overloaded))?;
        if let Outcome::Appended(appended) | Outcome::Duplicate(appended) = outcome {
            *self.head.lock().unwrap_or_else(PoisonError::into_inner) = (appended.version, Some(appended.head_hash));
        }
        Ok(())
    }
}
