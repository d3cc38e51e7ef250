//! `tako-vm projections`

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::Context;
use super::progress_line::ProgressLine;
use super::server::open_store;
use crate::store::{Projections, Rebuilt};

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
    /// Show how far what is derived from the log is, and how large
    Status,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.action {
        Action::Rebuild => {
            let line = ProgressLine::new("folding");
            let rebuilt = runtime.block_on(async {
                let store = open_store(&config, "").await?;
                let of = store.last_position().await?.unsigned_abs();
                anyhow::Ok(store.rebuild_projections(&|events| line.show(events, of)).await?)
            })?;
            line.clear();
            tell(rebuilt, context)
        }
        Action::Status => {
            let counted =
                runtime.block_on(async { anyhow::Ok(open_store(&config, "").await?.projections().await?) })?;
            status(counted, context)
        }
    }
}

fn status(counted: Projections, context: &mut Context) -> Result<ExitCode> {
    let Projections { newest, sealed, executions, endings, queued, dead_letters, astray, version } = counted;
    writeln!(
        context.out,
        "log          {newest} events; sealed through position {sealed}, {} to seal",
        newest - sealed
    )?;
    writeln!(
        context.out,
        "checkpoint   position {newest}, lag 0: rows are written in the transaction of their events"
    )?;
    writeln!(context.out, "version      {version} (the newest migration)")?;
    writeln!(context.out, "executions   {executions} rows, {endings} ended")?;
    writeln!(context.out, "queue        {queued} rows")?;
    writeln!(context.out, "dead letters {dead_letters} rows")?;
    if astray > 0 {
        writeln!(context.out, "{astray} executions have not ended and are not in the queue; try a rebuild")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(rebuilt: Rebuilt, context: &mut Context) -> Result<ExitCode> {
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
