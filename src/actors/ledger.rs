//! From a wish to events in the log: load, decide, fold, append, and again when somebody else
//! was faster.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use uuid::Uuid;

use super::appender::{Append, Appender};
use crate::clock::Clock;
use crate::domain::{
    Command, Digest, Envelope, Event, ExecutionRecord, JobState, JobSubmitted, NotFoldable, Rejection, decide,
};
use crate::store::{self, DeadLetterChange, Outcome, QueueChange};

/// Conflicts in a row after which something else than a race is wrong.
const MAX_CONFLICTS: u32 = 20;

/// A record with what an append must know of its stream.
#[derive(Debug, Clone)]
pub struct Tracked {
    pub record: ExecutionRecord,
    pub head_hash: Digest,
}

/// A job that is about to get a stream.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub execution_id: Uuid,
    pub submitted: JobSubmitted,
    pub blobs: Vec<store::Blob>,
    /// What else is said of it from its beginning, in the same append.
    pub besides: Vec<Command>,
}

/// What goes into the log together with the events.
#[derive(Debug, Clone, Default)]
pub struct Enclosed {
    /// The lease that must still hold the job.
    pub lease: Option<i64>,
    /// Large ones are put before the events.
    pub blobs: Vec<store::Blob>,
}

/// What to do when the database does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Say so.
    Once,
    /// Try until it has answered. For what must not be lost, like the end of a job that ran.
    UntilAnswered,
}

impl Patience {
    async fn of<T, F>(self, execution_id: Uuid, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut delay = Duration::from_millis(50);
        loop {
            match attempt().await {
                Err(error) if self == Self::UntilAnswered && error.is_transient() => {
                    tracing::warn!(error = %error, %execution_id, "a job waits for the database");
                    tokio::time::sleep(delay.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
                answer => return answer,
            }
        }
    }
}

/// Why nothing, or nothing more, was appended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The queue row is another claimant's now.
    #[error("the lease was lost")]
    LeaseLost,
    #[error("idempotency key is taken by execution {execution_id}")]
    IdempotencyTaken { execution_id: Uuid, fingerprint: Digest },
    #[error("too many appends are waiting")]
    Overloaded,
    #[error("the appender has stopped")]
    Stopped,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Corrupt(#[from] NotFoldable),
}

impl Error {
    /// Trying the same again later may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Overloaded => true,
            Self::Store(error) => error.is_transient(),
            Self::Rejected(_) | Self::LeaseLost | Self::IdempotencyTaken { .. } | Self::Stopped | Self::Corrupt(_) => {
                false
            }
        }
    }
}

/// Appends for one speaker: the part of a node that is named in the envelope.
#[derive(Clone)]
pub struct Ledger {
    appender: Addr<Appender>,
    store: store::Store,
    clock: Arc<dyn Clock>,
    /// `part@node`, as the envelope's `actor`.
    speaker: Arc<str>,
}

impl Ledger {
    pub fn new(appender: Addr<Appender>, store: store::Store, clock: Arc<dyn Clock>, speaker: &str) -> Self {
        Self { appender, store, clock, speaker: speaker.into() }
    }

    /// The same ledger for another part of the node.
    pub fn speaking_as(&self, speaker: &str) -> Self {
        Self { speaker: speaker.into(), ..self.clone() }
    }

    /// The record as it stands in the database.
    pub async fn load(&self, execution_id: Uuid) -> Result<Option<Tracked>, Error> {
        let stored = self.store.record(execution_id).await?;
        Ok(stored.map(|stored| Tracked { record: stored.record, head_hash: stored.head_hash }))
    }

    /// Starts executions' streams in one transaction, each or not. Durable when it returns.
    pub async fn create(&self, jobs: Vec<NewJob>, correlation_id: &str) -> Vec<Result<Tracked, Error>> {
        let drafts: Vec<_> = jobs.into_iter().map(|job| self.draft(job, correlation_id)).collect();
        let (mut appends, mut records) = (Vec::new(), Vec::new());
        for draft in drafts {
            records.push(draft.map(|(append, record)| {
                appends.push(append);
                record
            }));
        }
        let mut outcomes = self.append_all(appends).await.into_iter();
        records
            .into_iter()
            .map(|record| {
                let record = record?;
                match outcomes.next().unwrap_or(Err(Error::Overloaded))? {
                    Outcome::Appended(appended) | Outcome::Duplicate(appended) => {
                        Ok(Tracked { record, head_hash: appended.head_hash })
                    }
                    Outcome::IdempotencyTaken { execution_id, fingerprint } => {
                        Err(Error::IdempotencyTaken { execution_id, fingerprint })
                    }
                    Outcome::VersionConflict { .. } => Err(Rejection::AlreadyExists.into()),
                    Outcome::LeaseLost { .. } => Err(Error::LeaseLost),
                }
            })
            .collect()
    }

    fn draft(&self, job: NewJob, correlation_id: &str) -> Result<(store::Append, ExecutionRecord), Error> {
        let NewJob { execution_id, submitted, blobs, besides } = job;
        let idempotency = submitted.idempotency.clone().map(|idempotency| store::Idempotency {
            tenant: submitted.tenant.clone(),
            key: idempotency.key,
            fingerprint: idempotency.fingerprint,
        });
        let mut draft = Draft::new(execution_id, None);
        self.decide_into(&mut draft, Command::SubmitJob(Box::new(submitted)), correlation_id)?;
        for command in besides {
            self.decide_into(&mut draft, command, correlation_id)?;
        }
        let (mut append, record) = draft.finish(Enclosed { lease: None, blobs })?;
        append.idempotency = idempotency;
        Ok((append, record))
    }

    /// Carries out commands in order, as one append. Durable when it returns.
    pub async fn commit(
        &self,
        tracked: Tracked,
        commands: Vec<Command>,
        correlation_id: &str,
    ) -> Result<Tracked, Error> {
        self.commit_with(tracked, commands, correlation_id, Enclosed::default(), Patience::Once).await
    }

    /// [`Ledger::commit`] with blobs, guarded by a lease, or not giving up.
    pub async fn commit_with(
        &self,
        mut tracked: Tracked,
        commands: Vec<Command>,
        correlation_id: &str,
        enclosed: Enclosed,
        patience: Patience,
    ) -> Result<Tracked, Error> {
        let execution_id = tracked.record.execution_id;
        for _ in 0..MAX_CONFLICTS {
            let mut draft = Draft::new(execution_id, Some(tracked.clone()));
            for command in commands.clone() {
                self.decide_into(&mut draft, command, correlation_id)?;
            }
            if draft.events.is_empty() {
                return Ok(tracked);
            }
            let (append, record) = draft.finish(enclosed.clone())?;
            // Repeated as it is: its event ids make a repetition of what was already durable harmless.
            let outcome = patience.of(execution_id, || self.append(append.clone())).await?;
            match outcome {
                Outcome::Appended(appended) | Outcome::Duplicate(appended) => {
                    return Ok(Tracked { record, head_hash: appended.head_hash });
                }
                Outcome::LeaseLost { .. } => return Err(Error::LeaseLost),
                Outcome::VersionConflict { .. } => {
                    let loaded = patience.of(execution_id, || self.load(execution_id)).await?;
                    tracked = loaded.ok_or(Rejection::Unknown)?;
                }
                Outcome::IdempotencyTaken { execution_id, fingerprint } => {
                    return Err(Error::IdempotencyTaken { execution_id, fingerprint });
                }
            }
        }
        Err(Error::Overloaded)
    }

    /// [`Ledger::load`], waiting for a database that does not answer.
    pub async fn load_surely(&self, execution_id: Uuid) -> Result<Option<Tracked>, Error> {
        Patience::UntilAnswered.of(execution_id, || self.load(execution_id)).await
    }

    fn decide_into(&self, draft: &mut Draft, command: Command, correlation_id: &str) -> Result<(), Error> {
        for event in decide(draft.record.as_ref(), command)? {
            let envelope = Envelope {
                event_id: Uuid::now_v7(),
                stream_id: draft.execution_id,
                version: draft.expected_version + draft.events.len() as i32 + 1,
                recorded_at: self.clock.now(),
                correlation_id: Some(correlation_id.to_owned()),
                event,
            };
            draft.record = ExecutionRecord::evolve(draft.record.take(), &envelope)?;
            draft.events.push((envelope, Arc::clone(&self.speaker)));
        }
        Ok(())
    }

    async fn append(&self, append: store::Append) -> Result<Outcome, Error> {
        self.append_all(vec![append]).await.pop().unwrap_or(Err(Error::Overloaded))
    }

    async fn append_all(&self, mut appends: Vec<store::Append>) -> Vec<Result<Outcome, Error>> {
        let count = appends.len();
        let refused = |error: fn() -> Error| (0..count).map(|_| Err(error())).collect();
        let large: Vec<_> = appends.iter_mut().map(|append| self.take_large(append)).collect();
        // Right before the append, and again before each repetition: what waits long is put anew.
        let put = match self.store.put_blobs(&large.concat()).await {
            Ok(put) => put,
            Err(error) => return (0..count).map(|_| Err(error.clone().into())).collect(),
        };
        let answers: Vec<_> = match self.appender.send(Append(appends)).await {
            Ok(answers) => answers,
            Err(actix::MailboxError::Closed) => refused(|| Error::Stopped),
            Err(actix::MailboxError::Timeout) => refused(|| Error::Overloaded),
        };
        let is_named = |answer: &Result<_, _>| matches!(answer, Ok(Outcome::Appended(_) | Outcome::Duplicate(_)));
        let named = answers.iter().zip(&large).filter(|(answer, _)| is_named(answer));
        self.settle(put.of(named.flat_map(|(_, blobs)| blobs.iter().map(store::Blob::hash))));
        answers
    }

    fn take_large(&self, append: &mut store::Append) -> Vec<store::Blob> {
        let blobs = std::mem::take(&mut append.blobs);
        let (small, large) = blobs.into_iter().partition(|blob| self.store.is_small(blob));
        append.blobs = small;
        large
    }

    /// Says in its own time that events name what was put; whoever waits for the append waits for no more.
    fn settle(&self, put: store::Put) {
        if put.is_empty() {
            return;
        }
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.settle(&put).await {
                tracing::debug!(error = %error, "that blobs are named is found out later");
            }
        });
    }
}

/// Events decided on and not yet appended.
struct Draft {
    execution_id: Uuid,
    expected_version: i32,
    prev_hash: Option<Digest>,
    record: Option<ExecutionRecord>,
    events: Vec<(Envelope, Arc<str>)>,
}

impl Draft {
    fn new(execution_id: Uuid, tracked: Option<Tracked>) -> Self {
        let (expected_version, prev_hash, record) = match tracked {
            Some(tracked) => (tracked.record.version, Some(tracked.head_hash), Some(tracked.record)),
            None => (0, None, None),
        };
        Self { execution_id, expected_version, prev_hash, record, events: Vec::new() }
    }

    fn finish(self, enclosed: Enclosed) -> Result<(store::Append, ExecutionRecord), Error> {
        let Some(record) = self.record else { return Err(Rejection::Unknown.into()) };
        let (queue, dead_letter) = effects(&self.events, &record);
        let append = store::Append {
            stream_id: self.execution_id,
            stream_kind: store::StreamKind::Execution,
            expected_version: self.expected_version,
            prev_hash: self.prev_hash,
            events: store::new_events(self.events.iter().map(|(envelope, speaker)| (envelope, speaker.as_ref())))?,
            // An expired execution has no row any more.
            record: record.expired_at.is_none().then(|| store::RecordRow::of(&record)),
            queue,
            lease: enclosed.lease,
            idempotency: None,
            dead_letter,
            blobs: enclosed.blobs,
        };
        Ok((append, record))
    }
}

/// What events mean for the queue and for the dead letters.
fn effects(events: &[(Envelope, Arc<str>)], record: &ExecutionRecord) -> (QueueChange, DeadLetterChange) {
    let mut queue = QueueChange::None;
    let mut dead_letter = DeadLetterChange::None;
    for (envelope, _) in events {
        match &envelope.event {
            Event::JobSubmitted(submitted) => {
                queue = QueueChange::Enqueue {
                    tenant: submitted.tenant.clone(),
                    job_type: submitted.job_type.clone(),
                    priority: submitted.priority,
                    not_before: submitted.not_before,
                    is_keyed: submitted.concurrency.is_some(),
                };
            }
            Event::DependenciesDeclared(_) => {
                if let QueueChange::Enqueue { not_before, .. } = &mut queue {
                    *not_before = Some(store::held_back());
                }
            }
            Event::LeaseExpired(_) | Event::RetryScheduled(_) | Event::DependenciesMet(_) => {
                let not_before = match &record.state {
                    JobState::Queued { not_before } => *not_before,
                    JobState::Dequeued { .. } | JobState::Running { .. } | JobState::Ended { .. } => None,
                };
                queue = QueueChange::Release { not_before, attempt: record.attempt };
            }
            Event::ExecutionSucceeded(_)
            | Event::ExecutionFailed(_)
            | Event::ExecutionTimedOut(_)
            | Event::ExecutionOutOfMemory(_)
            | Event::ExecutionCancelled(_) => queue = QueueChange::Remove,
            Event::CancelRequested(_) => queue = QueueChange::FlagCancel,
            Event::JobDeadLettered(letter) => {
                let row = store::DeadLetterRow::of(record, letter, envelope.recorded_at);
                dead_letter = DeadLetterChange::Insert(row);
            }
            Event::DeadLetterRequeued(_) | Event::DeadLetterDiscarded(_) => dead_letter = DeadLetterChange::Remove,
            Event::JobDequeued(_)
            | Event::ExecutionStarted(_)
            | Event::JobRejected(_)
            | Event::JobScheduled(_)
            | Event::ScheduleDefined(_)
            | Event::ScheduleChanged(_)
            | Event::SchedulePaused(_)
            | Event::ScheduleResumed(_)
            | Event::ScheduleRemoved(_)
            | Event::ScheduleFired(_)
            | Event::ScheduleSkipped(_)
            | Event::ReplayVerdictRecorded(_)
            | Event::SecretsDelivered(_)
            | Event::EgressObserved(_)
            | Event::BuildRequested(_)
            | Event::BuildStarted(_)
            | Event::BuildSucceeded(_)
            | Event::BuildFailed(_)
            | Event::JobTypeDefined(_)
            | Event::JobTypePaused(_)
            | Event::JobTypeResumed(_)
            | Event::NodeStarted(_)
            | Event::NodeDraining(_)
            | Event::NodeStopped(_)
            | Event::SecretSet(_)
            | Event::SecretRemoved(_)
            | Event::ExecutionExpired(_)
            | Event::PayloadShredded(_)
            | Event::TenantShredded(_)
            | Event::RetentionApplied(_)
            | Event::LogArchived(_) => {}
        }
    }
    (queue, dead_letter)
}
