//! `tako-vm version`

use std::process::ExitCode;

use super::Context;

/// Print the version
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: Args, context: &mut Context) -> anyhow::Result<ExitCode> {
    writeln!(context.out, "tako-vm {}", env!("CARGO_PKG_VERSION"))?;
    Ok(ExitCode::SUCCESS)
}
