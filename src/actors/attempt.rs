//! One attempt at one job, from the claim to the event that ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use bytes::Bytes;
use tako_guest::protocol::{ArtifactLimits, End, FaultKind};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::builder::{Builder, Prepare, Unprepared};
use super::custody::Custody;
use super::delivery;
use super::job_types::JobTypes;
use super::ledger::{self, Enclosed, Ledger, Patience, Tracked};
use super::live_output::LiveOutput;
use super::observation::Observation;
use super::redaction::{LiveRedaction, OutputLimits, redact, redact_egress, redact_error};
use super::replay;
use super::sandbox_spec::HASH_SEED;
use super::slot::Stop;
use crate::clock::Clock;
use crate::domain::{
    self, Claim, Command, Digest, Ending, ErrorType, ExecutionRecord, Failure, JobSubmitted, Phase, Redactor,
    RefusalCause, ReplayVerdictRecorded, Retry, RetryPolicy, Verdict, Warmth, outcome,
};
use crate::egress::{Gate, Network};
use crate::engine::pool::Pool;
use crate::engine::{self, Sandbox, SandboxSpec};
use crate::store;

/// What every attempt of a node works with.
#[derive(Clone)]
pub struct Bench {
    pub node_id: Uuid,
    pub ledger: Ledger,
    pub store: store::Store,
    pub custody: Custody,
    /// What the gates of jobs with a network reach.
    pub network: Arc<dyn Network>,
    pub pool: Arc<Pool>,
    pub builder: Addr<Builder>,
    pub job_types: Arc<JobTypes>,
    pub live: Arc<LiveOutput>,
    pub clock: Arc<dyn Clock>,
    pub retry: RetryPolicy,
    /// How much longer than it may an engine can take before the attempt is given up.
    pub hung_after: Duration,
}

/// Why an attempt went no further.
pub(super) enum Stuck {
    /// The job is not this claimant's any more, or the node ends: nothing may be appended.
    Gone(ledger::Error),
    /// The attempt failed by the service's fault.
    Failed { error: Failure, retryable: bool, retry_after: Option<Duration> },
    /// It ended before any code ran.
    Ended(Box<Ending>),
    /// What a replay needs cannot be had.
    ReplayRefused { cause: RefusalCause, reason: String },
}

impl From<ledger::Error> for Stuck {
    fn from(error: ledger::Error) -> Self {
        Self::Gone(error)
    }
}

impl Stuck {
    fn ended(ending: Ending) -> Self {
        Self::Ended(Box::new(ending))
    }
}

/// The bytes of a job.
struct JobBytes {
    code: Bytes,
    input: Bytes,
    files: Vec<(String, Bytes)>,
    secrets: Vec<engine::JobSecret>,
}

impl Bench {
    /// Works a claim off. Whatever happens, the log says it: an end, a retry, or the lease's
    /// expiry through whoever finds it. Answers whether the service failed it.
    pub async fn work(&self, slot: u32, claim: store::Claim, stop: Stop) -> bool {
        let execution_id = claim.execution_id;
        let tracked = match self.ledger.load_surely(execution_id).await {
            Ok(Some(tracked)) => tracked,
            Ok(None) => {
                tracing::error!(%execution_id, "a queued job has no record");
                return false;
            }
            Err(error) => {
                tracing::error!(error = %error, %execution_id, "a claimed job cannot be read");
                return false;
            }
        };
        let attempt = Attempt {
            bench: self,
            claim: Claim { node_id: self.node_id, slot, lease: claim.lease },
            correlation_id: tracked.record.correlation_id.clone().unwrap_or_default(),
            began: Instant::now(),
            stop,
        };
        match attempt.run(tracked).await {
            Ok(Tracked { record, .. }) => return !record.is_ended() || record.dead_letter.is_some(),
            Err(error @ (ledger::Error::LeaseLost | ledger::Error::Rejected(_))) => {
                tracing::warn!(error = %error, %execution_id, lease = claim.lease, "a job went to another claimant");
            }
            Err(error) => tracing::error!(error = %error, %execution_id, "an attempt could not be recorded"),
        }
        false
    }
}

pub(super) struct Attempt<'a> {
    pub(super) bench: &'a Bench,
    pub(super) claim: Claim,
    correlation_id: String,
    began: Instant,
    stop: Stop,
}

impl Attempt<'_> {
    async fn run(self, mut tracked: Tracked) -> Result<Tracked, ledger::Error> {
        let (stuck, egress) = match self.start(&mut tracked).await {
            Ok((sandbox, bytes)) => match self.execute(&tracked, sandbox, bytes).await {
                (Ok((ending, blobs)), egress) => return self.finish(tracked, egress, ending, blobs).await,
                (Err(stuck), egress) => (stuck, egress),
            },
            Err(stuck) => (stuck, None),
        };
        // A cancel that came before the start ended it with that very append.
        if tracked.record.is_ended() {
            return Ok(tracked);
        }
        let lease = self.claim.lease;
        if self.stop.lost.is_cancelled() {
            return Err(ledger::Error::LeaseLost);
        }
        if self.stop.release.is_cancelled() && !matches!(stuck, Stuck::Gone(_)) {
            return self.release(tracked, egress).await;
        }
        match stuck {
            Stuck::Gone(error) => Err(error),
            Stuck::Ended(ending) => self.finish(tracked, egress, *ending, Vec::new()).await,
            Stuck::Failed { error, retryable, retry_after } => {
                let retry = if retryable { self.retry_time(&tracked, retry_after) } else { Retry::Never };
                let fail = Command::FailAttempt { lease, error, retry };
                self.commit(tracked, egress.into_iter().chain([fail]).collect()).await
            }
            Stuck::ReplayRefused { cause, reason } => {
                let error = Failure::of_service(ErrorType::ConfigError, Phase::Startup, &reason);
                let ending = Ending::Failed { error, observed: None };
                let mut commands = vec![Command::Finish { lease, ending: Box::new(ending) }];
                if let Some(original_id) = replay::original(&tracked.record) {
                    let verdict = Verdict::Refused { cause, reason };
                    let verdict = ReplayVerdictRecorded { original_id, verdict, rules: Vec::new() };
                    commands.push(Command::RecordReplayVerdict(verdict));
                }
                self.commit(tracked, commands).await
            }
        }
    }

    /// From the claim to a sandbox in which the code may run, all of it in the log.
    async fn start(&self, tracked: &mut Tracked) -> Result<(Box<dyn Sandbox>, JobBytes), Stuck> {
        let record = tracked.record.clone();
        let dequeue = Command::Dequeue { claim: self.claim.clone() };
        let spec = match self.prepare(&record.submitted).await {
            Ok(spec) => spec,
            Err(stuck) => {
                *tracked = self.commit(tracked.clone(), vec![dequeue]).await?;
                return Err(stuck);
            }
        };
        if let Some(sandbox) = self.bench.pool.take(&spec) {
            // The sandbox is there, so both facts are true at once and cost one append.
            let start = self.start_command(&spec, sandbox.as_ref(), Warmth::Warm);
            let committed = self.commit(tracked.clone(), vec![dequeue, start]);
            let (committed, bytes) = tokio::join!(committed, self.bytes(&record));
            return self.hand_over(tracked, sandbox, committed, bytes).await;
        }
        let (committed, bytes) = tokio::join!(self.commit(tracked.clone(), vec![dequeue]), self.bytes(&record));
        *tracked = committed?;
        if self.is_cancelled(tracked) {
            return Err(Stuck::ended(cancelled()));
        }
        let starting = self.unless_hung(spec.startup_timeout, self.bench.pool.start(&spec));
        let sandbox = tokio::select! {
            started = starting => started.map_err(|error| stuck_starting(error, &spec, &tracked.record))?,
            () = self.stop.asked() => return Err(Stuck::ended(cancelled())),
        };
        let start = self.start_command(&spec, sandbox.as_ref(), Warmth::Cold);
        let committed = self.commit(tracked.clone(), vec![start]).await;
        self.hand_over(tracked, sandbox, committed, bytes).await
    }

    /// The sandbox and what runs in it, once the log says that it may; else its end.
    async fn hand_over(
        &self,
        tracked: &mut Tracked,
        sandbox: Box<dyn Sandbox>,
        committed: Result<Tracked, ledger::Error>,
        bytes: Result<JobBytes, Stuck>,
    ) -> Result<(Box<dyn Sandbox>, JobBytes), Stuck> {
        let ready = match committed {
            Ok(committed) => {
                *tracked = committed;
                if self.is_cancelled(tracked) { Err(Stuck::ended(cancelled())) } else { bytes }
            }
            Err(error) => Err(error.into()),
        };
        let given = match ready {
            Ok(bytes) => self.deliver(tracked).await.map(|secrets| JobBytes { secrets, ..bytes }),
            Err(stuck) => Err(stuck),
        };
        match given {
            Ok(bytes) => Ok((sandbox, bytes)),
            Err(stuck) => {
                sandbox.destroy().await;
                Err(stuck)
            }
        }
    }

    async fn execute(
        &self,
        tracked: &Tracked,
        sandbox: Box<dyn Sandbox>,
        mut bytes: JobBytes,
    ) -> (Result<(Ending, Vec<store::Blob>), Stuck>, Option<Command>) {
        let redactor = Redactor::of(bytes.secrets.iter().map(|secret| (secret.name.as_str(), &secret.value)));
        let rules = self.bench.job_types.host_rules(&tracked.record.submitted.job_type);
        let (injections, given) = delivery::part(std::mem::take(&mut bytes.secrets));
        bytes.secrets = given;
        let gate = rules.map(|rules| Gate::new(rules, Arc::clone(&self.bench.network)));
        let gate = gate.map(|gate| Arc::new(gate.with_injections(injections)));
        let ran = self.execute_through(tracked, sandbox, bytes, &redactor, gate.clone()).await;
        let observed = gate.map(|gate| redact_egress(&redactor, gate.observed()));
        (ran, observed.map(|observed| Command::RecordEgress { lease: self.claim.lease, observed }))
    }

    async fn execute_through(
        &self,
        tracked: &Tracked,
        sandbox: Box<dyn Sandbox>,
        bytes: JobBytes,
        redactor: &Redactor,
        egress: Option<Arc<Gate>>,
    ) -> Result<(Ending, Vec<store::Blob>), Stuck> {
        let submitted = &tracked.record.submitted;
        let limits = &submitted.limits;
        let job = engine::Job {
            code: bytes.code,
            input: bytes.input,
            files: bytes.files,
            secrets: bytes.secrets,
            egress: egress.clone(),
            execution_timeout: Duration::from_millis(limits.timeout_ms),
            stdout_limit_bytes: limits.stdout_bytes,
            stderr_limit_bytes: limits.stderr_bytes,
            artifacts: ArtifactLimits {
                max_count: limits.artifact_count,
                max_file_bytes: limits.artifact_bytes,
                max_total_bytes: limits.artifacts_total_bytes,
            },
        };
        let startup = self.began.elapsed();
        let mut live =
            LiveRedaction::new(redactor, self.bench.live.open(tracked.record.execution_id, tracked.record.attempt));
        let (chunks, mut incoming) = mpsc::channel(256);
        let end = self.stop.cancel.child_token();
        let watch = async {
            loop {
                tokio::select! {
                    chunk = incoming.recv() => match chunk {
                        Some(chunk) => live.push(chunk),
                        None => break,
                    },
                    () = self.stop.taken_away(), if !end.is_cancelled() => end.cancel(),
                }
            }
        };
        let running = self.unless_hung(job.execution_timeout, sandbox.run(job, chunks, end.clone()));
        let (ran, ()) = tokio::join!(running, watch);
        if self.stop.is_taken_away() {
            return Err(Stuck::ended(cancelled()));
        }
        if let Ok(run) = &ran
            && run.report.end == End::Cancelled
            && !self.stop.cancel.is_cancelled()
        {
            let message = "it was told to end, and not by its node".to_owned();
            return Err(infrastructure(&engine::Error::Lost { message, oom_killed: false }, Phase::Execution));
        }
        let ran = ran.map_err(|error| stuck_running(redact_error(redactor, error), submitted))?;
        live.finish(ran.report.stdout_truncated, ran.report.stderr_truncated);
        let kept = OutputLimits { stdout_bytes: limits.stdout_bytes, stderr_bytes: limits.stderr_bytes };
        let ran = redact(redactor, ran, &kept);
        let Observation { observed, blobs } = Observation::of(&ran, startup, self.began.elapsed());
        let ending = outcome::classify(outcome::Facts {
            end: ran.report.end,
            exception: ran.report.exception,
            execution_timeout_ms: limits.timeout_ms,
            memory_limit_bytes: limits.memory_bytes,
            observed,
        });
        Ok((ending, blobs))
    }

    /// Makes the end durable, and the blobs that it names.
    async fn finish(
        &self,
        tracked: Tracked,
        egress: Option<Command>,
        ending: Ending,
        blobs: Vec<store::Blob>,
    ) -> Result<Tracked, ledger::Error> {
        let lease = self.claim.lease;
        let finish = self.end_command(&tracked.record, &ending);
        let mut commands: Vec<_> = egress.into_iter().chain([finish]).collect();
        if let Some(original_id) = replay::original(&tracked.record) {
            let verdict = replay::judge(self.bench, &tracked.record, original_id, &ending, blobs.iter()).await?;
            commands.extend(verdict.map(Command::RecordReplayVerdict));
        }
        let enclosed = Enclosed { lease: Some(lease), blobs };
        self.bench.ledger.commit_with(tracked, commands, &self.correlation_id, enclosed, Patience::UntilAnswered).await
    }

    async fn release(&self, tracked: Tracked, egress: Option<Command>) -> Result<Tracked, ledger::Error> {
        let expire = Command::ExpireLease { lease: self.claim.lease, cause: "its node stopped".to_owned() };
        self.commit(tracked, egress.into_iter().chain([expire]).collect()).await
    }

    pub(super) async fn commit(&self, tracked: Tracked, commands: Vec<Command>) -> Result<Tracked, ledger::Error> {
        let enclosed = Enclosed { lease: Some(self.claim.lease), blobs: Vec::new() };
        self.bench.ledger.commit_with(tracked, commands, &self.correlation_id, enclosed, Patience::UntilAnswered).await
    }

    async fn prepare(&self, submitted: &JobSubmitted) -> Result<SandboxSpec, Stuck> {
        let asked = self.bench.builder.send(Prepare { submitted: Box::new(submitted.clone()) });
        // An image that must be built first takes its time, which a job has no more of than it says.
        let limit_ms = submitted.limits.startup_timeout_ms;
        let answer = tokio::select! {
            answer = tokio::time::timeout(Duration::from_millis(limit_ms), asked) => answer,
            () = self.stop.asked() => return Err(Stuck::ended(cancelled())),
        };
        let Ok(answer) = answer else {
            return Err(Stuck::ended(Ending::TimedOut { phase: Phase::Startup, limit_ms, observed: None }));
        };
        match answer {
            Ok(Ok(spec)) => Ok(spec),
            Ok(Err(Unprepared::NotAsPinned { cause, reason })) => Err(Stuck::ReplayRefused { cause, reason }),
            Ok(Err(Unprepared::Failed { error, retryable, retry_after })) => {
                Err(Stuck::Failed { error, retryable, retry_after })
            }
            Err(closed) => Err(Stuck::Failed {
                error: Failure::of_service(ErrorType::InternalError, Phase::Startup, &closed.to_string()),
                retryable: true,
                retry_after: None,
            }),
        }
    }

    async fn bytes(&self, record: &ExecutionRecord) -> Result<JobBytes, Stuck> {
        let submitted = &record.submitted;
        let hashes: Vec<Digest> =
            [submitted.code, submitted.input].into_iter().chain(submitted.files.iter().map(|file| file.hash)).collect();
        let blobs = loop {
            match self.bench.store.blobs(&hashes).await {
                Ok(blobs) => break blobs,
                Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(error) => return Err(Stuck::Gone(error.into())),
            }
        };
        let take = |hash: &Digest, what: &str| {
            blobs.get(hash).cloned().ok_or_else(|| {
                let reason = format!("{what} of the job is not kept any more");
                if replay::original(record).is_some() {
                    return Stuck::ReplayRefused { cause: RefusalCause::BlobGone, reason };
                }
                let error = Failure::of_service(ErrorType::InternalError, Phase::Startup, &reason);
                Stuck::Failed { error, retryable: false, retry_after: None }
            })
        };
        Ok(JobBytes {
            code: take(&submitted.code, "the code")?,
            input: take(&submitted.input, "the input")?,
            secrets: Vec::new(),
            files: submitted
                .files
                .iter()
                .map(|file| Ok((file.name.clone(), take(&file.hash, "a file")?)))
                .collect::<Result<_, Stuck>>()?,
        })
    }

    fn start_command(&self, spec: &SandboxSpec, sandbox: &dyn Sandbox, warmth: Warmth) -> Command {
        let engine = self.bench.pool.engine();
        Command::Start {
            lease: self.claim.lease,
            sandbox: domain::Sandbox {
                id: sandbox.id().to_owned(),
                engine: engine.kind().as_str().to_owned(),
                runtime: engine.runtime().to_owned(),
                image: spec.image.reference.clone(),
                image_digest: spec.image.digest.clone(),
                warmth,
                startup_ms: sandbox.startup().as_millis() as u64,
                hash_seed: spec.environment.get(HASH_SEED).cloned(),
            },
        }
    }

    /// What the engine answers, unless it takes far longer than it may. Then it is dropped, which ends
    /// what it was about.
    async fn unless_hung<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, engine::Error>>,
    ) -> Result<T, engine::Error> {
        let limit = limit + self.bench.hung_after;
        let hung = |_| engine::Error::Lost { message: format!("no answer within {limit:?}"), oom_killed: false };
        tokio::time::timeout(limit, work).await.map_err(hung).flatten()
    }

    fn is_cancelled(&self, tracked: &Tracked) -> bool {
        tracked.record.cancel_requested.is_some() || self.stop.cancel.is_cancelled()
    }

    fn retry_time(&self, tracked: &Tracked, asked: Option<Duration>) -> Retry {
        let delay = self.bench.retry.delay(tracked.record.attempt, rand::random(), asked);
        Retry::At { not_before: self.bench.clock.now() + delay, delay_ms: delay.as_millis() as u64 }
    }
}

/// What an engine's error means before the code ran.
fn stuck_starting(error: engine::Error, spec: &SandboxSpec, record: &ExecutionRecord) -> Stuck {
    match error {
        engine::Error::Image { .. } if replay::original(record).is_some() => {
            Stuck::ReplayRefused { cause: RefusalCause::ImageGone, reason: domain::scrub(&error.to_string()) }
        }
        engine::Error::Startup(fault) if fault.kind == FaultKind::StartupTimeout => Stuck::ended(Ending::TimedOut {
            phase: Phase::Startup,
            limit_ms: spec.startup_timeout.as_millis() as u64,
            observed: None,
        }),
        engine::Error::Startup(fault) if fault.kind == FaultKind::StartupFailed && !spec.preload.is_empty() => {
            let error = Failure::of_service(ErrorType::DependencyError, Phase::Startup, &fault.message);
            Stuck::Failed { error, retryable: false, retry_after: None }
        }
        error => infrastructure(&error, Phase::Startup),
    }
}

/// What an engine's error means once the code ran.
fn stuck_running(error: engine::Error, submitted: &JobSubmitted) -> Stuck {
    match error {
        engine::Error::Lost { oom_killed: true, .. } => Stuck::ended(Ending::OutOfMemory {
            limit_bytes: submitted.limits.memory_bytes,
            peak_bytes: submitted.limits.memory_bytes,
            observed: None,
        }),
        engine::Error::Unresponsive(_) => Stuck::ended(Ending::TimedOut {
            phase: Phase::Execution,
            limit_ms: submitted.limits.timeout_ms,
            observed: None,
        }),
        error => infrastructure(&error, Phase::Execution),
    }
}

fn cancelled() -> Ending {
    Ending::Cancelled { by: String::new(), reason: None, observed: None }
}

fn infrastructure(error: &engine::Error, phase: Phase) -> Stuck {
    let error_type = match error {
        engine::Error::Unavailable { engine: "docker", .. } | engine::Error::Image { .. } => ErrorType::DockerError,
        engine::Error::Unavailable { .. } => ErrorType::ServiceUnavailable,
        engine::Error::Startup(_)
        | engine::Error::Guest(_)
        | engine::Error::Lost { .. }
        | engine::Error::Unresponsive(_)
        | engine::Error::System { .. } => ErrorType::InternalError,
    };
    tracing::warn!(error = %error, "an attempt failed by the service's fault");
    let retry_after = error.retry_after();
    Stuck::Failed {
        error: Failure::of_service(error_type, phase, &domain::causes(error)),
        retryable: true,
        retry_after,
    }
}
