//! `tako-vm projections`

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::Context;
use super::server::open_store;

/// How many repaired executions are named.
const NAMED: usize = 20;

/// Look after what is derived from the event log
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fold every stream again, and replace each row that is not the fold of its events
    ///
    /// Servers may run meanwhile. The exit code is 0 when nothing differed, 1 when something did
    /// (it is repaired then).
    Rebuild,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let Action::Rebuild = args.action;
    let config = context.load()?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rebuilt = runtime.block_on(async {
        let store = open_store(&config, "").await?;
        anyhow::Ok(store.rebuild_projections().await?)
    })?;
    let rate = rebuilt.events as f64 / rebuilt.took.as_secs_f64().max(f64::EPSILON);
    writeln!(
        context.out,
        "folded {} events of {} executions in {:.1} s ({rate:.0} events/s)",
        rebuilt.events,
        rebuilt.executions,
        rebuilt.took.as_secs_f64()
    )?;
    if rebuilt.repaired.is_empty() {
        writeln!(context.out, "every row was the fold of its events")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(context.out, "{} rows differed and are repaired:", rebuilt.repaired.len())?;
    for execution_id in rebuilt.repaired.iter().take(NAMED) {
        writeln!(context.out, "  {execution_id}")?;
    }
    if rebuilt.repaired.len() > NAMED {
        writeln!(context.out, "  and {} more", rebuilt.repaired.len() - NAMED)?;
    }
    Ok(ExitCode::FAILURE)
}
