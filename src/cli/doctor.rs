//! `tako-vm doctor`

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::Context;
use super::progress_line::ProgressLine;
use super::server::open_store;
use crate::store::Checked;

/// Violations that are listed.
const NAMED: usize = 20;

/// Check that nothing was lost, doubled or mixed up
///
/// Goes through the whole log beside running servers, which do not wait for it: each execution has
/// exactly one end or is in the queue, leases grow, every derived row is what the events say, and the
/// bytes that events name are kept. `audit verify` tells whether the events themselves were altered.
/// The exit code is 0 when all holds, 1 when something does not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The check that there is
    #[arg(long, required = true)]
    invariants: bool,
    /// Do not look for the bytes that events name
    #[arg(long)]
    skip_blobs: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let line = ProgressLine::new("checking");
    let checked = runtime.block_on(async {
        let store = open_store(&config, "").await?;
        let of = store.last_position().await?.unsigned_abs();
        anyhow::Ok(store.check_invariants(!args.skip_blobs, &|events| line.show(events, of.max(events))).await?)
    })?;
    line.clear();
    if args.json {
        writeln!(context.out, "{:#}", as_json(&checked))?;
    } else {
        tell(&checked, args.skip_blobs, context)?;
    }
    Ok(if checked.violation_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_json(checked: &Checked) -> serde_json::Value {
    let violations = checked.violations.iter();
    let violations: Vec<_> =
        violations.map(|found| json!({"execution_id": found.execution_id, "what": found.what})).collect();
    json!({
        "ok": checked.violation_count == 0,
        "events": checked.events,
        "executions": checked.executions,
        "blobs": checked.blobs,
        "violation_count": checked.violation_count,
        "violations": violations,
        "seconds": checked.took.as_secs_f64(),
    })
}

fn tell(checked: &Checked, without_blobs: bool, context: &mut Context) -> Result<()> {
    let seconds = checked.took.as_secs_f64();
    let blobs = if without_blobs { "no blobs".to_owned() } else { format!("{} blobs", checked.blobs) };
    writeln!(
        context.out,
        "checked {} executions, {} events and {blobs} in {seconds:.1} s ({:.0} events/s)",
        checked.executions,
        checked.events,
        checked.events as f64 / seconds.max(f64::EPSILON),
    )?;
    for found in checked.violations.iter().take(NAMED) {
        writeln!(context.out, "  {}  {}", found.execution_id, found.what)?;
    }
    match checked.violation_count {
        0 => writeln!(context.out, "OK: every execution ended once or is in the queue, and every row is its log's")?,
        count => {
            if count > NAMED as u64 {
                writeln!(context.out, "  and {} more", count - NAMED as u64)?;
            }
            writeln!(context.out, "NOT OK: {count} violations. Rows in executions, endings and dead_letters are")?;
            writeln!(context.out, "mended by `tako-vm projections rebuild`; `tako-vm audit verify` looks at the log")?;
        }
    }
    Ok(())
}
