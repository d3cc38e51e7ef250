//! Holds job types back, and lets them go again.

use actix::prelude::*;
use uuid::Uuid;

use super::builder::{Builder, Refusal};
use super::definitions::Desk;
use super::job_types::Unresolved;
use super::refusal::answer;
use super::submission::Origin;
use crate::domain::{Event, JobTypePaused, JobTypeResumed};
use crate::store::{EVERY_JOB_TYPE, Pause};

/// Others who change the same at the same time, one after the other.
const MAX_CONFLICTS: u32 = 10;

/// Keeps jobs of a type from starting on any node, or lets them start again. Answered when it is in
/// force and in the log; what was so already is answered as it was.
#[derive(Debug, Message)]
#[rtype(result = "Result<Pause, Refusal>")]
pub struct SetPause {
    pub origin: Origin,
    /// `*` for all.
    pub job_type: String,
    pub is_paused: bool,
    pub reason: Option<String>,
}

impl Handler<SetPause> for Builder {
    type Result = ResponseFuture<Result<Pause, Refusal>>;

    fn handle(&mut self, wish: SetPause, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk();
        answer(&self.io, async move { desk.set_pause(wish).await })
    }
}

impl Desk {
    async fn set_pause(&self, wish: SetPause) -> Result<Pause, Refusal> {
        let SetPause { origin, mut job_type, is_paused, reason } = wish;
        if job_type != EVERY_JOB_TYPE && self.job_types.present(&job_type).is_none() {
            job_type = match self.job_types.find(&job_type).await {
                // All versions of it.
                Ok(found) => found.environment.name,
                Err(Unresolved::NoSuchJobType(unknown)) => return Err(unknown.into()),
                Err(Unresolved::Store(error)) => return Err(Refusal::of_store(&job_type, &error)),
            };
        }
        let of_store = |error| Refusal::of_store(&job_type, &error);
        for _ in 0..MAX_CONFLICTS {
            let pauses = self.store.pauses().await.map_err(of_store)?;
            let known = pauses.into_iter().find(|pause| pause.job_type == job_type);
            let stream_id = match known {
                Some(known) if known.is_paused == is_paused => return Ok(known),
                Some(known) => known.stream_id,
                None => Uuid::now_v7(),
            };
            let (name, by) = (job_type.clone(), origin.by.clone());
            let event: Event = match is_paused {
                true => JobTypePaused { job_type: name, by, reason: reason.clone() }.into(),
                false => JobTypeResumed { job_type: name, by, reason: reason.clone() }.into(),
            };
            let head = self.head(stream_id).await.map_err(of_store)?;
            let correlation_id = Some(origin.correlation_id.clone());
            let journal = self.journal.of_job_type(stream_id, self.node_id, correlation_id, head);
            let append = journal.draft(event, head).map_err(of_store)?;
            let pause = Pause {
                job_type: job_type.clone(),
                stream_id,
                is_paused,
                changed_at: append.events[0].recorded_at,
                changed_by: origin.by.clone(),
                reason: reason.clone(),
            };
            if self.store.record_pause(append, &pause).await.map_err(of_store)? {
                return Ok(pause);
            }
        }
        Err(Refusal::Raced { name: job_type })
    }
}
