//! `tako-vm setup`

mod docker;
mod native;

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use super::dev::Binaries;
use super::dev::cluster::{Cluster, State};
use crate::config::{Config, EngineChoice, SecurityMode};

/// Check what this machine has for running jobs, and say what to do about the rest
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// What was looked for: what was found, or what to do about its absence.
struct Finding {
    name: &'static str,
    found: Result<String, String>,
}

pub(super) fn run(_: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    let docker = Finding { name: "docker", found: docker::look(&config.docker.host) };
    let native = Finding { name: "native", found: native::look(&config.native.python) };
    let gvisor = Finding { name: "gvisor", found: docker::look_for_gvisor(&config.docker.host) };
    let database = Finding { name: "postgresql", found: look_for_database(&config) };

    let is_isolated = match config.security_mode {
        SecurityMode::Strict => gvisor.found.is_ok(),
        SecurityMode::Permissive => true,
    };
    let has_engine = match config.engine {
        EngineChoice::Auto => docker.found.is_ok() || native.found.is_ok(),
        EngineChoice::Docker => docker.found.is_ok(),
        EngineChoice::Native => native.found.is_ok(),
    };
    let has_database = database.found.is_ok();
    for Finding { name, found } in [docker, gvisor, native, database] {
        match found {
            Ok(found) => writeln!(context.out, "yes  {name:<11} {found}")?,
            Err(advice) => writeln!(context.out, "no   {name:<11} {advice}")?,
        }
    }
    match (has_engine && is_isolated, has_database) {
        (true, true) => {
            writeln!(context.out, "ready: `tako-vm dev up --with-server` starts the server")?;
            return Ok(ExitCode::SUCCESS);
        }
        (false, _) if !is_isolated => {
            writeln!(context.out, "not ready: security_mode is strict, and there is no gVisor")?;
        }
        (false, _) => writeln!(context.out, "not ready: no engine can run a job here")?,
        (true, false) => writeln!(context.out, "not ready: there is no database")?,
    }
    Ok(ExitCode::from(1))
}

fn look_for_database(config: &Config) -> Result<String, String> {
    if !config.database_url.is_empty() {
        return Ok(format!("configured: {}", config.database_url));
    }
    let binaries = Binaries::find(None).map_err(|error| error.to_string())?;
    let state = match Cluster::state(&config.data_dir.join("pg")) {
        Ok(State::Running(postmaster)) => format!("runs on port {}", postmaster.port),
        Ok(State::Stopped) => "is stopped; start it with `tako-vm dev up`".to_owned(),
        Ok(State::Absent) => "is not made yet; make it with `tako-vm dev up`".to_owned(),
        Err(error) => return Err(format!("{error:#}")),
    };
    Ok(format!("programs {} in {}; the development cluster {state}", binaries.version, binaries.folder.display()))
}
