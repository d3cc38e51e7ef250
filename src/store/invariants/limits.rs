//! Whether limits of concurrency keys were kept, as the log tells it.
//!
//! A job counts against its key from its claim to the append that ends the attempt. The log has the first of
//! these a little late (`JobDequeued`), so a limit that seems exceeded there was.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Violation;
use crate::domain::{Event, ExecutionRecord};

/// When a job was at work: positions of the first and the last event of each attempt.
#[derive(Default)]
pub(super) struct Attempts(Vec<(i64, i64)>);

impl Attempts {
    /// Takes note of an event of a job that was at work before it, or was not.
    pub(super) fn hear(&mut self, position: i64, event: &Event, was_at_work: bool) {
        match (event, self.0.last_mut()) {
            (Event::JobDequeued(_), _) => self.0.push((position, position)),
            (_, Some((_, to))) if was_at_work => *to = position,
            (_, _) => {}
        }
    }
}

struct AtWork {
    execution_id: Uuid,
    limit: u32,
    from: i64,
    to: i64,
}

/// The attempts of all jobs with a key. Holds as many as there were.
#[derive(Default)]
pub(super) struct Keyed(BTreeMap<(String, String), Vec<AtWork>>);

impl Keyed {
    pub(super) fn add(&mut self, record: &ExecutionRecord, attempts: Attempts) {
        let submitted = &record.submitted;
        let Some(wanted) = &submitted.concurrency else { return };
        let own = attempts.0.into_iter().map(|(from, to)| AtWork {
            execution_id: record.execution_id,
            limit: wanted.limit,
            from,
            to,
        });
        self.0.entry((submitted.tenant.clone(), wanted.key.clone())).or_default().extend(own);
    }

    pub(super) fn append(&mut self, other: Self) {
        for (key, at_work) in other.0 {
            self.0.entry(key).or_default().extend(at_work);
        }
    }

    /// Jobs that began while as many others with their key were at work as any of them allows.
    pub(super) fn exceeded(self) -> Vec<Violation> {
        let mut found = Vec::new();
        for ((_, key), mut attempts) in self.0 {
            attempts.sort_unstable_by_key(|attempt| attempt.from);
            let mut present: Vec<AtWork> = Vec::new();
            for attempt in attempts {
                present.retain(|other| other.to > attempt.from);
                let (execution_id, from) = (attempt.execution_id, attempt.from);
                present.push(attempt);
                let most = present.iter().map(|attempt| attempt.limit).max().unwrap_or_default();
                if present.len() > most as usize {
                    let what = format!(
                        "it began at position {from} as one of {} jobs with the concurrency key {key:?}, of which {most} \
                         may run at the same time",
                        present.len()
                    );
                    found.push(Violation { execution_id, what });
                }
            }
        }
        found
    }
}
