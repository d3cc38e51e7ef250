//! `tako-vm dev`: a private PostgreSQL, and the server on it, for development.

mod binaries;
pub mod cluster;
mod initialize;
mod owner;
mod place;
mod postmaster;
mod server;
mod start;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

pub use binaries::Binaries;
pub use cluster::Cluster;
pub use postmaster::Postmaster;

use self::cluster::{DATABASE, State};
use super::Context;
use crate::config::{Config, DatabaseUrl};

/// Start, stop or show a private PostgreSQL for development
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make and start it; quick when it runs already
    Up {
        /// Start the server too, in the background
        #[arg(long)]
        with_server: bool,
        /// The server's port instead of the configured one; 0 takes a free one
        #[arg(long, requires = "with_server")]
        port: Option<u16>,
    },
    /// Stop it, and the server that `up` started
    Down {
        /// Delete its data too
        #[arg(long)]
        destroy: bool,
    },
    /// Show whether it runs, and where
    Status {
        /// Print nothing but the database URL, with its password, for scripts
        #[arg(long)]
        url: bool,
    },
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    match args.action {
        Action::Up { with_server, port } => up(&config, with_server.then_some(port), context),
        Action::Down { destroy } => down(&config, destroy, context.out),
        Action::Status { url } => status(&config, url, context.out),
    }
}

/// The database to use: the configured one, else the development cluster, started if need be.
pub fn database_url(config: &Config) -> Result<DatabaseUrl> {
    if !config.database_url.is_empty() {
        return Ok(config.database_url.clone());
    }
    Ok(Cluster::up(&folder(config))?.url(DATABASE))
}

/// Whether this process is root.
pub(super) fn is_root() -> bool {
    owner::effective_uid() == 0
}

/// Where a client finds the server: the one that `dev up` started, else the configured address.
pub fn server_url(config: &Config) -> String {
    match server::running(config) {
        Some(server) => server.url,
        None => server::url_of(config.server.host.0, config.server.port),
    }
}

/// Where the development cluster is asked for.
fn folder(config: &Config) -> PathBuf {
    config.data_dir.join("pg")
}

/// `server` is absent for the database alone, else the port asked for.
fn up(config: &Config, server: Option<Option<u16>>, context: &mut Context) -> Result<ExitCode> {
    let began = Instant::now();
    let asked = folder(config);
    let place = cluster::place(&asked)?;
    if place != asked {
        writeln!(
            context.out,
            "{} cannot be entered by the database's user; using {}",
            asked.display(),
            place.display()
        )?;
    }
    if Cluster::state(&asked)? == State::Absent {
        writeln!(context.out, "making a PostgreSQL cluster in {}", place.display())?;
        context.out.flush()?;
    }
    let cluster = Cluster::up(&asked)?;
    let elapsed = began.elapsed().as_millis();
    writeln!(context.out, "PostgreSQL runs: {} ({elapsed} ms)", cluster.url(DATABASE))?;
    if let Some(port) = server {
        context.out.flush()?;
        let began = Instant::now();
        let url = server::up(config, context.sources.file.as_deref(), port)?;
        writeln!(context.out, "the server runs: {url} ({} ms)", began.elapsed().as_millis())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn down(config: &Config, destroy: bool, out: &mut dyn Write) -> Result<ExitCode> {
    // Nothing is said before all is done: who reads may be gone, and that must not keep
    // anything running.
    let began = Instant::now();
    let had_server = server::down(config)?;
    let server_ms = began.elapsed().as_millis();
    let began = Instant::now();
    let before = Cluster::down(&folder(config), destroy)?;
    let elapsed = began.elapsed().as_millis();
    if had_server {
        writeln!(out, "the server is stopped ({server_ms} ms)")?;
    }
    match (before, destroy) {
        (State::Absent, _) => writeln!(out, "there is no PostgreSQL cluster")?,
        (State::Stopped, false) => writeln!(out, "PostgreSQL does not run")?,
        (State::Running(_), false) => writeln!(out, "PostgreSQL is stopped ({elapsed} ms)")?,
        (_, true) => writeln!(out, "PostgreSQL is stopped and its data deleted ({elapsed} ms)")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn status(config: &Config, url: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let asked = folder(config);
    let State::Running(_) = Cluster::state(&asked)? else {
        let place = cluster::place(&asked)?;
        anyhow::bail!("PostgreSQL does not run in {}; start it with `tako-vm dev up`", place.display());
    };
    let cluster = Cluster::up(&asked)?;
    if url {
        writeln!(out, "{}", cluster.url(DATABASE).expose())?;
        return Ok(ExitCode::SUCCESS);
    }
    let binaries = cluster.binaries()?;
    writeln!(out, "PostgreSQL  {} in {}", binaries.version, binaries.folder.display())?;
    writeln!(out, "process     {}", cluster.postmaster().pid)?;
    writeln!(out, "data        {}", cluster.folder().display())?;
    writeln!(out, "url         {}", cluster.url(DATABASE))?;
    match server::running(config) {
        Some(server) => writeln!(out, "server      {} (process {})", server.url, server.pid)?,
        None => writeln!(out, "server      does not run")?,
    }
    Ok(ExitCode::SUCCESS)
}
