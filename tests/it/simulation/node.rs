//! A node: slots that carry claims from step to step, over a network that loses and repeats.

use rand::Rng;
use rand::rngs::SmallRng;
use tako_vm::domain::{Claim, Command, Ending, ErrorType, Failure, Phase, Retry, Sandbox, Warmth};
use uuid::Uuid;

use super::database::{Answer, Append, Database, NodeId};
use super::{instant, observed};

const SLOTS: usize = 2;

/// Ticks without an answer after which an append is sent again.
const RESEND_AFTER: u64 = 6;

pub struct Node {
    pub id: NodeId,
    pub frozen_until: u64,
    pub slots: [Option<Attempt>; SLOTS],
}

/// A claim and how far it has come.
pub struct Attempt {
    stream: Uuid,
    lease: i64,
    step: Step,
    /// When the present step's work is done.
    ready_at: u64,
    asked: Option<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Claimed,
    GettingASandbox,
    Running,
    Done,
}

/// An append that has no answer yet.
struct Asked {
    token: u64,
    command: Command,
    append: Append,
    resend_at: u64,
}

/// What is under way between a node and the database.
#[derive(Debug, Clone)]
pub enum Message {
    Request { node: NodeId, token: u64, append: Append },
    Response { node: NodeId, token: u64, answer: Answer },
}

impl Node {
    pub fn new(id: NodeId) -> Self {
        Self { id, frozen_until: 0, slots: Default::default() }
    }

    /// One tick; answers with what to send.
    pub fn tick(&mut self, database: &mut Database, random: &mut SmallRng, now: u64, is_calm: bool) -> Vec<Message> {
        database.heartbeats.insert(self.id, now);
        let mut sent = Vec::new();
        for slot in &mut self.slots {
            if let Some(attempt) = slot {
                sent.extend(attempt.tick(self.id, database, random, now));
                if attempt.step == Step::Done {
                    *slot = None;
                }
            } else if let Some((stream, lease)) = database.claim(self.id, now) {
                // The answer to a claim may be lost, and then nobody works on it.
                if is_calm || random.random_bool(0.95) {
                    *slot = Some(Attempt { stream, lease, step: Step::Claimed, ready_at: now, asked: None });
                }
            }
        }
        if database.rules.reconciles && random.random_bool(0.05) {
            self.reconcile(database, now);
        }
        sent
    }

    /// Gives back what the database says this node holds and no slot of it does.
    fn reconcile(&self, database: &mut Database, now: u64) {
        let held: Vec<_> = database
            .rows
            .iter()
            .filter_map(|(stream, row)| {
                row.held.filter(|(_, node)| *node == self.id).map(|(lease, _)| (*stream, lease))
            })
            .filter(|(_, lease)| !self.slots.iter().flatten().any(|attempt| attempt.lease == *lease))
            .collect();
        for (stream, lease) in held {
            database.give_back(stream, lease, now);
        }
    }

    pub fn answered(&mut self, token: u64, answer: Answer, database: &mut Database, random: &mut SmallRng, now: u64) {
        let mut waiting = self.slots.iter_mut().flatten();
        let asking = |attempt: &&mut Attempt| attempt.asked.as_ref().is_some_and(|asked| asked.token == token);
        let Some(attempt) = waiting.find(asking) else { return };
        let Some(asked) = attempt.asked.take() else { return };
        match answer {
            Answer::Appended | Answer::Repeated => attempt.go_on(database, random, now),
            Answer::LeaseLost => attempt.step = Step::Done,
            // Another's event came first; the command is decided again on what stands there now.
            Answer::VersionConflict => attempt.ask(asked.command, database, random, now),
        }
    }
}

impl Attempt {
    fn tick(&mut self, node: NodeId, database: &mut Database, random: &mut SmallRng, now: u64) -> Option<Message> {
        if self.asked.is_none() && self.ready_at <= now {
            let command = self.command(node, database, random, now);
            self.ask(command, database, random, now);
        }
        let asked = self.asked.as_mut().filter(|asked| asked.resend_at <= now)?;
        asked.resend_at = now + RESEND_AFTER;
        Some(Message::Request { node, token: asked.token, append: asked.append.clone() })
    }

    fn ask(&mut self, command: Command, database: &mut Database, random: &mut SmallRng, now: u64) {
        match database.draft(self.stream, Some(self.lease), now, command.clone()) {
            Ok(Some(append)) => {
                self.asked = Some(Asked { token: random.random(), command, append, resend_at: now });
            }
            Ok(None) => self.go_on(database, random, now),
            Err(_) => self.step = Step::Done,
        }
    }

    /// The step's events are in the log.
    fn go_on(&mut self, database: &mut Database, random: &mut SmallRng, now: u64) {
        self.ready_at = now + random.random_range(0..12);
        self.step = match self.step {
            Step::Claimed => Step::GettingASandbox,
            Step::GettingASandbox => Step::Running,
            Step::Running | Step::Done => Step::Done,
        };
        if database.is_lost(self.stream, self.lease) {
            self.step = Step::Done;
        }
    }

    fn command(&self, node: NodeId, database: &Database, random: &mut SmallRng, now: u64) -> Command {
        let lease = self.lease;
        let is_cancelled = database.records[&self.stream].cancel_requested.is_some();
        match self.step {
            Step::Claimed => Command::Dequeue { claim: Claim { node_id: Uuid::from_u128(node), slot: 0, lease } },
            Step::GettingASandbox if random.random_bool(0.1) => fail(lease, random, now),
            Step::GettingASandbox => Command::Start { lease, sandbox: sandbox() },
            Step::Running | Step::Done => {
                let ending = match random.random_range(0..10) {
                    0 => return fail(lease, random, now),
                    // Whether the cancel reaches the code before its end is a matter of luck.
                    1..6 if is_cancelled => Ending::Cancelled { by: String::new(), reason: None, observed: None },
                    1 => Ending::TimedOut { phase: Phase::Execution, limit_ms: 1, observed: None },
                    2 => Ending::OutOfMemory { limit_bytes: 1, peak_bytes: 1, observed: None },
                    3 | 4 => Ending::Failed { error: failure(ErrorType::ValueError), observed: None },
                    _ => Ending::Succeeded { observed: observed() },
                };
                Command::Finish { lease, ending: Box::new(ending) }
            }
        }
    }
}

fn fail(lease: i64, random: &mut SmallRng, now: u64) -> Command {
    let retry = if random.random_bool(0.1) {
        Retry::Never
    } else {
        Retry::At { not_before: instant(now + random.random_range(0..20)), delay_ms: 1 }
    };
    Command::FailAttempt { lease, error: failure(ErrorType::DockerError), retry }
}

fn failure(error_type: ErrorType) -> Failure {
    Failure { error_type, message: String::new(), phase: Phase::Execution, exception: None }
}

fn sandbox() -> Sandbox {
    Sandbox {
        id: String::new(),
        engine: String::new(),
        runtime: String::new(),
        image: String::new(),
        image_digest: String::new(),
        warmth: Warmth::Cold,
        hash_seed: None,
        startup_ms: 0,
    }
}
