//! The front door: every wish of a client that changes something passes here.
//!
//! The actor bounds how many wishes are under way; each runs as a task on the I/O runtime and
//! answers through its message's response.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::runtime;
use uuid::Uuid;

use super::custody::{self, Custody};
use super::job_types::{JobTypes, Present};
use super::ledger::{self, Ledger, NewJob};
use super::queue::{CancelHere, Queue};
use super::refusal::{Refusal, answer};
use super::room::Room;
use super::submission::{Origin, Submission};
use crate::config::{Config, JobType};
use crate::domain::{
    Command, Delivery, DependenciesDeclared, Digest, HostRule, Idempotency, InputFile, JobSubmitted, SecretUse, Status,
    canonical_json_digest,
};
use crate::store;

/// Submits one job.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub struct Submit {
    pub origin: Origin,
    pub submission: Submission,
}

/// Submits many jobs; each succeeds or is refused by itself, answered in order.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Result<Accepted, Refusal>>")]
pub struct SubmitBatch {
    pub origin: Origin,
    pub submissions: Vec<Submission>,
}

/// Makes a new execution out of one of the tenant's own.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub struct Repeat {
    pub origin: Origin,
    pub execution_id: Uuid,
    pub how: How,
}

/// How the new execution follows from the old one.
#[derive(Debug, Clone)]
pub enum How {
    /// The same code, input, job type and limits, on what the job type is now.
    Rerun,
    /// Other code, the same input.
    Fork { code: String },
    /// A dead letter tried again.
    Requeue,
    /// Everything as it was. The ended replay carries a verdict.
    Replay {
        /// Instead of the image it ran on, to try another one out.
        image: Option<String>,
        /// Instead of the original's.
        priority: Option<i16>,
    },
}

/// Asks for the end of a job.
#[derive(Debug, Message)]
#[rtype(result = "Result<Status, Refusal>")]
pub struct Cancel {
    pub origin: Origin,
    pub execution_id: Uuid,
    pub reason: Option<String>,
}

/// The job is in the log and in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub execution_id: Uuid,
    pub status: Status,
    pub created_at: DateTime<Utc>,
    /// An earlier submission with the same idempotency key and payload made it.
    pub repeated: bool,
}

/// What the intake works with.
#[derive(Clone)]
pub struct Doors {
    pub config: Arc<Config>,
    pub job_types: Arc<JobTypes>,
    pub ledger: Ledger,
    pub store: store::Store,
    pub custody: Custody,
}

pub struct Intake {
    pub(super) doors: Doors,
    queue: Addr<Queue>,
    pub(super) io: runtime::Handle,
    pub(super) room: Room,
}

impl Intake {
    pub fn new(doors: Doors, queue: Addr<Queue>, io: runtime::Handle) -> Self {
        let room = Room::new(doors.store.clone(), doors.config.max_queue_size);
        Self { doors, queue, io, room }
    }
}

impl Actor for Intake {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1024);
        context.run_interval(Duration::from_secs(1), |intake, _| {
            let room = intake.room.clone();
            intake.io.spawn(async move { room.count().await });
        });
    }
}

impl Handler<Submit> for Intake {
    type Result = ResponseFuture<Result<Accepted, Refusal>>;

    fn handle(&mut self, Submit { origin, submission }: Submit, _: &mut Self::Context) -> Self::Result {
        let (doors, room) = (self.doors.clone(), self.room.clone());
        answer(&self.io, async move {
            room.take(1).await?;
            let mut answers = doors.submit(&origin, vec![submission]).await;
            answers.pop().unwrap_or(Err(Refusal::Internal))
        })
    }
}

impl Handler<SubmitBatch> for Intake {
    type Result = ResponseFuture<Vec<Result<Accepted, Refusal>>>;

    fn handle(&mut self, SubmitBatch { origin, submissions }: SubmitBatch, _: &mut Self::Context) -> Self::Result {
        let (doors, room, count) = (self.doors.clone(), self.room.clone(), submissions.len());
        let task = self.io.spawn(async move {
            match room.take(submissions.len() as u64).await {
                Ok(()) => doors.submit(&origin, submissions).await,
                Err(full) => submissions.iter().map(|_| Err(full.clone())).collect(),
            }
        });
        Box::pin(async move {
            task.await.unwrap_or_else(|lost| (0..count).map(|_| Err(Refusal::internal(&lost))).collect())
        })
    }
}

impl Handler<Repeat> for Intake {
    type Result = ResponseFuture<Result<Accepted, Refusal>>;

    fn handle(&mut self, Repeat { origin, execution_id, how }: Repeat, _: &mut Self::Context) -> Self::Result {
        let (doors, room) = (self.doors.clone(), self.room.clone());
        answer(&self.io, async move {
            room.take(1).await?;
            doors.repeat(origin, execution_id, how).await
        })
    }
}

impl Handler<Cancel> for Intake {
    type Result = ResponseFuture<Result<Status, Refusal>>;

    fn handle(&mut self, Cancel { origin, execution_id, reason }: Cancel, _: &mut Self::Context) -> Self::Result {
        let (doors, queue) = (self.doors.clone(), self.queue.clone());
        answer(&self.io, async move {
            let tracked = doors.find(&origin.tenant, execution_id).await?;
            let command = Command::RequestCancel { by: origin.by.clone(), reason };
            let tracked = doors
                .ledger
                .commit(tracked, vec![command], &origin.correlation_id)
                .await
                .map_err(|error| Refusal::of(error, execution_id))?;
            if !tracked.record.is_ended() {
                // Another node's slot learns it from the queue row; this only saves the detour.
                let _ = queue.try_send(CancelHere { execution_id });
            }
            Ok(tracked.record.status())
        })
    }
}

impl Doors {
    pub(super) async fn find(&self, tenant: &str, execution_id: Uuid) -> Result<ledger::Tracked, Refusal> {
        match self.ledger.load(execution_id).await {
            Ok(Some(tracked)) if tracked.record.submitted.tenant == tenant => Ok(tracked),
            Ok(_) => Err(Refusal::NotFound(execution_id)),
            Err(error) => Err(Refusal::of(error, execution_id)),
        }
    }

    /// Submits jobs in one transaction, each or not.
    async fn submit(&self, origin: &Origin, submissions: Vec<Submission>) -> Vec<Result<Accepted, Refusal>> {
        let mut prepared = Vec::with_capacity(submissions.len());
        for submission in submissions {
            prepared.push(self.prepare(origin, submission).await);
        }
        self.enter_all(prepared, &origin.correlation_id).await
    }

    pub(super) async fn prepare(&self, origin: &Origin, submission: Submission) -> Result<NewJob, Refusal> {
        let faults = submission.faults(&self.config);
        if !faults.is_empty() {
            return Err(Refusal::Invalid { faults });
        }
        let Present { job_type, mut environment, .. } = self.job_types.find(&submission.job_type).await?;
        if let Some(refusal) = self.job_types.gpu_refusal(&job_type.name)
            && !self.store.is_runnable(&job_type.name).await?
        {
            return Err(Refusal::field("job_type", format!("cannot run here: {refusal}")));
        }
        if !submission.requirements.is_empty() {
            environment = self.job_types.with_requirements(&environment, &submission.requirements).await?;
        }
        let idempotency =
            submission.idempotency_key.clone().map(|key| Idempotency { key, fingerprint: submission.fingerprint() });
        if let Some(fault) = unreachable(&submission.secrets, &job_type) {
            return Err(Refusal::field("secrets", fault));
        }
        self.check_secrets(&origin.tenant, &submission.secrets).await?;
        let limits = self.job_types.limits(&job_type, submission.timeout, submission.startup_timeout);
        let concurrency = submission.concurrency();
        let given = self.given_files(&origin.tenant, &submission.files).await?;
        let besides: Vec<_> = self.declared(&origin.tenant, &submission).await?.into_iter().collect();
        let mut blobs = vec![
            store::Blob::new(Bytes::copy_from_slice(submission.code.as_bytes())),
            store::Blob::new(Bytes::copy_from_slice(submission.input.text().as_bytes())),
        ];
        blobs.extend(given.blobs);
        let submitted = JobSubmitted {
            tenant: origin.tenant.clone(),
            job_type: job_type.name.clone(),
            job_version: environment.version().to_string(),
            code: Digest::of(submission.code.as_bytes()),
            input: Digest::of(submission.input.text().as_bytes()),
            input_canonical: submission.input.canonical_digest(),
            params: submission.params_digest(&job_type.name, &limits),
            input_artifacts: files_digest(&given.files),
            files: given.files,
            requirements: submission.requirements,
            limits,
            priority: submission.priority,
            not_before: submission.not_before,
            max_attempts: submission.max_attempts.unwrap_or_else(|| self.job_types.max_attempts(&job_type)),
            idempotency,
            client_ip: origin.client_ip.clone(),
            parent: None,
            pinned_image: None,
            hash_seed: None,
            tags: submission.tags,
            callback_url: submission.callback_url,
            secrets: submission.secrets,
            concurrency,
        };
        Ok(NewJob { execution_id: Uuid::now_v7(), submitted, blobs, besides })
    }

    /// What it waits for, if all of that is the tenant's own.
    async fn declared(&self, tenant: &str, submission: &Submission) -> Result<Option<Command>, Refusal> {
        let (after, policy) = (submission.after.clone(), submission.after_policy);
        if after.is_empty() {
            return Ok(None);
        }
        let records = self.store.records(&after).await?;
        let known = records.iter().filter(|stored| stored.record.submitted.tenant == tenant);
        let known: Vec<_> = known.map(|stored| stored.record.execution_id).collect();
        match after.iter().find(|id| !known.contains(id)) {
            Some(unknown) => Err(Refusal::field("after", format!("names execution {unknown}, which does not exist"))),
            None => Ok(Some(Command::DeclareDependencies(DependenciesDeclared { after, policy }))),
        }
    }

    async fn check_secrets(&self, tenant: &str, wanted: &[SecretUse]) -> Result<(), Refusal> {
        match self.custody.versions(tenant, wanted).await {
            Ok(_) => Ok(()),
            Err(error @ (custody::Error::NotSet(_) | custody::Error::NoKey)) => {
                Err(Refusal::field("secrets", format!("cannot be given: {error}")))
            }
            Err(custody::Error::Store(error)) => Err(error.into()),
        }
    }

    async fn enter_all(
        &self,
        jobs: Vec<Result<NewJob, Refusal>>,
        correlation_id: &str,
    ) -> Vec<Result<Accepted, Refusal>> {
        let good: Vec<_> = jobs.iter().filter_map(|job| job.as_ref().ok().cloned()).collect();
        let mut created = self.ledger.create(good, correlation_id).await.into_iter();
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(match job {
                Ok(job) => match created.next() {
                    Some(created) => self.accept(job, created).await,
                    None => Err(Refusal::Internal),
                },
                Err(refusal) => Err(refusal),
            });
        }
        answers
    }

    pub(super) async fn enter(
        &self,
        submitted: JobSubmitted,
        blobs: Vec<store::Blob>,
        correlation_id: &str,
    ) -> Result<Accepted, Refusal> {
        let job = NewJob { execution_id: Uuid::now_v7(), submitted, blobs, besides: Vec::new() };
        self.enter_all(vec![Ok(job)], correlation_id).await.pop().unwrap_or(Err(Refusal::Internal))
    }

    async fn accept(&self, job: NewJob, created: Result<ledger::Tracked, ledger::Error>) -> Result<Accepted, Refusal> {
        match (created, job.submitted.idempotency) {
            (Ok(tracked), _) => Ok(Accepted {
                execution_id: job.execution_id,
                status: tracked.record.status(),
                created_at: tracked.record.created_at,
                repeated: false,
            }),
            (Err(ledger::Error::IdempotencyTaken { execution_id: existing, fingerprint }), Some(ours)) => {
                if fingerprint != ours.fingerprint {
                    return Err(Refusal::IdempotencyConflict { key: ours.key, existing });
                }
                let first = self.ledger.load(existing).await.map_err(|error| Refusal::of(error, existing))?;
                let first = first.ok_or(Refusal::NotFound(existing))?;
                if first.record.expired_at.is_some() {
                    return Err(Refusal::Expired(existing));
                }
                Ok(Accepted {
                    execution_id: existing,
                    status: first.record.status(),
                    created_at: first.record.created_at,
                    repeated: true,
                })
            }
            (Err(error), _) => Err(Refusal::of(error, job.execution_id)),
        }
    }
}

/// Which secret is meant for a host that the code does not reach, if so.
fn unreachable(secrets: &[SecretUse], job_type: &JobType) -> Option<String> {
    let allowed = job_type.network.rules().unwrap_or_default();
    let is_out = |rule: &HostRule| !allowed.iter().any(|allowed| allowed.meets(rule));
    secrets.iter().find_map(|SecretUse { name, delivery }| match delivery {
        Delivery::Header { header } => header.rules().iter().find(|rule| is_out(rule)).map(|rule| {
            let job_type = &job_type.name;
            format!("{name:?} is meant for {rule}, which is not in network.allow of the job type {job_type:?}")
        }),
        Delivery::File | Delivery::Env => None,
    })
}

/// Of the canonical JSON of name → hash.
fn files_digest(files: &[InputFile]) -> Option<Digest> {
    if files.is_empty() {
        return None;
    }
    let by_name: std::collections::BTreeMap<_, _> = files.iter().map(|file| (file.name.as_str(), file.hash)).collect();
    Some(canonical_json_digest(&json!(by_name)))
}
