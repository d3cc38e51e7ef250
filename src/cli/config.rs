//! `tako-vm config`

use std::process::ExitCode;

use super::Context;
use crate::config::Config;

/// Show the configuration in force, secrets hidden
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON instead of YAML
    #[arg(long)]
    json: bool,
    /// The defaults, whatever is configured; as YAML with what each key means
    #[arg(long)]
    show_defaults: bool,
}

pub(super) fn run(args: Args, context: &mut Context) -> anyhow::Result<ExitCode> {
    if args.show_defaults && !args.json {
        context.out.write_all(include_bytes!("../../config/default.yaml"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (config, files) = match args.show_defaults {
        true => (Config::default(), Vec::new()),
        false => {
            let loaded = context.load()?;
            (loaded.config, loaded.files)
        }
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *context.out, &config).map_err(std::io::Error::from)?;
        writeln!(context.out)?;
        return Ok(ExitCode::SUCCESS);
    }
    match files.as_slice() {
        [] => writeln!(context.out, "# no configuration file; these are the defaults")?,
        files => {
            for file in files {
                writeln!(context.out, "# from {}", file.display())?;
            }
        }
    }
    write!(context.out, "{}", serde_saphyr::to_string(&config)?)?;
    Ok(ExitCode::SUCCESS)
}
