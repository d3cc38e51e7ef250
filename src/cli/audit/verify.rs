//! `tako-vm audit verify`

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::super::Context;
use super::super::progress_line::ProgressLine;
use super::super::server::open_store;
use super::trust::{Trusted, read_seals};
use crate::store::audit::{Progress, Trust, Verification, Verified, verify_archives};

/// Faults that are listed.
const NAMED: usize = 20;

/// Check every event, chain and seal, straight from the database
///
/// Recomputes each event's hash from its stored bytes, follows each stream, and holds all against
/// the seals and their signatures. The exit code is 0 when nothing is wrong, 1 when something is.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// What `audit anchor` or `audit export` wrote earlier: the log must still have those seals
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Begin behind this seal
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    since_seal: i64,
    /// Check that each execution's row is the fold of its events, too; one that is not is repaired
    #[arg(long)]
    projections: bool,
    /// Check an archive that `audit export --events` wrote, instead of a database: offline, with nothing but
    /// the file and the public keys. May be repeated, for archives of one log in their order; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["since_seal", "projections"])]
    archive: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let mut trust = args.trusted.or_configured(context)?;
    for path in &args.against {
        trust.anchors.extend(read_seals(path)?);
    }
    let anchors = trust.anchors.len();
    let trusted = trust.keys.len();
    if !args.archive.is_empty() {
        return verify_offline(&args, &trust, context);
    }
    let config = context.load()?.config;
    let verification = Verification { trust, since_seal: args.since_seal, ..Verification::default() };
    let line = ProgressLine::new("verifying");
    let (verified, end, repaired) = super::runtime()?.block_on(async {
        let store = open_store(&config, "").await?;
        let verified = store.verify_log(&verification, &|Progress { events, of }| line.show(events, of)).await?;
        line.clear();
        let repaired = match args.projections {
            true => Some(store.rebuild_projections(&|_| {}).await?.differing),
            false => None,
        };
        anyhow::Ok((verified, store.seal_end().await?, repaired))
    })?;
    let holds = verified.holds() && repaired.is_none_or(|repaired| repaired == 0);
    let code = if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        let mut answer = answer(&verified, holds);
        answer["projections_repaired"] = json!(repaired);
        writeln!(context.out, "{answer:#}")?;
        return Ok(code);
    }
    tell(context, &verified, trusted)?;
    if anchors == 0 {
        writeln!(context.out, "a tail that was cut off with its seals is only found --against a seal kept elsewhere")?;
    }
    if end.unsealed() > 0 {
        writeln!(context.out, "not sealed yet: {} events behind position {}", end.unsealed(), end.sealed)?;
    }
    if let Some(repaired) = repaired {
        writeln!(context.out, "projections: {repaired} executions had rows that were not the fold of their events")?;
    }
    writeln!(context.out, "{}", if holds { "OK" } else { "NOT OK" })?;
    Ok(code)
}

/// Archives alone: neither the database nor a server is asked.
fn verify_offline(args: &Args, trust: &Trust, context: &mut Context) -> Result<ExitCode> {
    let line = ProgressLine::new("verifying");
    let mut archives: Vec<Box<dyn BufRead>> = Vec::new();
    for path in &args.archive {
        archives.push(match path.as_os_str() == "-" {
            true => Box::new(std::io::stdin().lock()),
            false => {
                let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                Box::new(BufReader::with_capacity(1 << 20, file))
            }
        });
    }
    let verified = verify_archives(archives, trust, &|Progress { events, of }| line.show(events, of));
    let verified = verified.context("cannot read the archive")?;
    line.clear();
    let holds = verified.holds();
    let code = if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        writeln!(context.out, "{:#}", answer(&verified, holds))?;
        return Ok(code);
    }
    tell(context, &verified, trust.keys.len())?;
    if verified.first_position > 1 {
        writeln!(context.out, "the log before position {} is not in it", verified.first_position)?;
    }
    writeln!(context.out, "{}", if holds { "OK" } else { "NOT OK" })?;
    Ok(code)
}

fn answer(verified: &Verified, holds: bool) -> serde_json::Value {
    let mut answer = json!(verified);
    answer["ok"] = holds.into();
    answer["first_bad"] = json!(verified.faults.first());
    answer["seconds"] = verified.took.as_secs_f64().into();
    answer
}

fn tell(context: &mut Context, verified: &Verified, trusted: usize) -> Result<()> {
    let seconds = verified.took.as_secs_f64();
    writeln!(
        context.out,
        "verified {} events of {} streams under {} seals ({} signed), positions {} to {}, in {seconds:.1} s \
         ({:.0} events/s)",
        verified.events,
        verified.streams,
        verified.seals,
        verified.signed,
        verified.first_position,
        verified.last_position,
        verified.events as f64 / seconds.max(f64::EPSILON),
    )?;
    if verified.archived > 0 {
        writeln!(
            context.out,
            "not here: the events at {} positions were archived; check the archives",
            verified.archived
        )?;
    }
    for (number, fault) in verified.faults.iter().take(NAMED).enumerate() {
        writeln!(context.out, "{}  {fault}", if number == 0 { "FIRST BAD" } else { "      bad" })?;
    }
    if verified.fault_count > NAMED as u64 {
        writeln!(context.out, "      and {} more", verified.fault_count - NAMED as u64)?;
    }
    if verified.signed > 0 && trusted == 0 {
        writeln!(context.out, "signatures: not compared with any key you trust; name one with --public-key")?;
    }
    Ok(())
}
