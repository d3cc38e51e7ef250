//! `tako-vm audit keygen`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::super::{Context, key_file};
use crate::store::SecretKey;
use crate::store::audit::SigningKey;

/// Make a key that signs seals, and write it and its public key
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the private key (the public one gets .pub behind the name); without it where
    /// the configuration says
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make the master key instead, under which tenants' keys are kept (retention.master_key_file)
    #[arg(long)]
    master: bool,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    if args.master {
        let named = || Ok::<_, anyhow::Error>(context.load()?.config.retention.master_key_file);
        let path = args.out.map_or_else(named, |path| Ok(std::path::absolute(path)?))?;
        if path.as_os_str().is_empty() {
            bail!("there is no place for a key: name one with --out");
        }
        key_file::write_once(&path, &SecretKey::generate().to_hex())?;
        writeln!(context.out, "master key   {}", path.display())?;
        return Ok(ExitCode::SUCCESS);
    }
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
