//! `tako-vm build`

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use super::Context;
use super::client::{Server, text};

/// Have the server build the images of job types, and follow their logs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job types, or versions of them: name, or name@sha256:<hex>
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Every job type there is
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// A name for what is built
    #[arg(long, value_name = "TAG")]
    version_tag: Option<String>,
    /// Say nothing of the log unless the build fails
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let names = match args.all {
        false => args.names,
        true => {
            let job_types = client.get("/job-types")?;
            job_types.as_array().into_iter().flatten().map(|job_type| text(job_type, "name").to_owned()).collect()
        }
    };
    let query = args.version_tag.map(|tag| format!("?version_tag={tag}")).unwrap_or_default();
    let mut failed = 0;
    for name in names {
        let mut end = None;
        let mut kept = Vec::new();
        client.follow(&format!("/job-types/{name}/build{query}"), |event, data| {
            match event {
                "log" if args.quiet => kept.push(data.to_owned()),
                // Standard error may be closed; then nobody reads the log.
                "log" => drop(writeln!(std::io::stderr(), "{name}  {data}")),
                "built" | "failed" => end = Some((event == "built", serde_json::from_str::<Value>(data)?)),
                _ => {}
            }
            Ok(())
        })?;
        match end {
            Some((true, built)) => {
                writeln!(context.out, "{}  {}", text(&built, "version"), text(&built, "image_ref"))?;
            }
            Some((false, problem)) => {
                failed += 1;
                kept.iter().for_each(|line| drop(writeln!(std::io::stderr(), "{name}  {line}")));
                writeln!(context.out, "{name}  {}", text(&problem, "detail"))?;
            }
            None => bail!("the server ended before the build of {name}"),
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
