//! Executions as tests tell them: fixed ids, and a clock that ticks a second per event.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::{
    Claim, Command, Digest, Ending, Envelope, ErrorType, Event, ExecutionRecord, Failure, JobLimits, JobSubmitted,
    Observed, Output, Phase, Rejection, Retry, Sandbox, Timing, Usage, Warmth, decide,
};

/// One execution's stream as it grows.
#[derive(Debug, Clone, Default)]
pub struct Story {
    pub events: Vec<Envelope>,
    pub record: Option<ExecutionRecord>,
}

pub const EXECUTION: Uuid = Uuid::from_u128(0xE0);
pub const OTHER_EXECUTION: Uuid = Uuid::from_u128(0xE1);
pub const NODE: Uuid = Uuid::from_u128(0xA0);

/// A job with three attempts is in the queue.
pub fn submitted() -> Story {
    submitted_with(|_| {})
}

pub fn submitted_with(change: impl FnOnce(&mut JobSubmitted)) -> Story {
    let mut submitted = job();
    change(&mut submitted);
    Story::default().then(Command::SubmitJob(Box::new(submitted)))
}

/// A slot has claimed it under that lease.
pub fn dequeued(lease: i64) -> Story {
    submitted().then(dequeue(lease))
}

/// Its code runs under that lease.
pub fn running(lease: i64) -> Story {
    dequeued(lease).then(start(lease))
}

/// The service failed its only attempt.
pub fn dead_letter() -> Story {
    let story = submitted_with(|job| job.max_attempts = 1).then(dequeue(1)).then(start(1));
    story.then(fail(1, ErrorType::DockerError))
}

impl Story {
    /// What the command causes.
    ///
    /// # Panics
    /// When it is refused, or what it causes does not follow from the events so far.
    pub fn then(mut self, command: Command) -> Self {
        let events = self.decide(command.clone()).unwrap_or_else(|refused| panic!("{command:?}: {refused}"));
        for event in events {
            let envelope = self.next(event);
            self.record = ExecutionRecord::evolve(self.record, &envelope).unwrap();
            self.events.push(envelope);
        }
        self
    }

    pub fn decide(&self, command: Command) -> Result<Vec<Event>, Rejection> {
        decide(self.record.as_ref(), command)
    }

    /// The event as it would stand next in the stream.
    pub fn next(&self, event: Event) -> Envelope {
        let version = i32::try_from(self.events.len() + 1).unwrap();
        Envelope {
            event_id: Uuid::from_u128(version as u128),
            stream_id: EXECUTION,
            version,
            recorded_at: time(i64::from(version - 1)),
            correlation_id: Some("story".to_owned()),
            event,
        }
    }

    pub fn record(&self) -> &ExecutionRecord {
        self.record.as_ref().unwrap()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.events.iter().map(|envelope| envelope.event.kind().as_str()).collect()
    }

    pub fn last(&self) -> &Event {
        &self.events.last().unwrap().event
    }
}

pub fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(seconds)
}

pub fn job() -> JobSubmitted {
    JobSubmitted {
        tenant: "default".to_owned(),
        job_type: "default".to_owned(),
        job_version: "default@sha256:0123456789ab".to_owned(),
        code: Digest::of(b"code"),
        input: Digest::of(b"input"),
        input_canonical: Digest::of(b"canonical"),
        params: Digest::of(b"params"),
        files: Vec::new(),
        input_artifacts: None,
        requirements: Vec::new(),
        limits: JobLimits {
            timeout_ms: 30_000,
            startup_timeout_ms: 10_000,
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            pids: 64,
            open_files: 256,
            tmp_bytes: 64 << 20,
            output_bytes: 64 << 20,
            stdout_bytes: 64 << 10,
            stderr_bytes: 64 << 10,
            artifact_count: 100,
            artifact_bytes: 10 << 20,
            artifacts_total_bytes: 50 << 20,
        },
        priority: 5,
        not_before: None,
        max_attempts: 3,
        idempotency: None,
        client_ip: None,
        parent: None,
        pinned_image: None,
        hash_seed: None,
        secrets: Vec::new(),
        concurrency: None,
        tags: Default::default(),
        callback_url: None,
    }
}

pub fn dequeue(lease: i64) -> Command {
    Command::Dequeue { claim: Claim { node_id: NODE, slot: 0, lease } }
}

pub fn start(lease: i64) -> Command {
    Command::Start { lease, sandbox: sandbox() }
}

pub fn sandbox() -> Sandbox {
    Sandbox {
        id: "sandbox-1".to_owned(),
        engine: "native".to_owned(),
        runtime: "namespaces".to_owned(),
        image: "host".to_owned(),
        image_digest: "sha256:00".to_owned(),
        warmth: Warmth::Warm,
        startup_ms: 3,
        hash_seed: Some("0".to_owned()),
    }
}

pub fn finish(lease: i64, ending: Ending) -> Command {
    Command::Finish { lease, ending: Box::new(ending) }
}

pub fn succeed(lease: i64) -> Command {
    finish(lease, Ending::Succeeded { observed: observed(Some(0)) })
}

/// The code ended by an exception of its own.
pub fn raise(lease: i64) -> Command {
    finish(lease, Ending::Failed { error: failure(ErrorType::KeyError), observed: Some(observed(Some(1))) })
}

/// The service failed, and would try again a minute after the epoch of the story.
pub fn fail(lease: i64, error_type: ErrorType) -> Command {
    Command::FailAttempt {
        lease,
        error: failure(error_type),
        retry: Retry::At { not_before: time(60), delay_ms: 1500 },
    }
}

pub fn expire(lease: i64) -> Command {
    Command::ExpireLease { lease, cause: "its node does not answer".to_owned() }
}

pub fn cancel() -> Command {
    Command::RequestCancel { by: "alice".to_owned(), reason: Some("a mistake".to_owned()) }
}

pub fn failure(error_type: ErrorType) -> Failure {
    Failure { error_type, message: error_type.as_str().to_owned(), phase: Phase::Execution, exception: None }
}

pub fn observed(exit_code: Option<i32>) -> Observed {
    let nothing = Output { hash: Digest::of(b""), bytes: 0, truncated: false };
    Observed {
        exit_code,
        signal: if exit_code.is_none() { Some(libc::SIGKILL) } else { None },
        timing: Timing {
            startup_ms: 3,
            dep_install_ms: 0,
            execution_ms: 20,
            total_ms: 25,
            phase_at_exit: Phase::Execution,
        },
        usage: Usage { max_rss_bytes: 9 << 20, cpu_time_ms: 18, wall_time_ms: 20, oom_killed: false },
        stdout: nothing,
        stderr: nothing,
        output: None,
        artifacts: Vec::new(),
        refused_artifacts: Vec::new(),
    }
}
