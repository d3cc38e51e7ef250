//! What schedules ask of the intake.

use actix::prelude::*;
use uuid::Uuid;

use super::intake::{Doors, Intake};
use super::ledger;
use super::refusal::{Refusal, answer};
use super::submission::{Origin, Submission};
use crate::domain::{Command, JobScheduled, Rejection};

/// Checks a submission as if it were one, and submits nothing.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub struct Check {
    pub origin: Origin,
    pub submission: Submission,
}

/// Submits a job under an id that is known before, unless that was done.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub struct SubmitScheduled {
    pub origin: Origin,
    pub submission: Submission,
    pub execution_id: Uuid,
    pub scheduled: JobScheduled,
}

impl Handler<Check> for Intake {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, Check { origin, submission }: Check, _: &mut Self::Context) -> Self::Result {
        let doors = self.doors.clone();
        answer(&self.io, async move { doors.prepare(&origin, submission).await.map(drop) })
    }
}

impl Handler<SubmitScheduled> for Intake {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, wish: SubmitScheduled, _: &mut Self::Context) -> Self::Result {
        let (doors, room) = (self.doors.clone(), self.room.clone());
        answer(&self.io, async move {
            room.take(1).await?;
            doors.submit_scheduled(wish).await
        })
    }
}

impl Doors {
    async fn submit_scheduled(&self, wish: SubmitScheduled) -> Result<(), Refusal> {
        let SubmitScheduled { origin, submission, execution_id, scheduled } = wish;
        let mut job = self.prepare(&origin, submission).await?;
        job.execution_id = execution_id;
        job.besides.push(Command::Schedule(scheduled));
        match self.ledger.create(vec![job], &origin.correlation_id).await.pop() {
            // The stream has begun: another node was faster, or this one before it died.
            Some(Ok(_) | Err(ledger::Error::Rejected(Rejection::AlreadyExists))) => Ok(()),
            Some(Err(error)) => Err(Refusal::of(error, execution_id)),
            None => Err(Refusal::Internal),
        }
    }
}
