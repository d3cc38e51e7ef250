//! `tako-vm images`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Context;
use super::client::{Server, text};
use crate::config::display_bytes;

/// Show the images of job types that the server's node has, and remove those beyond its disk budget
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove the least recently used until the rest is within build.disk_budget
    #[arg(long)]
    gc: bool,
    /// With --gc, only say what would go
    #[arg(long, requires = "gc")]
    dry_run: bool,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let answer = match args.gc {
        false => client.get("/images")?,
        true => client.post(&format!("/images/gc?dry_run={}", args.dry_run), None, Duration::from_secs(600))?,
    };
    if args.json {
        writeln!(context.out, "{answer:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let items = answer.get("items").or(answer.get("removed")).and_then(Value::as_array);
    for item in items.into_iter().flatten() {
        let size = display_bytes(item["size_bytes"].as_u64().unwrap_or_default());
        let used = item["last_used_at"].as_str().or(item["built_at"].as_str()).unwrap_or("-");
        let (version, image, pinned) = (text(item, "version"), text(item, "image_ref"), text(item, "pinned"));
        let word = match (args.gc, args.dry_run) {
            (true, true) => "would go  ",
            (true, false) => "removed  ",
            (false, _) => "",
        };
        writeln!(context.out, "{word}{version}  {size:>9}  used {used}  pinned: {pinned}  {image}")?;
    }
    let bytes = |field: &str| answer[field].as_u64().unwrap_or_default();
    let budget = match bytes("budget_bytes") {
        0 => "no limit".to_owned(),
        budget => display_bytes(budget),
    };
    writeln!(context.out, "{} of {budget}", display_bytes(bytes("size_bytes")))?;
    Ok(ExitCode::SUCCESS)
}
