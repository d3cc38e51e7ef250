//! `tako-vm audit proof-check`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::super::Context;
use super::trust::Trusted;
use crate::store::audit::Proof;

/// Check what GET /executions/{id}/proof answered, without a server or a database
///
/// The exit code is 0 when the proof holds and covers every event in it, else 1.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The proof; - is standard input
    file: PathBuf,
    #[command(flatten)]
    trusted: Trusted,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let name = args.file.display();
    let text = match args.file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin())?,
        false => std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?,
    };
    let proof: Proof = serde_json::from_str(&text).with_context(|| format!("{name} is not a proof"))?;
    let trust = args.trusted.named()?;
    let proven = match proof.check(&trust) {
        Ok(proven) => proven,
        Err(refuted) => {
            writeln!(context.out, "REFUTED  execution {}: {refuted}", proof.execution_id)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    writeln!(context.out, "execution {}", proof.execution_id)?;
    for event in &proof.events {
        let seal = event.seal_no.map_or("not sealed yet".to_owned(), |number| format!("seal {number}"));
        writeln!(
            context.out,
            "{:>3}  {}  {:<22} position {:<8} {seal}",
            event.version,
            event.recorded_at.format("%Y-%m-%dT%H:%M:%S%.6fZ"),
            event.event_type,
            event.position,
        )?;
    }
    for key in &proven.keys {
        let trusted = if trust.keys.is_empty() { "not compared with any you trust" } else { "trusted" };
        writeln!(context.out, "signed by {key} ({trusted})")?;
    }
    if proven.keys.is_empty() && proven.sealed > 0 {
        writeln!(context.out, "nobody signed the seals: they show only that nothing was changed since they were made")?;
    }
    if proven.unsealed > 0 {
        writeln!(context.out, "INCOMPLETE  {} of {} events are sealed", proven.sealed, proof.events.len())?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(context.out, "PROVEN  {} events were in the log when it was sealed", proven.sealed)?;
    Ok(ExitCode::SUCCESS)
}
