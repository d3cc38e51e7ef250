//! New executions out of old ones: rerun, fork, requeue, replay.

use bytes::Bytes;
use uuid::Uuid;

use super::custody;
use super::intake::{Accepted, Doors, How};
use super::job_types::Unresolved;
use super::ledger;
use super::refusal::Refusal;
use super::submission::{Origin, Submission};
use crate::domain::{
    Command, Digest, Idempotency, JobSubmitted, Parent, PinnedImage, RefusalCause, Relationship, ReplayVerdictRecorded,
    SecretVersion, Verdict,
};
use crate::store;

impl Doors {
    /// See [`super::intake::Repeat`].
    pub(super) async fn repeat(&self, origin: Origin, execution_id: Uuid, how: How) -> Result<Accepted, Refusal> {
        let original = self.find(&origin.tenant, execution_id).await?;
        if original.record.expired_at.is_some() {
            return Err(match how {
                How::Replay { .. } => Refusal::ReplayRefused {
                    execution_id,
                    cause: RefusalCause::BlobGone,
                    reason: "it has expired: its code and input are retired".to_owned(),
                },
                How::Rerun | How::Requeue | How::Fork { .. } => Refusal::Expired(execution_id),
            });
        }
        if let How::Replay { image, priority } = how {
            return self.replay(origin, original, image, priority).await;
        }
        let mut submitted = original.record.submitted.clone();
        let mut environment = self.job_types.find(&submitted.job_type).await?.environment;
        if !submitted.requirements.is_empty() {
            environment = self.job_types.with_requirements(&environment, &submitted.requirements).await?;
        }
        submitted.job_version = environment.version().to_string();
        submitted.client_ip = origin.client_ip.clone();
        submitted.idempotency = None;
        submitted.not_before = None;
        submitted.pinned_image = None;
        submitted.hash_seed = None;
        let mut blobs = Vec::new();
        let relationship = match how {
            How::Rerun => Relationship::Rerun,
            How::Requeue => {
                // However often it is asked for, and whatever dies in between: one letter, one execution.
                let key = format!("dlq-requeue:{execution_id}");
                submitted.idempotency = Some(Idempotency { fingerprint: Digest::of(key.as_bytes()), key });
                Relationship::Requeue
            }
            How::Replay { .. } => Relationship::Replay,
            How::Fork { code } => {
                let faults = Submission::of_code(code.as_str()).faults(&self.config);
                if !faults.is_empty() {
                    return Err(Refusal::Invalid { faults });
                }
                submitted.code = Digest::of(code.as_bytes());
                blobs.push(store::Blob::new(Bytes::from(code)));
                Relationship::Fork
            }
        };
        submitted.parent = Some(Parent { execution_id, relationship });
        if let Some(reason) = self.missing(&submitted, &blobs).await? {
            return Err(Refusal::NotRepeatable { execution_id, reason });
        }
        if let Err(reason) = self.present_secrets(&submitted).await? {
            return Err(Refusal::NotRepeatable { execution_id, reason });
        }
        self.enter(submitted, blobs, &origin.correlation_id).await
    }

    /// A replay is the original's submission with its image pinned. One that cannot be is
    /// still told: the refusal stands in the original's stream.
    async fn replay(
        &self,
        origin: Origin,
        original: ledger::Tracked,
        image: Option<String>,
        priority: Option<i16>,
    ) -> Result<Accepted, Refusal> {
        let execution_id = original.record.execution_id;
        if !original.record.is_ended() {
            return Err(Refusal::NotEnded(execution_id));
        }
        let mut submitted = original.record.submitted.clone();
        let sandbox = original.record.sandbox().cloned();
        let present = match self.job_types.find(&submitted.job_type).await {
            Err(Unresolved::Store(error)) => return Err(error.into()),
            Err(Unresolved::NoSuchJobType(gone)) => Err(gone),
            Ok(present) => Ok(present.environment),
        };
        let (sandbox, present) = match (sandbox, present) {
            (Some(sandbox), Ok(present)) => match self.missing(&submitted, &[]).await? {
                None => (sandbox, present),
                Some(reason) => return self.refuse_replay(&origin, original, RefusalCause::BlobGone, reason).await,
            },
            (None, _) => {
                let reason = "no code ran, so there is nothing to compare with".to_owned();
                return self.refuse_replay(&origin, original, RefusalCause::NothingRan, reason).await;
            }
            (Some(_), Err(gone)) => {
                return self.refuse_replay(&origin, original, RefusalCause::JobTypeMissing, gone.to_string()).await;
            }
        };
        let secrets = self.present_secrets(&submitted).await?;
        let changed = secrets.map(|now| custody::changed(&original.record.secrets, &now));
        if let Some(reason) = changed.unwrap_or_else(Some) {
            return self.refuse_replay(&origin, original, RefusalCause::SecretGone, reason).await;
        }
        // The version it ran on says what was in its environment. Of executions older than recipes
        // nobody kept that, so theirs is of today.
        if self.job_types.kept(&submitted.job_type, &submitted.job_version).await?.is_none() {
            submitted.job_version = present.version().to_string();
        }
        submitted.pinned_image = Some(PinnedImage {
            engine: sandbox.engine,
            runtime: Some(sandbox.runtime),
            digest: image.is_none().then_some(sandbox.image_digest),
            reference: image.unwrap_or(sandbox.image),
        });
        submitted.hash_seed = sandbox.hash_seed;
        submitted.priority = priority.unwrap_or(submitted.priority);
        submitted.client_ip = origin.client_ip.clone();
        submitted.idempotency = None;
        submitted.not_before = None;
        submitted.parent = Some(Parent { execution_id, relationship: Relationship::Replay });
        self.enter(submitted, Vec::new(), &origin.correlation_id).await
    }

    async fn refuse_replay(
        &self,
        origin: &Origin,
        original: ledger::Tracked,
        cause: RefusalCause,
        reason: String,
    ) -> Result<Accepted, Refusal> {
        let execution_id = original.record.execution_id;
        let verdict = Verdict::Refused { cause, reason: reason.clone() };
        let verdict = ReplayVerdictRecorded { original_id: execution_id, verdict, rules: Vec::new() };
        self.ledger
            .commit(original, vec![Command::RecordReplayVerdict(verdict)], &origin.correlation_id)
            .await
            .map_err(|error| Refusal::of(error, execution_id))?;
        Err(Refusal::ReplayRefused { execution_id, cause, reason })
    }

    /// The versions that the job's secrets have now, or why one cannot be had.
    async fn present_secrets(&self, submitted: &JobSubmitted) -> Result<Result<Vec<SecretVersion>, String>, Refusal> {
        match self.custody.versions(&submitted.tenant, &submitted.secrets).await {
            Ok(versions) => Ok(Ok(versions)),
            Err(custody::Error::Store(error)) => Err(error.into()),
            Err(error @ (custody::Error::NotSet(_) | custody::Error::NoKey)) => Ok(Err(error.to_string())),
        }
    }

    /// Which of the job's own bytes are no longer kept, as a sentence.
    async fn missing(&self, submitted: &JobSubmitted, brought: &[store::Blob]) -> Result<Option<String>, Refusal> {
        let wanted: Vec<_> = std::iter::once(("its code".to_owned(), submitted.code))
            .chain(std::iter::once(("its input".to_owned(), submitted.input)))
            .chain(submitted.files.iter().map(|file| (format!("its file {:?}", file.name), file.hash)))
            .filter(|(_, hash)| brought.iter().all(|blob| blob.hash() != *hash))
            .collect();
        let hashes: Vec<_> = wanted.iter().map(|(_, hash)| *hash).collect();
        let missing = self.store.hold_blobs(&hashes).await?;
        Ok(wanted
            .into_iter()
            .find(|(_, hash)| missing.contains(hash))
            .map(|(what, hash)| format!("{what} (sha256 {hash}) is no longer kept")))
    }
}
