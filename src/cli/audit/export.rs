//! `tako-vm audit export`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::super::Context;
use super::super::server::open_store;
use crate::store::Store;
use crate::store::audit::Exported;

/// Write the seals, and if asked the events under each, as lines of JSON
///
/// With --events it is an archive, which tako-vm audit verify --archive FILE checks without a database.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write the events as well; their payloads are texts, so that their hashes can be recomputed
    #[arg(long)]
    events: bool,
    /// Begin behind this seal
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    since_seal: i64,
    /// Write to this file instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    let exported = super::runtime()?.block_on(async {
        let store = open_store(&config, "").await?;
        match &args.out {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                let mut out = BufWriter::new(file);
                let exported = export(&store, &args, &mut out).await?;
                out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
                Ok(exported)
            }
            None => export(&store, &args, context.out).await,
        }
    })?;
    eprintln!("exported {} seals and {} events", exported.seals, exported.events);
    Ok(ExitCode::SUCCESS)
}

async fn export(store: &Store, args: &Args, out: &mut dyn Write) -> Result<Exported> {
    let mut out = BufWriter::new(out);
    let exported = match args.events {
        true => store.export_archive(args.since_seal, &mut out).await?,
        false => store.export_seals(args.since_seal, &mut out).await?,
    };
    out.flush()?;
    Ok(exported)
}
