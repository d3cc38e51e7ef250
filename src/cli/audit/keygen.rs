//! `tako-vm audit keygen`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::super::{Context, key_file};
use crate::store::audit::SigningKey;

/// Make a key that signs seals, and write it and its public key
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the private key (the public one gets .pub behind the name); without it where
    /// the configuration says
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let path = match args.out {
        Some(path) => std::path::absolute(path)?,
        None => {
            key_file::path_of(&context.load()?.config).context("there is no place for a key: name one with --out")?
        }
    };
    let key = SigningKey::generate();
    key_file::write_new(&path, &key)?;
    writeln!(context.out, "private key  {}", path.display())?;
    writeln!(context.out, "public key   {}.pub", path.display())?;
    writeln!(context.out, "             {}", key.public_key())?;
    Ok(ExitCode::SUCCESS)
}
