//! Seals the log as it grows.
//!
//! Every node has one; the database lets one of them seal at a time, and whoever finds nothing
//! left to seal has nothing to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::runtime;

use crate::clock::Clock;
use crate::config;
use crate::store::audit::{Seal, Sealing, SigningKey};
use crate::store::{self, Store};

/// Between two looks at how far the log is.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Seals all there is, at once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SealAll;

pub struct Sealer {
    round: Round,
    io: runtime::Handle,
    busy: bool,
    waiting: Option<Waiting>,
}

/// Events were first seen without a seal behind that position at that moment.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    sealed: i64,
    since: Instant,
}

#[derive(Clone)]
pub struct Round {
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    /// Without one, seals are chained and not signed.
    pub key: Option<Arc<SigningKey>>,
    pub config: config::Audit,
}

impl Sealer {
    pub fn new(round: Round, io: runtime::Handle) -> Self {
        Self { round, io, busy: false, waiting: None }
    }

    fn look(&mut self, context: &mut Context<Self>) {
        // A database that hangs must not pile looks up.
        if self.busy {
            return;
        }
        self.busy = true;
        let (round, waiting) = (self.round.clone(), self.waiting);
        let task = self.io.spawn(async move { round.look(waiting).await });
        let done = task.into_actor(self).map(|result, sealer, _| {
            sealer.busy = false;
            match result {
                Ok(Ok(waiting)) => sealer.waiting = waiting,
                Ok(Err(error)) => tell(&error),
                Err(lost) => tracing::error!(error = %lost, "a look at the log's seals was lost"),
            }
        });
        context.spawn(done);
    }
}

fn tell(error: &store::Error) {
    if error.is_transient() {
        tracing::warn!(error = %error, "the log could not be sealed for now");
    } else {
        tracing::error!(error = %error, "the log is not sealed: see tako-vm audit verify");
    }
}

impl Round {
    /// Seals what is due; answers what waits.
    async fn look(&self, waiting: Option<Waiting>) -> Result<Option<Waiting>, store::Error> {
        let mut end = self.store.seal_end().await?;
        while end.unsealed() >= u64::from(self.config.seal_every_events) {
            if self.seal(self.config.seal_every_events).await?.is_none() {
                break;
            }
            end = self.store.seal_end().await?;
        }
        if end.unsealed() == 0 {
            return Ok(None);
        }
        let waiting = waiting
            .filter(|waiting| waiting.sealed == end.sealed)
            .unwrap_or(Waiting { sealed: end.sealed, since: Instant::now() });
        if waiting.since.elapsed() < self.config.seal_every {
            return Ok(Some(waiting));
        }
        self.seal(1).await?;
        Ok(None)
    }

    async fn seal(&self, at_least: u32) -> Result<Option<Seal>, store::Error> {
        let sealing = Sealing {
            key: self.key.as_deref(),
            at: self.clock.now(),
            at_least,
            at_most: self.config.seal_every_events,
        };
        let seal = self.store.seal_next(sealing).await?;
        if let Some(seal) = &seal {
            tracing::debug!(seal_no = seal.seal_no, last_position = seal.last_position, "the log is sealed");
        }
        Ok(seal)
    }

    async fn seal_all(&self) {
        loop {
            let sealed = async { Ok((self.seal(1).await?, self.store.seal_end().await?)) };
            match sealed.await {
                Ok((Some(_), _)) => {}
                Ok((None, end)) if end.unsealed() == 0 => return,
                // Somebody else seals now, maybe not all of it.
                Ok((None, _)) => tokio::time::sleep(SHORTEST_LOOK).await,
                Err(error) => return tell(&error),
            }
        }
    }
}

impl Actor for Sealer {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let every = (self.round.config.seal_every / 4).clamp(SHORTEST_LOOK, LONGEST_LOOK);
        context.run_interval(every, Self::look);
    }
}

impl Handler<SealAll> for Sealer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, SealAll: SealAll, _: &mut Self::Context) -> Self::Result {
        let round = self.round.clone();
        let task = self.io.spawn(async move { round.seal_all().await });
        Box::pin(async move {
            if let Err(lost) = task.await {
                tracing::error!(error = %lost, "the last seal was lost");
            }
        })
    }
}
