//! Job types that administrators define. A definition is never changed: a new event follows it.

use std::sync::Arc;

use uuid::Uuid;

use super::builder::{Defined, Refusal};
use super::job_types::{JobTypes, Source};
use super::journal::Journal;
use super::submission::Origin;
use crate::config::JobType;
use crate::domain::{Digest, JobTypeDefined, canonical_json};
use crate::store::Store;

/// More definitions of one job type than that are not read for its newest.
const PAGE: u32 = 1_000;

/// What defining works with.
pub(super) struct Desk {
    pub job_types: Arc<JobTypes>,
    pub store: Store,
    pub journal: Journal,
    pub node_id: Uuid,
}

impl Desk {
    /// Puts the definition in the log, unless it is the present one. The checked job type is in force
    /// here when this returns, and on other nodes within seconds.
    pub async fn define(&self, origin: &Origin, job_type: &JobType, is_new: bool) -> Result<Defined, Refusal> {
        let name = job_type.name.clone();
        let of_store = |error| Refusal::of_store(&name, &error);
        self.job_types.refresh().await.map_err(of_store)?;
        let present = self.job_types.present(&name);
        match present.as_ref().map(|present| present.source) {
            Some(Source::Configuration) => return Err(Refusal::Configured { name }),
            Some(Source::Defined { .. }) if is_new => return Err(Refusal::Exists { name }),
            Some(Source::Defined { .. }) => {}
            None if is_new => {}
            None => {
                let unknown = self.job_types.find(&name).await.err();
                return Err(match unknown {
                    Some(super::job_types::Unresolved::NoSuchJobType(unknown)) => unknown.into(),
                    _ => Refusal::Raced { name },
                });
            }
        }
        if let Some(present) = present.filter(|present| *present.job_type == *job_type) {
            return Ok(Defined { present, unchanged: true });
        }
        let definition = canonical_json(&job_type.definition());
        let digest = Digest::of(definition.as_bytes());
        self.store.put_job_type_definition(&digest.to_string(), &definition).await.map_err(of_store)?;
        let event = JobTypeDefined {
            name: name.clone(),
            definition: digest,
            python_version: job_type.python_version.clone(),
            requirements: job_type.requirements.clone(),
            by: origin.by.clone(),
        };
        let known = self.stream_of(&name).await.map_err(of_store)?;
        let head = match known {
            Some(stream_id) => self.head(stream_id).await.map_err(of_store)?,
            None => (0, None),
        };
        // A stream that was dropped from the log goes on as another.
        let stream_id = known.filter(|_| head.0 > 0).unwrap_or_else(Uuid::now_v7);
        if is_new && head.0 > 0 {
            return Err(Refusal::Exists { name });
        }
        let correlation_id = Some(origin.correlation_id.clone());
        let journal = self.journal.of_job_type(stream_id, self.node_id, correlation_id, head);
        match journal.append(event).await {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::Raced { name }),
            Err(error) => return Err(Refusal::of(&name, &format!("it could not be recorded: {error}"))),
        }
        if self.stream_of(&name).await.map_err(of_store)? != Some(stream_id) {
            // Another node began one of that name at the same time, and was first.
            return Err(Refusal::Exists { name });
        }
        self.job_types.refresh().await.map_err(of_store)?;
        let present = self.job_types.present(&name).ok_or(Refusal::Raced { name })?;
        Ok(Defined { present, unchanged: false })
    }

    /// The stream of a job type, if it has one.
    async fn stream_of(&self, name: &str) -> Result<Option<Uuid>, crate::store::Error> {
        let defined = self.store.defined_job_types().await?;
        Ok(defined.iter().find(|defined| defined.name == name).map(|defined| defined.stream_id))
    }

    /// Version and hash of a stream's newest event.
    pub(super) async fn head(&self, stream_id: Uuid) -> Result<(i32, Option<Digest>), crate::store::Error> {
        let mut head = (0, None);
        loop {
            let events = self.store.stream_events(stream_id, head.0, PAGE).await?;
            match events.last() {
                Some(last) => head = (last.version, Some(last.hash)),
                None => return Ok(head),
            }
        }
    }
}
