//! `tako-vm server`

mod engine;
mod health;
mod service;

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

pub use engine::{Chosen, choose};
pub use service::{Service, Stop};

use super::{Context, dev};
use crate::config::{Config, Host, Role};
use crate::{crash_point, store, telemetry};

/// Answer REST requests and run jobs, until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on, instead of server.host
    #[arg(long)]
    host: Option<Host>,
    /// Port to listen on, instead of server.port; 0 takes a free one
    #[arg(long)]
    port: Option<u16>,
    /// What this node is for, instead of role: api answers requests, worker runs jobs, all does both
    #[arg(long)]
    role: Option<Role>,
    /// Write the address to this file once requests are answered
    #[arg(long, value_name = "FILE")]
    address_file: Option<std::path::PathBuf>,
}

/// How many connections the server keeps to the database.
const DATABASE_CONNECTIONS: u32 = 16;

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let mut config = context.load()?.config;
    if let Some(host) = args.host {
        config.server.host = host;
    }
    if let Some(port) = args.port {
        config.server.port = port;
    }
    if let Some(role) = args.role {
        config.role = role;
    }
    config.check_bind(config.server.host.0)?;
    crash_point::check().map_err(anyhow::Error::msg)?;
    telemetry::start(&config.log)?;
    // Before anything slow: a port that is taken is told at once.
    let address = (config.server.host.0, config.server.port);
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {}:{}", address.0, address.1))?;
    let io = runtime::Builder::new_multi_thread().enable_all().thread_name("io").build()?;
    let code = serve(config, listener, args.address_file.as_deref(), io.handle().clone());
    io.shutdown_timeout(Duration::from_secs(5));
    code
}

fn serve(
    config: Config,
    listener: TcpListener,
    address_file: Option<&std::path::Path>,
    io: runtime::Handle,
) -> Result<ExitCode> {
    let config = Arc::new(config);
    let grace = config.server.shutdown_grace;
    let node_id = Uuid::now_v7();
    let (store, chosen) = io.block_on(async {
        let store = open_store(&config, &node_id.to_string()).await?;
        anyhow::Ok((store, choose(&config).await?))
    })?;
    let system = actix::System::new();
    let stopped = system.block_on(async move {
        // Listened for from now on, so that a stop in the middle of the start is a stop.
        let mut signals = Signals::new()?;
        let service = Service::start(node_id, config, store, chosen, io, listener).await?;
        tracing::info!(address = %service.address(), node_id = %service.node_id(), "answering requests");
        if let Some(file) = address_file {
            std::fs::write(file, service.address().to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
        tokio::select! {
            () = service.stop(Stop { grace }) => {}
            again = signals.next() => tracing::warn!(signal = again, "stopping at once"),
        }
        anyhow::Ok(())
    });
    stopped?;
    Ok(ExitCode::SUCCESS)
}

/// The configured database, or the development cluster, with this program's tables, as the
/// speaker `node`.
pub(super) async fn open_store(config: &Config, node: &str) -> Result<store::Store> {
    let url = tokio::task::spawn_blocking({
        let config = config.clone();
        move || dev::database_url(&config)
    })
    .await??;
    let mut options = store::Options::new(url.expose());
    options.max_connections = DATABASE_CONNECTIONS;
    options.node = node.to_owned();
    let migrations = store::migrate(&options).await.context("cannot prepare the database")?;
    if migrations > 0 {
        tracing::info!(migrations, "the database's tables are made");
    }
    let objects = Arc::new(super::blob_places::open(config, false)?);
    let store = store::Store::connect(&options).await?.with_privacy(super::key_file::privacy(config)?);
    Ok(store.with_objects(objects, config.blobs.inline))
}

/// The signals that stop the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
