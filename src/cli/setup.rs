//! `tako-vm setup`

use std::process::ExitCode;

use super::Context;

/// Check what this machine has for running jobs, and say what to do about the rest
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: Args, _context: &mut Context) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
