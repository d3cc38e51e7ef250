//! Lets jobs run once those that they wait for have ended, or ends them.
//!
//! Every node has one. What is to be done stands in the database, so whoever looks finds it: a wake-up
//! makes it quick, polling makes up for a lost one. Two nodes that settle the same job race for the next
//! version of its stream, and the second finds nothing left to do.

use std::time::Duration;

use actix::prelude::*;
use tokio::runtime;
use uuid::Uuid;

use super::ledger::{self, Ledger};
use crate::domain::{Command, Dependencies};
use crate::store;

/// Jobs of one look; there may be more right after.
const TOGETHER: u32 = 500;

/// Something that others wait for has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Look;

pub struct Dependents {
    desk: Desk,
    poll_interval: Duration,
    io: runtime::Handle,
    busy: bool,
    woken: bool,
}

#[derive(Clone)]
struct Desk {
    ledger: Ledger,
    store: store::Store,
}

impl Dependents {
    pub fn new(ledger: Ledger, store: store::Store, poll_interval: Duration, io: runtime::Handle) -> Self {
        Self { desk: Desk { ledger, store }, poll_interval, io, busy: false, woken: false }
    }

    fn look(&mut self, context: &mut Context<Self>) {
        if self.busy {
            self.woken = true;
            return;
        }
        (self.busy, self.woken) = (true, false);
        let desk = self.desk.clone();
        let task = self.io.spawn(async move { desk.look().await });
        let done = task.into_actor(self).map(|result, dependents, context| {
            dependents.busy = false;
            let more = match result {
                Ok(Ok(more)) => more,
                Ok(Err(error)) => {
                    tracing::warn!(error = %error, "jobs that wait for others could not be looked at");
                    false
                }
                Err(lost) => {
                    tracing::error!(error = %lost, "a look at jobs that wait for others was lost");
                    false
                }
            };
            if more || dependents.woken {
                dependents.look(context);
            }
        });
        context.spawn(done);
    }
}

impl Desk {
    /// Answers whether there is more to do at once.
    async fn look(&self) -> Result<bool, ledger::Error> {
        let waiting = self.store.dependents_to_tell(TOGETHER).await?;
        let mut failed = 0;
        for &execution_id in &waiting {
            if let Err(error) = self.settle(execution_id).await {
                if error.is_transient() {
                    return Err(error);
                }
                failed += 1;
                tracing::warn!(error = %error, %execution_id, "a job that waits for others could not be settled");
            }
        }
        Ok(waiting.len() == TOGETHER as usize && failed == 0)
    }

    async fn settle(&self, execution_id: Uuid) -> Result<(), ledger::Error> {
        let tracked = self.ledger.load(execution_id).await?.filter(|tracked| tracked.record.is_waiting());
        let Some((tracked, Dependencies { after, .. })) =
            tracked.and_then(|tracked| Some((tracked.clone(), tracked.record.dependencies?)))
        else {
            return Ok(self.store.settle_dependencies(execution_id, None).await?);
        };
        // Read after the rows said that there is an end: whatever ends later says so in a row of its own.
        let ended = self.store.ends_of(&after).await?;
        let told: Vec<_> = ended.iter().map(|end| end.execution_id).collect();
        let correlation_id = tracked.record.correlation_id.clone().unwrap_or_default();
        let settle = Command::SettleDependencies { ended };
        let tracked = self.ledger.commit(tracked, vec![settle], &correlation_id).await?;
        let told = tracked.record.is_waiting().then_some(told.as_slice());
        Ok(self.store.settle_dependencies(execution_id, told).await?)
    }
}

impl Actor for Dependents {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.look(context);
        let jittered = self.poll_interval.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        context.run_interval(jittered, Self::look);
    }
}

impl Handler<Look> for Dependents {
    type Result = ();

    fn handle(&mut self, Look: Look, context: &mut Self::Context) {
        self.look(context);
    }
}
