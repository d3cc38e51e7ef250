//! `tako-vm audit anchor`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::super::Context;
use super::super::server::open_store;

/// Print the newest seal, to be kept where nobody who can write the database can
///
/// Later, `tako-vm audit verify --against FILE` finds by it that the log's tail was cut off, or that
/// the whole history was made anew.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write it to this file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    let seal = super::runtime()?.block_on(async {
        let store = open_store(&config, "").await?;
        anyhow::Ok(store.newest_seal().await?)
    })?;
    let Some(seal) = seal else { bail!("the log has no seal yet; a running server makes them") };
    let text = format!("{}\n", json!({ "seal": seal }));
    match args.out {
        Some(path) => std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?,
        None => context.out.write_all(text.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}
