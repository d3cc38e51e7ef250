//! The shared database, as far as the protocol needs it: streams, queue rows, heartbeats.

use std::collections::{BTreeMap, HashMap};

use tako_vm::domain::{Command, Envelope, Event, ExecutionRecord, JobState, Rejection, decide};
use uuid::Uuid;

use super::{Rules, instant};

pub type NodeId = u128;

/// Without a heartbeat for so many ticks, a node is taken for dead.
const DEAD_AFTER: u64 = 15;

pub struct Row {
    pub held: Option<(i64, NodeId)>,
    pub not_before: u64,
}

/// Events of one stream, guarded by its version and by the lease of who speaks.
#[derive(Debug, Clone)]
pub struct Append {
    pub stream: Uuid,
    pub expected_version: i32,
    pub lease: Option<i64>,
    pub events: Vec<Envelope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    Appended,
    /// These very events are there already.
    Repeated,
    VersionConflict,
    LeaseLost,
}

#[derive(Default)]
pub struct Database {
    pub rules: Rules,
    pub streams: BTreeMap<Uuid, Vec<Envelope>>,
    pub records: BTreeMap<Uuid, ExecutionRecord>,
    pub rows: BTreeMap<Uuid, Row>,
    pub heartbeats: BTreeMap<NodeId, u64>,
    /// Under which lease an event was appended.
    pub spoken: HashMap<Uuid, i64>,
    /// Everything that must never happen and did.
    pub violations: Vec<String>,
    pub answers: BTreeMap<Answer, u64>,
    /// As the log has it, at the same time.
    pub most_at_work: usize,
    last_lease: i64,
    last_id: u128,
}

impl Database {
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// A command's events, decided on what stands in the database now.
    pub fn draft(
        &mut self,
        stream: Uuid,
        lease: Option<i64>,
        now: u64,
        command: Command,
    ) -> Result<Option<Append>, Rejection> {
        let before = self.records.get(&stream);
        let version = before.map_or(0, |record| record.version);
        let decided = decide(before, command)?;
        let mut events = Vec::with_capacity(decided.len());
        for event in decided {
            self.last_id += 1;
            events.push(Envelope {
                event_id: Uuid::from_u128(self.last_id),
                stream_id: stream,
                version: version + 1 + events.len() as i32,
                recorded_at: instant(now),
                correlation_id: None,
                event,
            });
        }
        Ok((!events.is_empty()).then_some(Append { stream, expected_version: version, lease, events }))
    }

    pub fn append(&mut self, append: &Append) -> Answer {
        let answer = self.judge(append);
        *self.answers.entry(answer).or_default() += 1;
        if answer == Answer::Appended {
            self.write(append);
        }
        answer
    }

    fn judge(&mut self, append: &Append) -> Answer {
        let known = self.streams.get(&append.stream).map_or(&[][..], Vec::as_slice);
        if known.iter().any(|envelope| envelope.event_id == append.events[0].event_id) {
            return Answer::Repeated;
        }
        let held = self.rows.get(&append.stream).and_then(|row| row.held).map(|(lease, _)| lease);
        let holds = append.lease.is_none() || append.lease == held;
        if self.rules.checks_lease && !holds {
            return Answer::LeaseLost;
        }
        if self.rules.checks_version && known.len() != append.expected_version as usize {
            return Answer::VersionConflict;
        }
        if !holds {
            self.violations.push(format!("{} was appended to by a lost lease", append.stream));
        }
        Answer::Appended
    }

    fn write(&mut self, append: &Append) {
        let mut record = self.records.remove(&append.stream);
        for envelope in &append.events {
            match ExecutionRecord::evolve(record.clone(), envelope) {
                Ok(next) => record = next,
                Err(error) => self.violations.push(error.to_string()),
            }
            if let Some(lease) = append.lease {
                self.spoken.insert(envelope.event_id, lease);
            }
            match &envelope.event {
                Event::JobSubmitted(_) => {
                    self.rows.insert(append.stream, Row { held: None, not_before: 0 });
                }
                Event::LeaseExpired(_) => self.release(append.stream, 0),
                Event::RetryScheduled(retry) => {
                    let not_before = (retry.not_before - instant(0)).num_seconds();
                    self.release(append.stream, not_before as u64);
                }
                event if super::is_end(event) => {
                    self.rows.remove(&append.stream);
                }
                _ => {}
            }
            self.streams.entry(append.stream).or_default().push(envelope.clone());
        }
        self.records.extend(record.map(|record| (append.stream, record)));
        let is_at_work =
            |record: &&ExecutionRecord| matches!(record.state, JobState::Dequeued { .. } | JobState::Running { .. });
        let at_work = self.records.values().filter(is_at_work).count();
        self.most_at_work = self.most_at_work.max(at_work);
        if self.rules.limit.is_some_and(|limit| at_work > limit) {
            self.violations.push(format!("{at_work} jobs are at work"));
        }
    }

    fn release(&mut self, stream: Uuid, not_before: u64) {
        if let Some(row) = self.rows.get_mut(&stream) {
            *row = Row { held: None, not_before };
        }
    }

    /// The oldest job that is due and nobody's, under a new lease.
    pub fn claim(&mut self, node: NodeId, now: u64) -> Option<(Uuid, i64)> {
        let held = self.rows.values().filter(|row| row.held.is_some()).count();
        if self.rules.counts && self.rules.limit.is_some_and(|limit| held >= limit) {
            return None;
        }
        let (stream, row) = self.rows.iter_mut().find(|(_, row)| row.held.is_none() && row.not_before <= now)?;
        self.last_lease += 1;
        row.held = Some((self.last_lease, node));
        Some((*stream, self.last_lease))
    }

    /// Takes up what dead nodes left.
    pub fn reap(&mut self, now: u64) {
        let is_dead = |node: &NodeId| self.heartbeats.get(node).is_none_or(|beat| beat + DEAD_AFTER < now);
        let held = self.rows.iter().filter_map(|(stream, row)| Some((*stream, row.held?)));
        let left: Vec<_> = held.filter(|(_, (_, node))| is_dead(node)).collect();
        for (stream, (lease, _)) in left {
            self.give_back(stream, lease, now);
        }
    }

    /// Ends a claim: by an event if an event speaks of it, else the row alone.
    pub fn give_back(&mut self, stream: Uuid, lease: i64, now: u64) {
        let expire = Command::ExpireLease { lease, cause: "nobody works on it".to_owned() };
        match self.draft(stream, Some(lease), now, expire) {
            Ok(Some(append)) => {
                self.append(&append);
            }
            Ok(None) => {}
            Err(_) => {
                if self.rows.get(&stream).is_some_and(|row| row.held.is_some_and(|(held, _)| held == lease)) {
                    self.release(stream, 0);
                }
            }
        }
    }

    /// Whether the claim has lost the job, as far as the log says.
    pub fn is_lost(&self, stream: Uuid, lease: i64) -> bool {
        let record = &self.records[&stream];
        match &record.state {
            JobState::Queued { .. } => false,
            JobState::Dequeued { claim, .. } | JobState::Running { claim, .. } => claim.lease != lease,
            JobState::Ended { .. } => true,
        }
    }
}
