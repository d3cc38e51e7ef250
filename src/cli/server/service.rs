//! A node with its API: everything that runs when the server runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::{blob_places, key_file, secret_key};
use super::engine::Chosen;
use super::health::CachedProbe;
use crate::actors::topology::{Node, Parts};
use crate::api;
use crate::clock::{Clock as _, FollowingClock, SystemClock};
use crate::config::Config;
use crate::egress::{Network, SystemNetwork};
use crate::engine::SandboxLabels;
use crate::engine::pool::Pool;
use crate::store;
use crate::store::audit::Trust;

/// A running server. It must be stopped, not dropped.
pub struct Service {
    node: Node,
    api: actix_web::dev::ServerHandle,
    stopping: CancellationToken,
    address: SocketAddr,
}

/// How to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// How long running jobs may go on.
    pub grace: Duration,
}

impl Service {
    /// Starts a node and answers requests. The store must speak for `node_id`. Call it inside an actix system; `io` must be a
    /// multi-thread runtime that outlives the service.
    ///
    /// # Errors
    /// What keeps the node from being registered or the server from listening.
    pub async fn start(
        node_id: Uuid,
        config: Arc<Config>,
        store: store::Store,
        chosen: Chosen,
        io: runtime::Handle,
        listener: TcpListener,
    ) -> Result<Self> {
        Self::start_in(Arc::new(SystemNetwork), node_id, config, store, chosen, io, listener).await
    }

    /// The same, with jobs that reach another network than this host's.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn start_in(
        network: Arc<dyn Network>,
        node_id: Uuid,
        config: Arc<Config>,
        store: store::Store,
        chosen: Chosen,
        io: runtime::Handle,
        listener: TcpListener,
    ) -> Result<Self> {
        let objects = Arc::new(blob_places::open(&config, true)?);
        let store = store.with_privacy(key_file::privacy(&config)?).with_objects(objects, config.blobs.inline);
        let installation = {
            let store = store.clone();
            io.spawn(async move { store.installation().await }).await??
        };
        let labels = SandboxLabels { installation, node_id: node_id.to_string(), execution_id: None, lease: None };
        let pool = Pool::new(chosen.engine(), labels);
        let clock = Arc::new(FollowingClock::at(SystemClock.now()));
        let signing_key = key_file::load_or_make(&config)?;
        if signing_key.is_none() {
            tracing::warn!("the log's seals are not signed: there is no key");
        }
        let trust = Trust { keys: key_file::trusted(&config)?, ..Trust::default() };
        let node = Node::start(Parts {
            node_id,
            config: Arc::clone(&config),
            store: store.clone(),
            pool: Arc::clone(&pool),
            clock,
            signing_key,
            secret_key: secret_key::load(&config)?,
            network,
            read_submission: api::schedules::read_submission,
            io: io.clone(),
        })
        .await?;
        let address = listener.local_addr()?;
        let stopping = CancellationToken::new();
        let app = api::App {
            node_id,
            config: Arc::clone(&config),
            store,
            io: io.clone(),
            intake: node.intake.clone(),
            queue: node.queue.clone(),
            dlq: node.dlq.clone(),
            vault: node.vault.clone(),
            schedules: node.schedules.clone(),
            retention: node.retention.clone(),
            builder: node.builder.clone(),
            builds: Arc::clone(&node.builds),
            waiters: Arc::clone(&node.waiters),
            live_output: Arc::clone(&node.live_output),
            fleet: Arc::clone(&node.fleet),
            writes: Arc::clone(&node.writes),
            job_types: Arc::clone(&node.job_types),
            health: Arc::new(CachedProbe::new(chosen, pool, io)),
            audit: Arc::new(api::audit::Desk::new(trust)),
            stopping: stopping.clone(),
        };
        let server = api::serve(actix_web::web::Data::new(app), listener, config.server.http_workers as usize)
            .context("cannot answer HTTP")?;
        let api = server.handle();
        actix::spawn(server);
        Ok(Self { node, api, stopping, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn node_id(&self) -> Uuid {
        self.node.node_id
    }

    /// Drains the node, then the API: until the end a client can ask how its job went.
    pub async fn stop(self, stop: Stop) {
        self.node.shutdown(stop.grace).await;
        self.stopping.cancel();
        self.api.stop(true).await;
    }
}
