//! `tako-vm projections`

use std::process::ExitCode;

use anyhow::Result;
use chrono::SecondsFormat;
use clap::Subcommand;

use super::Context;
use super::progress_line::ProgressLine;
use super::server::open_store;
use crate::store::{BuildingVersion, Compared, Projections, Rebuilding, Rebuilt};

/// How many differing executions are named.
const NAMED: usize = 20;

/// Look after what is derived from the event log
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make every row anew from the log, compare with the rows in use, and take their place
    ///
    /// Servers may run meanwhile; appends wait for a moment at most. The exit code is 0 when nothing
    /// differed, 1 when something did (it is right then).
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
                let progress = |step| match step {
                    Rebuilding::Folding(events) => line.show(events, of.max(events)),
                    Rebuilding::Indexing => line.say("making indexes"),
                    Rebuilding::Comparing => line.say("comparing both versions"),
                    Rebuilding::Swapping => line.say("taking the new version into use"),
                };
                anyhow::Ok(store.rebuild_projections(&progress).await?)
            })?;
            line.clear();
            tell(&rebuilt, context)
        }
        Action::Status => {
            let counted =
                runtime.block_on(async { anyhow::Ok(open_store(&config, "").await?.projections().await?) })?;
            status(&counted, context)
        }
    }
}

fn status(counted: &Projections, context: &mut Context) -> Result<ExitCode> {
    let Projections { newest, sealed, executions, endings, queued, dead_letters, astray, .. } = counted;
    writeln!(
        context.out,
        "log          {newest} events; sealed through position {sealed}, {} to seal",
        newest - sealed
    )?;
    writeln!(
        context.out,
        "checkpoint   position {newest}, lag 0: rows are written in the transaction of their events"
    )?;
    let since = counted.live_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let found = match counted.differing {
        None => String::new(),
        Some(0) => "; the one before was the fold of the log".into(),
        Some(differing) => format!("; the one before differed from the log in {differing} executions"),
    };
    writeln!(context.out, "version      {}, in use since {since}{found}", counted.version)?;
    if let Some(BuildingVersion { version, started_at, checkpoint, is_worked_on }) = &counted.building {
        let started = started_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let state = match is_worked_on {
            true => format!("in the making, checkpoint {checkpoint}, lag {}", newest - checkpoint),
            false => "never finished: its program died, and the next rebuild removes it".into(),
        };
        writeln!(context.out, "             {version}, begun {started}, {state}")?;
    }
    writeln!(context.out, "tables       of migration {}", counted.migration)?;
    writeln!(context.out, "executions   {executions} rows, {endings} ended")?;
    writeln!(context.out, "queue        {queued} rows")?;
    writeln!(context.out, "dead letters {dead_letters} rows")?;
    if *astray > 0 {
        writeln!(context.out, "{astray} executions have not ended and are not in the queue; try a rebuild")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(rebuilt: &Rebuilt, context: &mut Context) -> Result<ExitCode> {
    let rate = rebuilt.events as f64 / rebuilt.took.as_secs_f64().max(f64::EPSILON);
    writeln!(
        context.out,
        "folded {} events of {} executions in {:.1} s ({rate:.0} events/s)",
        rebuilt.events,
        rebuilt.executions(),
        rebuilt.took.as_secs_f64()
    )?;
    writeln!(context.out, "at position {}:", rebuilt.position)?;
    for Compared { table, live, rebuilt } in &rebuilt.tables {
        writeln!(
            context.out,
            "  {table:<12}  in use: {} rows, digest {:016x}   rebuilt: {} rows, digest {:016x}   {}",
            live.rows,
            live.digest,
            rebuilt.rows,
            rebuilt.digest,
            if live == rebuilt { "same" } else { "DIFFERENT" }
        )?;
    }
    writeln!(context.out, "version {} is in use", rebuilt.version)?;
    if rebuilt.differing == 0 {
        writeln!(context.out, "every row was the fold of its events")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(context.out, "{} executions had rows that were not the fold of their events:", rebuilt.differing)?;
    let named = rebuilt.first_differing.iter().take(NAMED);
    for execution_id in named.clone() {
        writeln!(context.out, "  {execution_id}")?;
    }
    if rebuilt.differing > named.len() as u64 {
        writeln!(context.out, "  and {} more", rebuilt.differing - named.len() as u64)?;
    }
    Ok(ExitCode::FAILURE)
}
