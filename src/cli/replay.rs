//! `tako-vm replay`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use uuid::Uuid;

use super::Context;
use super::client::{Server, text};

/// Run an execution again as it was, and compare
///
/// Everything is pinned: code, input, files, limits, image. The verdict is identical, diverged or
/// refused; the exit code is 0 for identical and 1 otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    execution_id: Uuid,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let path = format!("/executions/{}/replay?wait=300", args.execution_id);
    let answer = client.post(&path, None, Duration::from_secs(320))?;
    if args.json {
        writeln!(context.out, "{answer:#}")?;
    } else {
        writeln!(context.out, "{}  replay {}", text(&answer, "verdict"), text(&answer, "execution_id"))?;
        for difference in answer.get("differences").and_then(Value::as_array).into_iter().flatten() {
            writeln!(context.out, "  differs: {}", difference.as_str().unwrap_or_default())?;
        }
        if let Some(reason) = answer.get("reason").and_then(Value::as_str) {
            writeln!(context.out, "  because {reason}")?;
        }
    }
    Ok(if text(&answer, "verdict") == "identical" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
