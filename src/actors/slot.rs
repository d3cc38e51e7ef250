//! One place for one job: the actor that keeps what runs in it and can end it.
//!
//! The work itself is a task on the I/O runtime, see [`super::attempt`].

use std::collections::HashSet;
use std::sync::Arc;

use actix::prelude::*;
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::attempt::Bench;
use super::queue::{Queue, SlotFree};
use crate::store::Claim;

/// A claimed job for this slot, which is free.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Offer(pub Claim);

/// Ends the job if it is the one that runs here: a client cancelled it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Abort {
    pub execution_id: Uuid,
}

/// Gives the job back to the queue: the node stops.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Release;

/// Ends the attempt under one of these leases, and says nothing of it: the job is another's now.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct LoseLease {
    pub leases: Arc<HashSet<i64>>,
}

pub struct Slot {
    number: u32,
    bench: Bench,
    queue: Addr<Queue>,
    io: runtime::Handle,
    tasks: TaskTracker,
    running: Option<Running>,
}

struct Running {
    execution_id: Uuid,
    lease: i64,
    stop: Stop,
}

/// The ways to end an attempt from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// A client asked for it.
    pub cancel: CancellationToken,
    /// The node gives the job back.
    pub release: CancellationToken,
    /// The job is another claimant's.
    pub lost: CancellationToken,
}

impl Stop {
    /// Whether the job goes on elsewhere.
    pub fn is_taken_away(&self) -> bool {
        self.release.is_cancelled() || self.lost.is_cancelled()
    }

    /// Returns once the job goes on elsewhere.
    pub async fn taken_away(&self) {
        tokio::select! {
            () = self.release.cancelled() => {}
            () = self.lost.cancelled() => {}
        }
    }

    /// Returns once the attempt is to end, for whatever reason.
    pub async fn asked(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.taken_away() => {}
        }
    }
}

impl Slot {
    pub fn new(number: u32, bench: Bench, queue: Addr<Queue>, io: runtime::Handle, tasks: TaskTracker) -> Self {
        Self { number, bench, queue, io, tasks, running: None }
    }
}

impl Actor for Slot {
    type Context = Context<Self>;
}

impl Handler<Offer> for Slot {
    type Result = ();

    fn handle(&mut self, Offer(claim): Offer, context: &mut Self::Context) {
        let stop = Stop::default();
        self.running = Some(Running { execution_id: claim.execution_id, lease: claim.lease, stop: stop.clone() });
        let execution_id = claim.execution_id;
        let (bench, number) = (self.bench.clone(), self.number);
        let work = self.tasks.spawn_on(async move { bench.work(number, claim, stop).await }, &self.io);
        let done = work.into_actor(self).map(move |result, slot, _| {
            let doubts_engine = result.unwrap_or_else(|lost| {
                tracing::error!(error = %lost, %execution_id, "an attempt was lost; its lease will expire");
                false
            });
            slot.running = None;
            if slot.queue.try_send(SlotFree { slot: slot.number, doubts_engine }).is_err() {
                tracing::error!(slot = slot.number, "the queue did not hear of a free slot");
            }
        });
        context.spawn(done);
    }
}

impl Handler<Abort> for Slot {
    type Result = ();

    fn handle(&mut self, Abort { execution_id }: Abort, _: &mut Self::Context) {
        if let Some(running) = &self.running
            && running.execution_id == execution_id
        {
            running.stop.cancel.cancel();
        }
    }
}

impl Handler<Release> for Slot {
    type Result = ();

    fn handle(&mut self, Release: Release, _: &mut Self::Context) {
        if let Some(running) = &self.running {
            running.stop.release.cancel();
        }
    }
}

impl Handler<LoseLease> for Slot {
    type Result = ();

    fn handle(&mut self, LoseLease { leases }: LoseLease, _: &mut Self::Context) {
        if let Some(running) = &self.running
            && leases.contains(&running.lease)
        {
            tracing::warn!(execution_id = %running.execution_id, lease = running.lease, "the lease is lost; its sandbox is killed");
            running.stop.lost.cancel();
        }
    }
}
