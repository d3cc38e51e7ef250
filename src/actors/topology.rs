//! Which actors a node has, who knows whom, how they start and how they stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, Utc};
use tokio::runtime;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::appender::{Appender, Flush, WakeOnEnqueue};
use super::attempt::Bench;
use super::broadcast::Broadcast;
use super::builder::{Builder, RunErrands};
use super::builds::{self, Builds};
use super::custody::Custody;
use super::dependents::{self, Dependents};
use super::dlq::Dlq;
use super::fleet::Fleet;
use super::intake::{Doors, Intake};
use super::job_types::JobTypes;
use super::journal::Journal;
use super::ledger::Ledger;
use super::live_output::LiveOutput;
use super::queue::{Drain, GetStats, LookForCancels, Queue, ReleaseAll, Slots, Wake};
use super::reaper::{Reaper, Round};
use super::retention::{self, Retention};
use super::root::{Root, Watch};
use super::schedules::{self, ReadSubmission, Schedules};
use super::sealer::{self, SealAll, Sealer};
use super::slot::Slot;
use super::vault::Vault;
use super::waiters::Waiters;
use super::writes::Writes;
use crate::clock::{Clock, FollowingClock};
use crate::config::Config;
use crate::domain::{GpuDevices, GpuRequest, GpuVendor, NodeDraining, NodeStarted, NodeStopped};
use crate::egress::Network;
use crate::engine::Engine;
use crate::engine::pool::Pool;
use crate::store;
use crate::store::audit::SigningKey;

/// How long each step after the grace may take.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// Whence a node is made.
pub struct Parts {
    pub node_id: Uuid,
    pub config: Arc<Config>,
    pub store: store::Store,
    pub pool: Arc<Pool>,
    /// Follows the database's time from the first contact on.
    pub clock: Arc<FollowingClock>,
    /// Signs the log's seals.
    pub signing_key: Option<SigningKey>,
    /// Seals the tenants' secrets; without it there are none.
    pub secret_key: Option<store::VaultKey>,
    /// What jobs with a network reach.
    pub network: Arc<dyn Network>,
    /// Reads what schedules submit.
    pub read_submission: ReadSubmission,
    /// The one multi-thread runtime on which the database and the engine are spoken to.
    pub io: runtime::Handle,
}

/// A running node: what its API speaks to.
#[derive(Clone)]
pub struct Node {
    pub node_id: Uuid,
    pub intake: Addr<Intake>,
    pub queue: Addr<Queue>,
    pub builder: Addr<Builder>,
    pub builds: Arc<Builds>,
    pub dlq: Addr<Dlq>,
    pub vault: Addr<Vault>,
    pub schedules: Addr<Schedules>,
    pub retention: Addr<Retention>,
    pub waiters: Arc<Waiters>,
    pub live_output: Arc<LiveOutput>,
    /// How many nodes there are, as of the last heartbeat.
    pub fleet: Arc<Fleet>,
    /// Whether the database takes writes.
    pub writes: Arc<Writes>,
    pub job_types: Arc<JobTypes>,
    pub pool: Arc<Pool>,
    broadcasting: tokio::task::AbortHandle,
    appender: Addr<Appender>,
    sealer: Addr<Sealer>,
    root: Addr<Root>,
    store: store::Store,
    io: runtime::Handle,
    tasks: TaskTracker,
    journal: Journal,
}

impl Node {
    /// Starts every actor on the present arbiter. The node is registered, and jobs may run,
    /// when this returns.
    ///
    /// # Errors
    /// [`store::Error`] when the node cannot be registered; then no job was claimed.
    pub async fn start(parts: Parts) -> Result<Self, store::Error> {
        let Parts { node_id, config, store, pool, clock, signing_key, secret_key, network, read_submission, io } =
            parts;
        let role = config.role;
        let slots = if role.works() { config.max_workers } else { 0 };
        let advert = advert(&config, pool.engine().as_ref());
        let following = clock;
        following.follow(run(&io, join(store.clone(), node_id, slots, Arc::clone(&config), advert)).await?);
        let clock: Arc<dyn Clock> = Arc::clone(&following) as Arc<dyn Clock>;
        let waiters = Arc::<Waiters>::default();
        let live_output = Arc::<LiveOutput>::default();
        let fleet = Arc::<Fleet>::default();
        let writes = Arc::<Writes>::default();
        let job_types = {
            let opened = JobTypes::open(Arc::clone(&config), store.clone(), Arc::clone(pool.engine()));
            Arc::new(run(&io, opened).await?)
        };
        let tasks = TaskTracker::new();

        let appender = Appender::new(store.clone(), io.clone(), Arc::clone(&waiters), Arc::clone(&writes)).start();
        let ledger =
            |part: &str| Ledger::new(appender.clone(), store.clone(), Arc::clone(&clock), &format!("{part}@{node_id}"));
        let journal = Journal::new(node_id, appender.clone(), Arc::clone(&clock));
        journal
            .write(NodeStarted {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                slots,
                engine: pool.engine().kind().as_str().to_owned(),
                runtime: pool.engine().runtime().to_owned(),
            })
            .await;
        let builder = Builder::new(
            builds::Parts {
                node_id,
                config: Arc::clone(&config),
                job_types: Arc::clone(&job_types),
                engine: Arc::clone(pool.engine()),
                store: store.clone(),
                journal: journal.clone(),
                clock: Arc::clone(&clock),
                io: io.clone(),
            },
            Arc::clone(&pool),
        );
        let builds = builder.builds();
        let builder = builder.start();
        let queue = Queue::new(store.clone(), Arc::clone(pool.engine()), io.clone(), node_id, &config.queue).start();
        let custody = Custody::new(store.clone(), secret_key);
        let vault = Vault::new(custody.clone(), journal.clone(), io.clone()).start();
        let bench = Bench {
            custody: custody.clone(),
            network,
            node_id,
            ledger: ledger("slot"),
            store: store.clone(),
            pool: Arc::clone(&pool),
            builder: builder.clone(),
            job_types: Arc::clone(&job_types),
            live: Arc::clone(&live_output),
            clock: Arc::clone(&clock),
            hung_after: config.leases.hung_after,
            retry: config.retry.policy(),
        };
        let slots: Vec<_> = (0..slots)
            .map(|number| Slot::new(number, bench.clone(), queue.clone(), io.clone(), tasks.clone()).start())
            .collect();
        let doors = Doors {
            custody,
            config: Arc::clone(&config),
            job_types: Arc::clone(&job_types),
            ledger: ledger("intake"),
            store: store.clone(),
        };
        let intake = Intake::new(doors, queue.clone(), io.clone()).start();
        let dlq = Dlq::new(ledger("dlq"), store.clone(), intake.clone(), io.clone()).start();
        let poll_interval = config.queue.poll_interval;
        let dependents = Dependents::new(ledger("dependents"), store.clone(), poll_interval, io.clone()).start();
        let desk = schedules::Desk {
            node_id,
            store: store.clone(),
            intake: intake.clone(),
            clock: Arc::clone(&clock),
            config: Arc::clone(&config),
            read: read_submission,
        };
        let schedules = Schedules::new(desk, io.clone()).start();
        let round = Round {
            node_id,
            ledger: ledger("reaper"),
            store: store.clone(),
            pool: Arc::clone(&pool),
            clock: following,
            dead_after: config.leases.dead_after,
            queue: queue.clone(),
            builds: Arc::clone(&builds),
            fleet: Arc::clone(&fleet),
            writes: Arc::clone(&writes),
        };
        let reaper = Reaper::new(round, config.leases.heartbeat, io.clone()).start();
        let round = sealer::Round {
            store: store.clone(),
            clock: Arc::clone(&clock),
            key: signing_key.map(Arc::new),
            config: config.audit.clone(),
        };
        let sealer = Sealer::new(round, io.clone()).start();
        let round = retention::Round {
            store: store.clone(),
            ledger: ledger("retention"),
            journal: journal.clone(),
            clock: Arc::clone(&clock),
            config: Arc::clone(&config),
        };
        let retention = Retention::new(round, io.clone()).start();
        let root = Root::default().start();

        let watched = [
            Watch::of("appender", &appender),
            Watch::of("intake", &intake),
            Watch::of("queue", &queue),
            Watch::of("builder", &builder),
            Watch::of("dlq", &dlq),
            Watch::of("vault", &vault),
            Watch::of("dependents", &dependents),
            Watch::of("schedules", &schedules),
            Watch::of("reaper", &reaper),
            Watch::of("sealer", &sealer),
            Watch::of("retention", &retention),
        ];
        let watched = watched.into_iter().chain(slots.iter().map(|slot| Watch::of("slot", slot))).collect();
        for told in [
            appender.try_send(WakeOnEnqueue(queue.clone())).is_ok(),
            queue.try_send(Slots(slots)).is_ok(),
            root.try_send(super::root::Guard(watched)).is_ok(),
        ] {
            debug_assert!(told, "a mailbox that was just made has room");
        }
        let broadcast = Broadcast::new(store.clone(), Arc::clone(&live_output));
        let broadcasting = io.spawn(Arc::clone(&broadcast).run());
        let ears = Ears {
            queue: queue.clone(),
            builder: builder.clone(),
            waiters: Arc::clone(&waiters),
            dependents: dependents.clone(),
            broadcast,
        };
        listen(&store, &io, ears);
        Ok(Self {
            node_id,
            intake,
            queue,
            builder,
            builds,
            dlq,
            vault,
            schedules,
            retention,
            waiters,
            live_output,
            fleet,
            writes,
            job_types,
            pool,
            broadcasting: broadcasting.abort_handle(),
            appender,
            sealer,
            root,
            store,
            io,
            tasks,
            journal,
        })
    }

    /// Stops: claims no more, lets running jobs finish within `grace` while heartbeats go on,
    /// gives the rest back to the queue, flushes, removes all sandboxes. A database or an engine that
    /// does not answer prolongs that by no more than a minute: leases and labels tell the others.
    pub async fn shutdown(self, grace: Duration) {
        let running = self.queue.send(Drain).await.unwrap_or_default();
        self.builds.cancel_all();
        tracing::info!(running, grace_s = grace.as_secs(), "draining: no new jobs are claimed");
        let (store, node_id) = (self.store.clone(), self.node_id);
        let told = self.io.spawn(async move { store.set_node_state(node_id, store::NodeState::Draining).await });
        within("tell the others", told).await;
        within("record that it drains", self.journal.write(NodeDraining { running })).await;
        let deadline = Instant::now() + grace;
        while self.running().await > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let released = self.running().await;
        if released > 0 {
            tracing::warn!(released, "jobs that still run are given back to the queue");
            let _ = self.queue.send(ReleaseAll).await;
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.running().await > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.broadcasting.abort();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            tracing::warn!("attempts that do not end are left to their leases");
        }
        within("flush", self.appender.send(Flush)).await;
        within("record that it stops", self.journal.write(NodeStopped { released })).await;
        within("seal the log", self.sealer.send(SealAll)).await;
        let _ = self.root.send(super::root::Guard(Vec::new())).await;
        let (pool, store, node_id) = (Arc::clone(&self.pool), self.store.clone(), self.node_id);
        let end = self.io.spawn(async move {
            within("destroy idle sandboxes", pool.drain()).await;
            pool.engine().shutdown().await;
            let signed_off = async {
                if let Err(error) = store.set_node_state(node_id, store::NodeState::Stopped).await {
                    tracing::warn!(error = %error, "the node could not be signed off");
                }
            };
            within("sign off", signed_off).await;
        });
        if let Err(lost) = end.await {
            tracing::error!(error = %lost, "the engine's end was lost");
        }
        tracing::info!("stopped");
    }

    async fn running(&self) -> u32 {
        self.queue.send(GetStats).await.map(|stats| stats.running).unwrap_or_default()
    }
}

/// A step of the end, which is given up when it takes too long.
async fn within<T>(what: &'static str, step: impl Future<Output = T>) {
    if tokio::time::timeout(STEP_LIMIT, step).await.is_err() {
        tracing::warn!(step = what, "given up: no answer within {STEP_LIMIT:?}");
    }
}

/// What claims go by, as this node is configured; the node that started last decides.
fn claim_settings(config: &Config) -> store::ClaimSettings {
    store::ClaimSettings {
        ageing: config.queue.ageing,
        warm_grace: config.queue.warm_grace,
        dead_after: config.leases.dead_after,
        tenant_limit: config.concurrency.default_tenant,
        tenant_limits: config.concurrency.tenants.clone(),
    }
}

fn advert(config: &Config, engine: &dyn Engine) -> store::Advert {
    let gives = |vendor: &GpuVendor| {
        let one = GpuRequest { vendor: *vendor, devices: GpuDevices::Count(1) };
        engine.gpu_refusal(&one).is_none()
    };
    let gpus = [GpuVendor::Nvidia, GpuVendor::Amd].into_iter().filter(gives);
    store::Advert {
        engine: engine.kind().as_str().to_owned(),
        runtime: engine.runtime().to_owned(),
        labels: config.node.labels.clone(),
        gpus: gpus.map(|vendor| vendor.as_str().to_owned()).collect(),
    }
}

/// Makes the node known, unless it would put large blobs where the other nodes do not find them; answers with
/// the database's time.
async fn join(
    store: store::Store,
    node_id: Uuid,
    slots: u32,
    config: Arc<Config>,
    advert: store::Advert,
) -> Result<DateTime<Utc>, store::Error> {
    let place = store.objects().name().map(str::to_owned);
    if let Some(place) = &place {
        agree_on_place(&store, place, config.leases.dead_after).await?;
    }
    store.put_claim_settings(&claim_settings(&config)).await?;
    store.register_node(node_id, slots, env!("CARGO_PKG_VERSION")).await?;
    store.describe_node(node_id, config.role.as_str(), place.as_deref()).await?;
    store.advertise(node_id, &advert).await?;
    store.heartbeat(node_id).await
}

/// Sees to it that no other node that lives puts large blobs elsewhere. One that died just now, as in the
/// backup that a database was restored from, is not known to be dead yet, and is waited for.
async fn agree_on_place(store: &store::Store, place: &str, dead_after: Duration) -> Result<(), store::Error> {
    const BETWEEN: Duration = Duration::from_millis(250);
    let began = Instant::now();
    while let Some((other, theirs)) = store.other_blob_place(place, dead_after).await? {
        if began.elapsed() > dead_after + BETWEEN * 2 {
            let reason = format!(
                "node {other} puts them into {theirs}, and each must find those of the other; \
                 give blobs.store, blobs.folder and blobs.s3 the same values on all nodes (postgres always works)"
            );
            return Err(store::Error::ObjectPlace { place: place.to_owned(), reason });
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(())
}

/// Who is told of what other nodes say.
struct Ears {
    queue: Addr<Queue>,
    builder: Addr<Builder>,
    waiters: Arc<Waiters>,
    dependents: Addr<Dependents>,
    broadcast: Arc<Broadcast>,
}

/// Passes on what other nodes say through the database.
fn listen(store: &store::Store, io: &runtime::Handle, ears: Ears) {
    let (store, Ears { queue, builder, waiters, dependents, broadcast }) = (store.clone(), ears);
    io.spawn(async move {
        let mut listener = store.listener();
        while queue.connected() {
            let wake_up = listener.next().await;
            if wake_up.watch {
                broadcast.look();
            }
            if wake_up.build {
                let _ = builder.try_send(RunErrands);
            }
            // What this node appended, its appender has told already.
            let is_news = wake_up.node != store.node();
            if wake_up.queue && is_news {
                let _ = queue.try_send(Wake);
            }
            if wake_up.cancel {
                let _ = queue.try_send(LookForCancels);
            }
            if wake_up.dependents {
                let _ = dependents.try_send(dependents::Look);
            }
            if wake_up.ended && is_news {
                let awaited = waiters.awaited();
                if awaited.is_empty() {
                    continue;
                }
                match store.ended(&awaited).await {
                    Ok(ended) => ended.into_iter().for_each(|id| waiters.wake(id)),
                    Err(error) => tracing::warn!(error = %error, "ended jobs could not be looked for"),
                }
            }
        }
    });
}

async fn run<T: Send + 'static>(
    io: &runtime::Handle,
    task: impl Future<Output = Result<T, store::Error>> + Send + 'static,
) -> Result<T, store::Error> {
    match io.spawn(task).await {
        Ok(answer) => answer,
        Err(lost) => std::panic::resume_unwind(lost.into_panic()),
    }
}
