//! `tako-vm rerun`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;

use super::Context;
use super::client::{Server, text};

/// Run an execution's code and input again, on what its job type is now
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    execution_id: Uuid,
    /// Wait for the end
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let path = format!("/jobs/{}/rerun", args.execution_id);
    let accepted = client.post(&path, None, Duration::from_secs(60))?;
    let id = text(&accepted, "execution_id");
    if !args.wait {
        writeln!(context.out, "{id}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let record = client.wait(id)?;
    writeln!(context.out, "{}  rerun {id}", text(&record, "status"))?;
    Ok(if text(&record, "status") == "succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
