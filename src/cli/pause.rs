//! `tako-vm pause` and `tako-vm resume`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Context;
use super::client::{Server, escaped, text};

/// Start no more jobs of a job type, on any node; jobs may still be submitted
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A job type, or '*' for all
    job_type: String,
    /// Why, for the log
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    server: Server,
}

/// Start jobs of a paused job type again
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    args: Args,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    set(args, "pause", context)
}

pub(super) fn run_resume(ResumeArgs { args }: ResumeArgs, context: &mut Context) -> Result<ExitCode> {
    set(args, "resume", context)
}

fn set(args: Args, action: &str, context: &mut Context) -> Result<ExitCode> {
    let path = format!("/job-types/{}/{action}", escaped(&args.job_type));
    let body = json!({ "reason": args.reason }).to_string();
    let pause = args.server.connect(context)?.post(&path, Some(body), Duration::from_secs(30))?;
    let state = if pause["paused"] == true { "paused" } else { "not paused" };
    writeln!(
        context.out,
        "{}  {state} since {} by {}",
        text(&pause, "job_type"),
        text(&pause, "since").get(..19).unwrap_or("-"),
        text(&pause, "by")
    )?;
    Ok(ExitCode::SUCCESS)
}
