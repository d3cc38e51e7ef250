//! Claims, leases and ends under every fault at once: nodes die, freeze and wake, appends come
//! late, twice or never, answers are lost, clients cancel.
//!
//! The domain is the real one; the database, the network and time are simulated, so a seed is a
//! schedule and a failure can be repeated. Each schedule has a time of faults and then a calm,
//! in which everything must come to its end.

mod database;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use database::{Answer, Database, NodeId};
use node::{Message, Node};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tako_vm::domain::{Command, Event, EventKind, ExecutionRecord, JobState, JobSubmitted, Observed};
use uuid::Uuid;

const SCHEDULES: u64 = 2000;
const NODES: u128 = 3;
const JOBS: u128 = 4;
const FAULTS_END: u64 = 120;
/// The calm is long enough for every attempt a job has left.
const END: u64 = 1500;
const MAX_ATTEMPTS: u32 = 4;

/// What holds the protocol together; a test takes each away.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub checks_version: bool,
    pub checks_lease: bool,
    /// Nodes take up what dead ones left.
    pub reaps: bool,
    /// A node gives back the claims it holds and does not know of.
    pub reconciles: bool,
    /// So many jobs may be at work at the same time.
    pub limit: Option<usize>,
    /// A claim looks at how many are.
    pub counts: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { checks_version: true, checks_lease: true, reaps: true, reconciles: true, limit: None, counts: true }
    }
}

struct Simulation {
    random: SmallRng,
    database: Database,
    nodes: Vec<Node>,
    last_node: NodeId,
    /// By the tick of their arrival.
    network: BTreeMap<u64, Vec<Message>>,
    now: u64,
}

impl Simulation {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut simulation = Self {
            random: SmallRng::seed_from_u64(seed),
            database: Database::new(rules),
            nodes: (1..=NODES).map(Node::new).collect(),
            last_node: NODES,
            network: BTreeMap::new(),
            now: 0,
        };
        for job in 1..=JOBS {
            let submit = Command::SubmitJob(Box::new(submitted()));
            let append = simulation.database.draft(Uuid::from_u128(job << 64), None, 0, submit).unwrap().unwrap();
            simulation.database.append(&append);
        }
        simulation
    }

    /// Lives through the faults and the calm; answers with everything that went wrong.
    fn run(&mut self) -> Vec<String> {
        while self.now < END && !(self.now > FAULTS_END && self.database.rows.is_empty()) {
            self.now += 1;
            self.deliver();
            if self.now < FAULTS_END {
                self.make_trouble();
            }
            for index in 0..self.nodes.len() {
                if self.nodes[index].frozen_until > self.now && self.now < FAULTS_END {
                    continue;
                }
                let is_calm = self.now >= FAULTS_END;
                let sent = self.nodes[index].tick(&mut self.database, &mut self.random, self.now, is_calm);
                sent.into_iter().for_each(|message| self.send(message));
            }
            if self.database.rules.reaps && self.now.is_multiple_of(5) {
                self.database.reap(self.now);
            }
        }
        let mut faults = std::mem::take(&mut self.database.violations);
        for stream in self.database.streams.keys() {
            faults.extend(self.faults_of(*stream));
        }
        faults
    }

    fn deliver(&mut self) {
        for message in self.network.remove(&self.now).unwrap_or_default() {
            match message {
                Message::Request { node, token, append } => {
                    let answer = self.database.append(&append);
                    self.send(Message::Response { node, token, answer });
                }
                Message::Response { node, token, answer } => {
                    let Some(node) = self.nodes.iter_mut().find(|known| known.id == node) else { continue };
                    node.answered(token, answer, &mut self.database, &mut self.random, self.now);
                }
            }
        }
    }

    /// Puts a message on its way: in the time of faults late, twice, or not at all.
    fn send(&mut self, message: Message) {
        let is_calm = self.now >= FAULTS_END;
        let copies = match self.random.random_range(0..20) {
            _ if is_calm => 1,
            0 | 1 => 0,
            2 | 3 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let late = if !is_calm && self.random.random_bool(0.1) { 40 } else { 3 };
            let delay = self.random.random_range(1..=late);
            self.network.entry(self.now + delay).or_default().push(message.clone());
        }
    }

    fn make_trouble(&mut self) {
        let index = self.random.random_range(0..self.nodes.len());
        match self.random.random_range(0..100) {
            // A node dies with all it knew, and another is started in its place.
            0 | 1 => {
                self.last_node += 1;
                self.nodes[index] = Node::new(self.last_node);
            }
            // A node stands still, and goes on as if nothing had been.
            2 | 3 => self.nodes[index].frozen_until = self.now + self.random.random_range(5..50),
            4 | 5 => {
                let stream = Uuid::from_u128(self.random.random_range(1..=JOBS) << 64);
                let cancel = Command::RequestCancel { by: "client".to_owned(), reason: None };
                if let Ok(Some(append)) = self.database.draft(stream, None, self.now, cancel) {
                    self.send(Message::Request { node: 0, token: 0, append });
                }
            }
            _ => {}
        }
    }

    /// What is wrong with one execution when all is over.
    fn faults_of(&self, stream: Uuid) -> Vec<String> {
        let events = &self.database.streams[&stream];
        let names: Vec<_> = events.iter().map(|envelope| envelope.event.kind().as_str()).collect();
        let mut faults = Vec::new();
        let mut fault = |what: &str| faults.push(format!("{stream} {what}: {names:?}"));
        let ends = events.iter().filter(|envelope| is_end(&envelope.event)).count();
        match ends {
            0 => fault("is stuck"),
            1 => {}
            _ => fault("has several ends"),
        }
        let mut record = None;
        let (mut leases, mut attempts, mut cancelled) = (BTreeSet::new(), 0, false);
        for envelope in events {
            let speaks = self.database.spoken.get(&envelope.event_id);
            match &envelope.event {
                Event::JobDequeued(dequeued) => {
                    attempts += 1;
                    if leases.last().is_some_and(|last| *last >= dequeued.lease) {
                        fault("was claimed under an older lease");
                    }
                    leases.insert(dequeued.lease);
                }
                Event::CancelRequested(_) => cancelled = true,
                Event::ExecutionStarted(_) if cancelled => fault("started after it was cancelled"),
                // What follows an end of a lease in the same append is still its word.
                _ => {
                    if let (Some(speaks), Some(holds)) = (speaks, record.as_ref().and_then(holder))
                        && *speaks != holds
                    {
                        fault("was spoken of by a lease that did not hold it");
                    }
                }
            }
            match ExecutionRecord::evolve(record.take(), envelope) {
                Ok(next) => record = next,
                Err(error) => {
                    fault(&error.to_string());
                    return faults;
                }
            }
        }
        if attempts > MAX_ATTEMPTS {
            fault("had too many attempts");
        }
        if record.as_ref() != self.database.records.get(&stream) {
            fault("has a record that is not the fold of its events");
        }
        faults
    }
}

fn holder(record: &ExecutionRecord) -> Option<i64> {
    match &record.state {
        JobState::Dequeued { claim, .. } | JobState::Running { claim, .. } => Some(claim.lease),
        JobState::Queued { .. } | JobState::Ended { .. } => None,
    }
}

pub fn is_end(event: &Event) -> bool {
    matches!(
        event.kind(),
        EventKind::ExecutionSucceeded
            | EventKind::ExecutionFailed
            | EventKind::ExecutionTimedOut
            | EventKind::ExecutionOutOfMemory
            | EventKind::ExecutionCancelled
    )
}

/// A tick is a second.
pub fn instant(tick: u64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(tick as i64)
}

fn submitted() -> JobSubmitted {
    let mut sample = sample(EventKind::JobSubmitted);
    sample["max_attempts"] = MAX_ATTEMPTS.into();
    serde_json::from_value(sample).unwrap()
}

pub fn observed() -> Observed {
    serde_json::from_value(sample(EventKind::ExecutionSucceeded)["observed"].take()).unwrap()
}

fn sample(kind: EventKind) -> Value {
    serde_json::from_str(kind.editions().last().unwrap().sample).unwrap()
}

#[test]
fn every_job_has_one_end_whatever_happens_to_its_nodes() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut answers: BTreeMap<Answer, u64> = BTreeMap::new();
    for seed in 0..SCHEDULES {
        let mut simulation = Simulation::new(seed, Rules::default());
        let faults = simulation.run();
        assert!(faults.is_empty(), "seed {seed}: {faults:#?}");
        for envelope in simulation.database.streams.values().flatten() {
            *seen.entry(envelope.event.kind().as_str()).or_default() += 1;
        }
        for (answer, count) in simulation.database.answers {
            *answers.entry(answer).or_default() += count;
        }
    }
    // A simulation in which nothing goes wrong shows nothing.
    for answer in [Answer::Appended, Answer::Repeated, Answer::VersionConflict, Answer::LeaseLost] {
        assert!(answers.get(&answer).is_some_and(|count| *count > SCHEDULES / 20), "{answers:?}");
    }
    for kind in ["LeaseExpired", "RetryScheduled", "JobDeadLettered", "CancelRequested", "ExecutionCancelled"] {
        assert!(seen.get(kind).is_some_and(|count| *count > SCHEDULES / 20), "{seen:?}");
    }
}

#[test]
fn no_more_jobs_than_the_limit_are_ever_at_work_and_all_of_them_end() {
    let limited = Rules { limit: Some(2), ..Rules::default() };
    let mut most = 0;
    for seed in 0..SCHEDULES / 4 {
        let mut simulation = Simulation::new(seed, limited);
        let faults = simulation.run();
        assert!(faults.is_empty(), "seed {seed}: {faults:#?}");
        most = most.max(simulation.database.most_at_work);
    }
    assert_eq!(most, 2);
    let careless = Rules { counts: false, ..limited };
    let found = (0..SCHEDULES / 4).flat_map(|seed| Simulation::new(seed, careless).run());
    assert!(found.into_iter().any(|fault| fault.contains("are at work")), "nothing came of {careless:?}");
}

#[test]
fn a_protocol_without_one_of_its_rules_fails() {
    let whole = Rules::default();
    for (rules, symptom) in [
        (Rules { checks_version: false, ..whole }, "does not follow from the events before it"),
        (Rules { checks_lease: false, ..whole }, "was appended to by a lost lease"),
        (Rules { reaps: false, ..whole }, "is stuck"),
        (Rules { reconciles: false, ..whole }, "is stuck"),
    ] {
        let found =
            (0..SCHEDULES).flat_map(|seed| Simulation::new(seed, rules).run()).find(|fault| fault.contains(symptom));
        assert!(found.is_some(), "nothing came of {rules:?}");
    }
}
