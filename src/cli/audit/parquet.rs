//! `tako-vm audit parquet`

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::super::Context;
use crate::store::audit::to_parquet;

/// Write the events of an archive as a Parquet file, to ask questions of them
///
/// The archive stays what proves them: verify it with tako-vm audit verify --archive FILE.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What tako-vm audit export --events, or tako-vm audit archive, wrote
    archive: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: Args, _: &mut Context) -> Result<ExitCode> {
    let archive = File::open(&args.archive).with_context(|| format!("cannot read {}", args.archive.display()))?;
    let out = File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let events = to_parquet(BufReader::new(archive), out)?;
    eprintln!("wrote {events} events to {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
