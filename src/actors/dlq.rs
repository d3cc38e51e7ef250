//! The dead letter queue: jobs that the service, not their code, failed for good.

use actix::prelude::*;
use tokio::runtime;
use uuid::Uuid;

use super::intake::{Accepted, How, Intake, Repeat};
use super::ledger::Ledger;
use super::refusal::{Refusal, answer};
use super::submission::Origin;
use crate::domain::{Command, ErrorType};
use crate::store;

/// Dead letters of one [`RequeueAll`].
const BATCH: u32 = 1000;

/// Submits a dead letter again, as a new execution.
#[derive(Debug, Message)]
#[rtype(result = "Result<Accepted, Refusal>")]
pub struct Requeue {
    pub origin: Origin,
    /// The execution that failed.
    pub id: Uuid,
}

/// Submits the tenant's dead letters again, of one error type or all, at most 1,000 at a time;
/// answers with those that were.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Accepted>, Refusal>")]
pub struct RequeueAll {
    pub origin: Origin,
    pub error_type: Option<ErrorType>,
}

/// Puts a dead letter away.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Refusal>")]
pub struct Discard {
    pub origin: Origin,
    pub id: Uuid,
    pub reason: Option<String>,
}

pub struct Dlq {
    desk: Desk,
    io: runtime::Handle,
}

#[derive(Clone)]
struct Desk {
    ledger: Ledger,
    store: store::Store,
    intake: Addr<Intake>,
}

impl Dlq {
    pub fn new(ledger: Ledger, store: store::Store, intake: Addr<Intake>, io: runtime::Handle) -> Self {
        Self { desk: Desk { ledger, store, intake }, io }
    }
}

impl Desk {
    /// The new execution comes first: a crash between the two steps leaves a dead letter that
    /// can be requeued again, never one that is lost.
    async fn requeue(&self, origin: Origin, id: Uuid) -> Result<Accepted, Refusal> {
        let letter = self.find(&origin.tenant, id).await?;
        if letter.record.dead_letter != Some(crate::domain::DeadLetter::Waiting) {
            return Err(Refusal::NotADeadLetter(id));
        }
        let repeat = Repeat { origin: origin.clone(), execution_id: id, how: How::Requeue };
        let accepted = self.intake.send(repeat).await.map_err(|_| Refusal::unavailable())??;
        let command = Command::RequeueDeadLetter { by: origin.by.clone(), execution_id: accepted.execution_id };
        self.ledger
            .commit(letter, vec![command], &origin.correlation_id)
            .await
            .map_err(|error| Refusal::of(error, id))?;
        Ok(accepted)
    }

    async fn find(&self, tenant: &str, id: Uuid) -> Result<super::ledger::Tracked, Refusal> {
        match self.ledger.load(id).await {
            Ok(Some(tracked)) if tracked.record.submitted.tenant == tenant => Ok(tracked),
            Ok(_) => Err(Refusal::NotFound(id)),
            Err(error) => Err(Refusal::of(error, id)),
        }
    }
}

impl Actor for Dlq {
    type Context = Context<Self>;
}

impl Handler<Requeue> for Dlq {
    type Result = ResponseFuture<Result<Accepted, Refusal>>;

    fn handle(&mut self, Requeue { origin, id }: Requeue, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk.clone();
        answer(&self.io, async move { desk.requeue(origin, id).await })
    }
}

impl Handler<RequeueAll> for Dlq {
    type Result = ResponseFuture<Result<Vec<Accepted>, Refusal>>;

    fn handle(&mut self, RequeueAll { origin, error_type }: RequeueAll, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk.clone();
        answer(&self.io, async move {
            let filter = store::DeadLetterFilter {
                tenant: Some(origin.tenant.clone()),
                error_type: error_type.map(|error| error.as_str().to_owned()),
            };
            let letters = desk.store.dead_letters(&filter, BATCH, 0).await?;
            let mut accepted = Vec::new();
            for letter in letters {
                match desk.requeue(origin.clone(), letter.execution_id).await {
                    Ok(requeued) => accepted.push(requeued),
                    // One that another client took meanwhile, or whose bytes are gone, stops nobody else's.
                    Err(Refusal::NotADeadLetter(_) | Refusal::NotRepeatable { .. }) => {}
                    Err(refusal) if accepted.is_empty() => return Err(refusal),
                    Err(_) => break,
                }
            }
            Ok(accepted)
        })
    }
}

impl Handler<Discard> for Dlq {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, Discard { origin, id, reason }: Discard, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk.clone();
        answer(&self.io, async move {
            let letter = desk.find(&origin.tenant, id).await?;
            let command = Command::DiscardDeadLetter { by: origin.by.clone(), reason };
            desk.ledger
                .commit(letter, vec![command], &origin.correlation_id)
                .await
                .map(drop)
                .map_err(|error| Refusal::of(error, id))
        })
    }
}
