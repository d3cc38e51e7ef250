//! `tako-vm audit`

mod anchor;
mod archive;
mod export;
mod keygen;
mod parquet;
mod proof_check;
mod shred;
mod trust;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::Context;

/// Prove that the event log is what it was, or find who changed it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Keygen(keygen::Args),
    Verify(verify::Args),
    Export(export::Args),
    Anchor(anchor::Args),
    Archive(archive::Args),
    Parquet(parquet::Args),
    ProofCheck(proof_check::Args),
    Shred(shred::Args),
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    match args.action {
        Action::Keygen(args) => keygen::run(args, context),
        Action::Verify(args) => verify::run(args, context),
        Action::Export(args) => export::run(args, context),
        Action::Anchor(args) => anchor::run(args, context),
        Action::Archive(args) => archive::run(args, context),
        Action::Parquet(args) => parquet::run(args, context),
        Action::ProofCheck(args) => proof_check::run(args, context),
        Action::Shred(args) => shred::run(args, context),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
