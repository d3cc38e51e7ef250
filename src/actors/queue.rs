//! Hands claimed jobs to free slots.
//!
//! A wake-up (a job entered the queue, a slot became free, another node spoke, the poll
//! interval passed) leads to one claim of as many jobs as slots are free. Wake-ups may be lost
//! or doubled; polling makes up for the lost ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime;
use uuid::Uuid;

use super::slot::{Abort, LoseLease, Offer, Release, Slot};
use crate::engine::Engine;
use crate::store::{self, Claim};

/// Between a job's end and a look for another where there was none before: a client that waited for
/// that end may submit its next job meanwhile, which wakes.
const LULL: Duration = Duration::from_millis(10);

/// Between two looks at an engine that is gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Something may be claimable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Claimed jobs of this node may have been cancelled through another.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookForCancels;

/// A job that may run on this node was cancelled.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CancelHere {
    pub execution_id: Uuid,
}

/// A slot has finished with its job.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SlotFree {
    pub slot: u32,
    /// The service failed the job, maybe because its engine is gone.
    pub doubts_engine: bool,
}

/// Asks which leases are in the hands of slots; answered by the leases.
#[derive(Debug, Message)]
#[rtype(result = "HashSet<i64>")]
pub struct HeldLeases;

/// Claims no more; answered with the number of jobs under way.
#[derive(Debug, Message)]
#[rtype(result = "u32")]
pub struct Drain;

/// Gives the running jobs back to the queue.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleaseAll;

/// Asks for figures.
#[derive(Debug, Message)]
#[rtype(result = "Stats")]
pub struct GetStats;

/// The slots of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    pub slots: u32,
    pub running: u32,
    pub draining: bool,
}

/// Tells the queue its slots, once, before anything else.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Slots(pub Vec<Addr<Slot>>);

pub struct Queue {
    store: store::Store,
    engine: Arc<dyn Engine>,
    io: runtime::Handle,
    node_id: Uuid,
    poll_interval: Duration,
    claim_batch: usize,
    slots: Vec<Addr<Slot>>,
    free: BTreeSet<u32>,
    /// The lease each busy slot works under.
    held: BTreeMap<u32, i64>,
    claiming: bool,
    /// A wake-up came while a claim was under way.
    woken: bool,
    draining: bool,
    /// The last claim found fewer jobs than there were free slots.
    was_short: bool,
    /// Nothing is claimed until the engine has answered: jobs would spend their attempts on it.
    doubted: bool,
    poll: Option<SpawnHandle>,
}

impl Queue {
    pub fn new(
        store: store::Store,
        engine: Arc<dyn Engine>,
        io: runtime::Handle,
        node_id: Uuid,
        settings: &crate::config::Queue,
    ) -> Self {
        Self {
            store,
            engine,
            io,
            node_id,
            poll_interval: settings.poll_interval,
            claim_batch: settings.claim_batch as usize,
            slots: Vec::new(),
            free: BTreeSet::new(),
            held: BTreeMap::new(),
            claiming: false,
            woken: false,
            draining: false,
            was_short: false,
            doubted: false,
            poll: None,
        }
    }

    fn claim(&mut self, context: &mut Context<Self>) {
        if self.draining || self.doubted || self.free.is_empty() {
            return;
        }
        if self.claiming {
            self.woken = true;
            return;
        }
        self.claiming = true;
        self.woken = false;
        let (store, node_id, wanted) = (self.store.clone(), self.node_id, self.free.len().min(self.claim_batch));
        let claim = self.io.spawn(async move { store.claim(node_id, wanted).await });
        let claimed = claim.into_actor(self).map(move |result, queue, context| {
            queue.claiming = false;
            match result {
                Ok(Ok(claims)) => queue.offer(claims, wanted, context),
                Ok(Err(error)) => {
                    tracing::warn!(error = %error, "no job could be claimed");
                    queue.poll_in(queue.poll_interval, context);
                }
                Err(lost) => tracing::error!(error = %lost, "a claim was lost"),
            }
        });
        context.spawn(claimed);
    }

    fn offer(&mut self, claims: Vec<Claim>, wanted: usize, context: &mut Context<Self>) {
        self.was_short = claims.len() < wanted;
        let more = self.woken || !self.was_short;
        for claim in claims {
            // Only the claim under way takes from `free`, so there is a slot for each job.
            let Some(number) = self.free.pop_first() else { break };
            let Some(slot) = self.slots.get(number as usize) else { continue };
            let execution_id = claim.execution_id;
            self.held.insert(number, claim.lease);
            if slot.try_send(Offer(claim)).is_err() {
                // The reaper finds a lease that no slot holds.
                self.held.remove(&number);
                tracing::error!(%execution_id, slot = number, "a slot did not take its job");
            }
        }
        if more {
            self.claim(context);
        } else {
            self.poll_in(self.poll_interval, context);
        }
    }

    /// Claims no more until the engine is well.
    fn doubt(&mut self, context: &mut Context<Self>) {
        if self.doubted {
            return;
        }
        self.doubted = true;
        let engine = Arc::clone(&self.engine);
        let look = self.io.spawn(async move {
            let mut is_told = false;
            while let Err(error) = engine.health().await {
                if !is_told {
                    tracing::warn!(error = %error, "the engine is gone: no jobs are claimed until it is back");
                }
                is_told = true;
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            if is_told {
                tracing::info!("the engine is back: jobs are claimed again");
            }
        });
        let looked = look.into_actor(self).map(|_, queue, context| {
            queue.doubted = false;
            queue.claim(context);
        });
        context.spawn(looked);
    }

    fn poll_in(&mut self, interval: Duration, context: &mut Context<Self>) {
        if let Some(poll) = self.poll.take() {
            context.cancel_future(poll);
        }
        let jittered = interval.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        self.poll = Some(context.run_later(jittered, |queue, context| queue.claim(context)));
    }
}

impl Actor for Queue {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1024);
        self.poll_in(self.poll_interval, context);
    }
}

impl Handler<Slots> for Queue {
    type Result = ();

    fn handle(&mut self, Slots(slots): Slots, context: &mut Self::Context) {
        self.free = (0..slots.len() as u32).collect();
        self.slots = slots;
        self.claim(context);
    }
}

impl Handler<Wake> for Queue {
    type Result = ();

    fn handle(&mut self, Wake: Wake, context: &mut Self::Context) {
        self.claim(context);
    }
}

impl Handler<SlotFree> for Queue {
    type Result = ();

    fn handle(&mut self, SlotFree { slot, doubts_engine }: SlotFree, context: &mut Self::Context) {
        self.free.insert(slot);
        self.held.remove(&slot);
        if doubts_engine {
            self.doubt(context);
        }
        // What waits then waits for a limit or a pause, or came meanwhile and has woken.
        if self.was_short && !self.claiming {
            self.poll_in(LULL, context);
        } else {
            self.claim(context);
        }
    }
}

impl Handler<CancelHere> for Queue {
    type Result = ();

    fn handle(&mut self, CancelHere { execution_id }: CancelHere, _: &mut Self::Context) {
        for slot in &self.slots {
            if slot.try_send(Abort { execution_id }).is_err() {
                tracing::warn!(%execution_id, "a slot could not be told of a cancel; the next look will");
            }
        }
    }
}

impl Handler<LookForCancels> for Queue {
    type Result = ();

    fn handle(&mut self, LookForCancels: LookForCancels, context: &mut Self::Context) {
        if self.free.len() == self.slots.len() {
            return;
        }
        let (store, node_id) = (self.store.clone(), self.node_id);
        let look = self.io.spawn(async move { store.cancel_requested(node_id).await });
        let seen = look.into_actor(self).map(|result, _, context| match result {
            Ok(Ok(cancelled)) => {
                for execution_id in cancelled {
                    context.notify(CancelHere { execution_id });
                }
            }
            Ok(Err(error)) => tracing::warn!(error = %error, "cancels could not be looked for"),
            Err(lost) => tracing::error!(error = %lost, "a look for cancels was lost"),
        });
        context.spawn(seen);
    }
}

impl Handler<Drain> for Queue {
    type Result = u32;

    fn handle(&mut self, Drain: Drain, _: &mut Self::Context) -> u32 {
        self.draining = true;
        (self.slots.len() - self.free.len()) as u32
    }
}

impl Handler<ReleaseAll> for Queue {
    type Result = ();

    fn handle(&mut self, ReleaseAll: ReleaseAll, _: &mut Self::Context) {
        for slot in &self.slots {
            let _ = slot.try_send(Release);
        }
    }
}

impl Handler<LoseLease> for Queue {
    type Result = ();

    fn handle(&mut self, lost: LoseLease, _: &mut Self::Context) {
        for slot in &self.slots {
            // One that did not hear it hears it at the next look.
            let _ = slot.try_send(lost.clone());
        }
    }
}

impl Handler<HeldLeases> for Queue {
    type Result = MessageResult<HeldLeases>;

    fn handle(&mut self, HeldLeases: HeldLeases, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.held.values().copied().collect())
    }
}

impl Handler<GetStats> for Queue {
    type Result = MessageResult<GetStats>;

    fn handle(&mut self, GetStats: GetStats, _: &mut Self::Context) -> Self::Result {
        let slots = self.slots.len() as u32;
        MessageResult(Stats { slots, running: slots - self.free.len() as u32, draining: self.draining })
    }
}
