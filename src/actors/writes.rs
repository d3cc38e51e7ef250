//! Whether the database takes writes, as this node's own last ones tell.
//!
//! A database can be read and not written: a standby, one that was made read-only, one whose disk is full. A
//! probe that wrote each time would cost a write each time, so the outcomes of heartbeats and appends are kept.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store;

/// The outcome of the last heartbeat and of the last append.
#[derive(Debug, Default)]
pub struct Writes(Mutex<Refused>);

/// Why a write was refused; `None` for one that was not.
#[derive(Debug, Default)]
struct Refused {
    heartbeat: Option<&'static str>,
    append: Option<&'static str>,
}

impl Writes {
    /// Why the database takes no writes, if so; continues a sentence.
    pub fn refusal(&self) -> Option<&'static str> {
        let refused = self.refused();
        refused.heartbeat.or(refused.append)
    }

    /// Whether an append was refused, and none was taken since.
    pub(super) fn doubts_appends(&self) -> bool {
        self.refused().append.is_some()
    }

    pub(super) fn heartbeat<T>(&self, outcome: Result<&T, &store::Error>) {
        note(&mut self.refused().heartbeat, "heartbeats", outcome);
    }

    pub(super) fn append<T>(&self, outcome: Result<&T, &store::Error>) {
        note(&mut self.refused().append, "appends", outcome);
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note<T>(refused: &mut Option<&'static str>, what: &str, outcome: Result<&T, &store::Error>) {
    let now = match outcome {
        Ok(_) => None,
        // One that says nothing of writes leaves what is known: reading it fails as well, or it was a race.
        Err(error) => match error.write_refusal() {
            Some(cause) => Some(cause),
            None => return,
        },
    };
    match (*refused, now) {
        (None, Some(cause)) => tracing::warn!(cause, what, "the database takes no writes"),
        (Some(_), None) => tracing::info!(what, "the database takes writes again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    *refused = now;
}
