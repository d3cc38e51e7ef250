//! New executions out of old ones: rerun, fork, requeue, replay.

use bytes::Bytes;
use uuid::Uuid;

use super::intake::{Accepted, Doors, How, Refusal};
use super::ledger;
use super::submission::{Origin, Submission};
use crate::domain::{
    Command, Digest, JobSubmitted, Parent, PinnedImage, RefusalCause, Relationship, ReplayVerdictRecorded, Verdict,
};
use crate::store;

impl Doors {
    /// See [`super::intake::Repeat`].
    pub(super) async fn repeat(&self, origin: Origin, execution_id: Uuid, how: How) -> Result<Accepted, Refusal> {
        let original = self.find(&origin.tenant, execution_id).await?;
        if let How::Replay { image, priority } = how {
            return self.replay(origin, original, image, priority).await;
        }
        let mut submitted = original.record.submitted.clone();
        let (_, version) = self.job_types.resolve(&submitted.job_type)?;
        submitted.job_version = version;
        submitted.client_ip = origin.client_ip.clone();
        submitted.idempotency = None;
        submitted.not_before = None;
        submitted.pinned_image = None;
        submitted.hash_seed = None;
        let mut blobs = Vec::new();
        let relationship = match how {
            How::Rerun => Relationship::Rerun,
            How::Requeue => Relationship::Requeue,
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
        let (sandbox, version) = match (sandbox, self.job_types.resolve(&submitted.job_type)) {
            (Some(sandbox), Ok((_, version))) => match self.missing(&submitted, &[]).await? {
                None => (sandbox, version),
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
        // What the job type adds to the image, its environment, is of today.
        submitted.job_version = version;
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

    /// Which of the job's own bytes are no longer kept, as a sentence.
    async fn missing(&self, submitted: &JobSubmitted, brought: &[store::Blob]) -> Result<Option<String>, Refusal> {
        let wanted: Vec<_> = std::iter::once(("its code".to_owned(), submitted.code))
            .chain(std::iter::once(("its input".to_owned(), submitted.input)))
            .chain(submitted.files.iter().map(|file| (format!("its file {:?}", file.name), file.hash)))
            .filter(|(_, hash)| brought.iter().all(|blob| blob.hash() != *hash))
            .collect();
        let hashes: Vec<_> = wanted.iter().map(|(_, hash)| *hash).collect();
        let missing = self.store.missing_blobs(&hashes).await?;
        Ok(wanted
            .into_iter()
            .find(|(_, hash)| missing.contains(hash))
            .map(|(what, hash)| format!("{what} (sha256 {hash}) is no longer kept")))
    }
}
