//! Whose signatures a command believes.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::super::{Context, key_file};
use crate::store::audit::{Seal, Trust};

#[derive(Debug, clap::Args)]
pub(super) struct Trusted {
    /// A public key to trust, in PEM or as 64 hex digits; may be repeated. Without any, this
    /// node's own key and those of audit.trusted_key_files
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    /// Take seals that nobody signed
    #[arg(long)]
    allow_unsigned: bool,
}

impl Trusted {
    /// The keys named, else those that the configuration trusts.
    pub(super) fn or_configured(&self, context: &Context) -> Result<Trust> {
        if !self.public_key.is_empty() {
            return self.named();
        }
        let keys = key_file::trusted(&context.load()?.config)?;
        Ok(Trust { keys, allow_unsigned: self.allow_unsigned, anchors: Vec::new() })
    }

    /// The keys named alone: nothing of this machine is asked.
    pub(super) fn named(&self) -> Result<Trust> {
        let keys = self.public_key.iter().map(|path| key_file::read_public(path)).collect::<Result<_>>()?;
        Ok(Trust { keys, allow_unsigned: self.allow_unsigned, anchors: Vec::new() })
    }
}

/// The seals of an anchor, or of an export: JSON objects one after another, of which those that are
/// no seals are passed over.
pub(super) fn read_seals(path: &Path) -> Result<Vec<Seal>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(cannot)?;
    let mut reader = std::io::BufReader::new(file);
    let mut seals = Vec::new();
    // An anchor may have been formatted, so a value need not be a line.
    if reader.fill_buf().with_context(cannot)?.is_empty() {
        bail!("{} is empty", path.display());
    }
    for value in serde_json::Deserializer::from_reader(reader).into_iter::<serde_json::Value>() {
        let mut value = value.with_context(|| format!("{} is not JSON", path.display()))?;
        if let Some(seal) = value.get_mut("seal") {
            let seal = serde_json::from_value(seal.take());
            seals.push(seal.with_context(|| format!("a seal of {} cannot be read", path.display()))?);
        }
    }
    if seals.is_empty() {
        bail!("{} holds no seal; make one with tako-vm audit anchor", path.display());
    }
    Ok(seals)
}
