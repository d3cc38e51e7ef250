//! The command line: one file per subcommand.
//!
//! A command writes its answer to standard output and everything else to standard error. The
//! program ends with 0 when it did what was asked, 1 when that failed, 2 when it was asked or
//! configured wrongly.

mod audit;
mod blob_places;
mod build;
mod client;
mod config;
pub mod dev;
mod dlq;
mod doctor;
mod events;
mod history;
mod images;
mod key_file;
mod lineage;
mod nodes;
mod pause;
mod progress_line;
mod projections;
mod replay;
mod rerun;
mod schedules;
mod secret_key;
mod secrets;
pub mod server;
mod setup;
mod status;
mod submit;
mod validate;
mod version;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Error, Loaded, Sources};

/// Runs untrusted Python as jobs, each in its own single-use sandbox.
#[derive(Debug, Parser)]
#[command(name = "tako-vm", version, arg_required_else_help = true)]
struct Cli {
    /// Configuration file, instead of TAKO_VM_CONFIG and of the first of tako_vm.yaml,
    /// config/tako_vm.yaml, ~/.tako_vm/config.yaml and /etc/tako_vm/config.yaml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Audit(audit::Args),
    Build(build::Args),
    Config(config::Args),
    Dev(dev::Args),
    Dlq(dlq::Args),
    Doctor(doctor::Args),
    Events(events::Args),
    Server(server::Args),
    Setup(setup::Args),
    Status(status::Args),
    History(history::Args),
    Images(images::Args),
    Lineage(lineage::Args),
    Nodes(nodes::Args),
    Pause(pause::Args),
    Projections(projections::Args),
    Replay(replay::Args),
    Rerun(rerun::Args),
    Resume(pause::ResumeArgs),
    Schedules(schedules::Args),
    Secrets(secrets::Args),
    Submit(submit::Args),
    Validate(validate::Args),
    Version(version::Args),
}

/// What a command is given beside its own arguments.
struct Context<'a> {
    sources: Sources,
    /// Where the answer goes.
    out: &'a mut dyn Write,
}

impl Context<'_> {
    fn load(&self) -> Result<Loaded, Error> {
        self.sources.load()
    }
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    match run(cli, &mut out) {
        Ok(code) => code,
        // Who reads the output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; then nobody is told.
            let _ = writeln!(io::stderr(), "tako-vm: {error:#}");
            let is_configuration = error.chain().any(|cause| cause.is::<Error>());
            ExitCode::from(if is_configuration { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut context = Context { sources: Sources::of_process(cli.config)?, out };
    match cli.command {
        Command::Audit(args) => audit::run(args, &mut context),
        Command::Build(args) => build::run(args, &mut context),
        Command::Config(args) => config::run(args, &mut context),
        Command::Dev(args) => dev::run(args, &mut context),
        Command::Dlq(args) => dlq::run(args, &mut context),
        Command::Doctor(args) => doctor::run(args, &mut context),
        Command::Events(args) => events::run(args, &mut context),
        Command::Server(args) => server::run(args, &mut context),
        Command::Setup(args) => setup::run(args, &mut context),
        Command::Status(args) => status::run(args, &mut context),
        Command::History(args) => history::run(args, &mut context),
        Command::Images(args) => images::run(args, &mut context),
        Command::Lineage(args) => lineage::run(args, &mut context),
        Command::Nodes(args) => nodes::run(args, &mut context),
        Command::Pause(args) => pause::run(args, &mut context),
        Command::Projections(args) => projections::run(args, &mut context),
        Command::Replay(args) => replay::run(args, &mut context),
        Command::Rerun(args) => rerun::run(args, &mut context),
        Command::Resume(args) => pause::run_resume(args, &mut context),
        Command::Schedules(args) => schedules::run(args, &mut context),
        Command::Secrets(args) => secrets::run(args, &mut context),
        Command::Submit(args) => submit::run(args, &mut context),
        Command::Validate(args) => validate::run(args, &mut context),
        Command::Version(args) => version::run(args, &mut context),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
