//! Group commit: gathers appends of the whole node into one statement each.
//!
//! An append is flushed at once while no statement is under way; what arrives during one
//! statement leaves together in the next. So a lone append waits for nobody, and under load
//! batches grow as far as the database is slow, up to [`MAX_BATCH`]. Items that came together leave
//! together, in one transaction.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::prelude::*;
use tokio::runtime;
use tokio::sync::oneshot;

use super::ledger;
use super::queue::{Queue, Wake};
use super::waiters::Waiters;
use super::writes::Writes;
use crate::store::{self, Outcome, QueueChange};

/// Items of one statement, unless more came together.
const MAX_BATCH: usize = 128;

/// Items that may wait; beyond it an append is refused as overload.
const MAX_WAITING: usize = 4096;

/// What became of one item.
pub type Answer = Result<Outcome, ledger::Error>;

/// Appends items in one transaction, each whole or not at all; answered when that is durable,
/// item by item.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Answer>")]
pub struct Append(pub Vec<store::Append>);

/// Answers when everything that was waiting before is durable or refused.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Flush;

/// Tells whom to wake when a job entered the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WakeOnEnqueue(pub Addr<Queue>);

pub struct Appender {
    store: store::Store,
    io: runtime::Handle,
    waiters: Arc<Waiters>,
    writes: Arc<Writes>,
    queue: Option<Addr<Queue>>,
    waiting: VecDeque<Waiting>,
    /// Items in `waiting`.
    items: usize,
    in_flight: bool,
    on_empty: Vec<oneshot::Sender<()>>,
}

struct Waiting {
    appends: Vec<store::Append>,
    answer: oneshot::Sender<Vec<Answer>>,
}

impl Appender {
    pub fn new(store: store::Store, io: runtime::Handle, waiters: Arc<Waiters>, writes: Arc<Writes>) -> Self {
        Self {
            store,
            io,
            waiters,
            writes,
            queue: None,
            waiting: VecDeque::new(),
            items: 0,
            in_flight: false,
            on_empty: Vec::new(),
        }
    }

    fn flush(&mut self, context: &mut Context<Self>) {
        if self.in_flight {
            return;
        }
        if self.waiting.is_empty() {
            for answer in self.on_empty.drain(..) {
                // Who asked may have stopped waiting.
                let _ = answer.send(());
            }
            return;
        }
        self.in_flight = true;
        let (mut appends, mut told) = (Vec::new(), Vec::new());
        while let Some(next) = self.waiting.front()
            && (appends.is_empty() || appends.len() + next.appends.len() <= MAX_BATCH)
        {
            let Some(Waiting { appends: group, answer }) = self.waiting.pop_front() else { break };
            self.items -= group.len();
            told.push((group.iter().map(Told::of).collect::<Vec<_>>(), answer));
            appends.extend(group);
        }
        let store = self.store.clone();
        let statement = self.io.spawn(async move { store.append_batch(appends).await });
        let flushed = statement.into_actor(self).map(move |results, appender, context| {
            appender.in_flight = false;
            match results {
                Ok(results) => appender.answer(told, results),
                // The statement's task is gone: the callers' channels close, which they take for overload.
                Err(lost) => tracing::error!(error = %lost, "an append statement was lost"),
            }
            appender.flush(context);
        });
        context.spawn(flushed);
    }

    fn answer(
        &self,
        told: Vec<(Vec<Told>, oneshot::Sender<Vec<Answer>>)>,
        results: Vec<Result<Outcome, store::Error>>,
    ) {
        let mut enqueued = false;
        // The items of one statement meet the same disk: one that was taken says that there is room.
        if let Some(outcome) = results.iter().max_by_key(|result| result.is_ok()) {
            self.writes.append(outcome.as_ref());
        }
        let mut results = results.into_iter();
        for (group, answer) in told {
            let mut answers = Vec::with_capacity(group.len());
            for (told, result) in group.into_iter().zip(&mut results) {
                if let Ok(Outcome::Appended(_)) = &result {
                    enqueued |= told.enqueues;
                    if let Some(execution_id) = told.ended {
                        self.waiters.wake(execution_id);
                    }
                }
                answers.push(result.map_err(ledger::Error::from));
            }
            // A caller that went away has no use for the answer; the append stands.
            let _ = answer.send(answers);
        }
        if enqueued && let Some(queue) = &self.queue {
            let _ = queue.try_send(Wake);
        }
    }
}

/// What of an append the rest of the node is told once it is durable.
struct Told {
    enqueues: bool,
    ended: Option<uuid::Uuid>,
}

impl Told {
    fn of(append: &store::Append) -> Self {
        Self {
            enqueues: matches!(append.queue, QueueChange::Enqueue { .. } | QueueChange::Release { .. }),
            ended: matches!(append.queue, QueueChange::Remove).then_some(append.stream_id),
        }
    }
}

impl Actor for Appender {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAX_WAITING);
    }
}

impl Handler<Append> for Appender {
    type Result = ResponseFuture<Vec<Answer>>;

    fn handle(&mut self, Append(appends): Append, context: &mut Self::Context) -> Self::Result {
        let count = appends.len();
        let overloaded = move || (0..count).map(|_| Err(ledger::Error::Overloaded)).collect();
        if self.items >= MAX_WAITING {
            return Box::pin(async move { overloaded() });
        }
        let (answer, answered) = oneshot::channel();
        self.items += count;
        self.waiting.push_back(Waiting { appends, answer });
        self.flush(context);
        Box::pin(async move { answered.await.unwrap_or_else(|_| overloaded()) })
    }
}

impl Handler<Flush> for Appender {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Flush: Flush, context: &mut Self::Context) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.on_empty.push(answer);
        self.flush(context);
        Box::pin(async move { answered.await.unwrap_or_default() })
    }
}

impl Handler<WakeOnEnqueue> for Appender {
    type Result = ();

    fn handle(&mut self, WakeOnEnqueue(queue): WakeOnEnqueue, _: &mut Self::Context) {
        self.queue = Some(queue);
    }
}
