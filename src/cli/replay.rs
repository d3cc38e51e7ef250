//! `tako-vm replay`

mod set;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Context;
use super::client::{Server, text};

/// Lines of one diff that are printed.
const DIFF_LINES: usize = 40;

/// Run executions again as they were, and compare
///
/// Everything is pinned: code, input, files, limits, image, runtime, hash seed. The verdict is
/// identical, diverged or refused. With --job-type the executions of a job type are replayed and
/// counted; with --image they run on another image, to see what it changes before it is rolled out.
/// The exit code is 1 when one diverged (a single one: unless it is identical).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The execution to replay
    #[arg(required_unless_present = "job_type")]
    execution_id: Option<Uuid>,
    /// Replay the executions of this job type instead, the newest first
    #[arg(long, conflicts_with = "execution_id", value_name = "NAME")]
    job_type: Option<String>,
    /// Only those created at this time (RFC 3339) or later
    #[arg(long, requires = "job_type", value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Only those created before this time
    #[arg(long, requires = "job_type", value_name = "TIME")]
    until: Option<DateTime<Utc>>,
    /// Only those that ended so; without it all but the cancelled
    #[arg(long, requires = "job_type", value_parser = ["succeeded", "failed", "timeout", "oom", "cancelled"])]
    status: Option<String>,
    /// At most so many
    #[arg(long, requires = "job_type", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// How many at once
    #[arg(long, requires = "job_type", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    concurrency: u8,
    /// Run on this image instead of the one it ran on; needs the scope admin
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let Some(execution_id) = args.execution_id else { return set::run(args, context) };
    let client = args.server.connect(context)?;
    let path = format!("/executions/{execution_id}/replay?wait=300");
    let answer = client.post(&path, Some(json!({ "image": args.image }).to_string()), Duration::from_secs(320))?;
    if args.json {
        writeln!(context.out, "{answer:#}")?;
    } else if answer.get("verdict").is_none_or(Value::is_null) {
        bail!("the replay {} is still {}; ask again later", text(&answer, "execution_id"), text(&answer, "status"));
    } else {
        print(&answer, context.out)?;
    }
    Ok(if text(&answer, "verdict") == "identical" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(answer: &Value, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let normalised = match answer.get("normalised") {
        Some(Value::Bool(true)) => " (normalised)",
        _ => "",
    };
    writeln!(out, "{}{normalised}  replay {}", text(answer, "verdict"), text(answer, "execution_id"))?;
    if let Some(reason) = answer.get("reason").and_then(Value::as_str) {
        writeln!(out, "  {}: {reason}", text(answer, "cause"))?;
    }
    if let Some(versions) = answer.get("job_version") {
        writeln!(out, "  job type {}, was {}", text(versions, "replay"), text(versions, "original"))?;
    }
    for difference in answer.get("differences").and_then(Value::as_array).into_iter().flatten() {
        print_difference(difference, out)?;
    }
    Ok(())
}

fn print_difference(difference: &Value, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let short = |field| {
        let value = text(difference, field);
        if value.len() == 64 { value.get(..12).unwrap_or(value) } else { value }
    };
    write!(out, "  {}: {} -> {}", text(difference, "part"), short("original"), short("replay"))?;
    if let Some(name) = difference.get("artifact").and_then(Value::as_str) {
        write!(out, "  first in {name:?}")?;
    }
    if let Some(pointer) = difference.get("pointer").and_then(Value::as_str) {
        let value = |field| difference.get(field).unwrap_or(&Value::Null);
        write!(out, "  first at {pointer:?}: {} -> {}", value("original_value"), value("replay_value"))?;
    }
    writeln!(out)?;
    let diff = difference.get("diff").and_then(Value::as_str).unwrap_or_default();
    for line in diff.lines().take(DIFF_LINES) {
        writeln!(out, "    {line}")?;
    }
    let more = diff.lines().count().saturating_sub(DIFF_LINES);
    if more > 0 {
        writeln!(out, "    ... {more} more lines; --json has them")?;
    }
    Ok(())
}
