//! `tako-vm validate`

use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use crate::config::Sources;

/// Check a configuration file and the job types beside it; lists everything that is wrong
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file; without it the one that would be used
    file: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &mut Context) -> anyhow::Result<ExitCode> {
    let file = args.file.or_else(|| context.sources.find());
    // A file is valid or not by itself, whatever this shell's environment adds.
    let environment = Vec::new();
    let loaded = Sources { file, environment, ..context.sources.clone() }.load()?;
    match loaded.files.as_slice() {
        [] => writeln!(context.out, "no configuration file found; the defaults apply")?,
        files => {
            for file in files {
                writeln!(context.out, "{}: valid", file.display())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
