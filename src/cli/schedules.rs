//! `tako-vm schedules`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Context;
use super::client::{Server, escaped, text};

const PATIENCE: Duration = Duration::from_secs(30);

/// Submit jobs at their times
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The schedules, with the next time and the last execution of each
    List {
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Make a schedule, or give it other terms with --replace
    Add {
        name: String,
        /// Five fields, or six with seconds first
        #[arg(long)]
        cron: String,
        /// IANA name
        #[arg(long, default_value = "UTC")]
        timezone: String,
        /// A file with what POST /jobs takes, as JSON
        #[arg(long, value_name = "FILE", required_unless_present = "code", conflicts_with = "code")]
        job: Option<PathBuf>,
        /// A file with Python, for a job that needs nothing else said
        #[arg(long, value_name = "FILE")]
        code: Option<PathBuf>,
        /// When the execution before has not ended
        #[arg(long, value_parser = ["skip", "allow"], default_value = "skip")]
        overlap: String,
        /// With times at which no node was there
        #[arg(long, value_parser = ["skip", "once"], default_value = "skip")]
        missed: String,
        /// It begins paused
        #[arg(long)]
        paused: bool,
        /// There is one of that name
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Remove a schedule; what it submitted stays
    Remove {
        name: String,
        #[command(flatten)]
        server: Server,
    },
    /// Let times go by
    Pause {
        name: String,
        #[command(flatten)]
        server: Server,
    },
    /// Fire again, from the next time on
    Resume {
        name: String,
        #[command(flatten)]
        server: Server,
    },
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    match args.action {
        Action::List { limit, json, server } => {
            let answer = server.connect(context)?.get(&format!("/schedules?limit={limit}"))?;
            if json {
                writeln!(context.out, "{:#}", answer["items"])?;
                return Ok(ExitCode::SUCCESS);
            }
            for schedule in answer["items"].as_array().into_iter().flatten() {
                let next = match schedule["enabled"].as_bool() {
                    Some(false) => "paused",
                    _ => text(schedule, "next_due"),
                };
                writeln!(
                    context.out,
                    "{:<24} {:<20} {:<20} {next:<20} {}",
                    text(schedule, "name"),
                    text(schedule, "cron"),
                    text(schedule, "timezone"),
                    text(&schedule["last_fired"], "execution_id"),
                )?;
            }
            if answer["has_more"] == true {
                writeln!(context.out, "... and more; see --limit")?;
            }
        }
        Action::Add { name, cron, timezone, job, code, overlap, missed, paused, replace, server } => {
            let body = json!({
                "name": name, "cron": cron, "timezone": timezone, "overlap": overlap, "missed": missed, "enabled": !paused,
            });
            let body = with_job(body, job, code)?;
            let client = server.connect(context)?;
            let made = match replace {
                true => client.put(&path(&name)?, body, PATIENCE)?,
                false => client.post("/schedules", Some(body), PATIENCE)?,
            };
            let next = if paused { "paused" } else { text(&made, "next_due") };
            writeln!(context.out, "{name}  next: {next}")?;
        }
        Action::Remove { name, server } => {
            server.connect(context)?.delete(&path(&name)?, None)?;
            writeln!(context.out, "{name} is removed")?;
        }
        Action::Pause { name, server } => {
            server.connect(context)?.post(&format!("{}/pause", path(&name)?), None, PATIENCE)?;
            writeln!(context.out, "{name} is paused")?;
        }
        Action::Resume { name, server } => {
            let resumed = server.connect(context)?.post(&format!("{}/resume", path(&name)?), None, PATIENCE)?;
            writeln!(context.out, "{name}  next: {}", text(&resumed, "next_due"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The body as text, so that the job's numbers stay as they were written.
fn with_job(body: Value, job: Option<PathBuf>, code: Option<PathBuf>) -> Result<String> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let job = match (&job, &code) {
        (Some(path), _) => {
            let text = read(path)?;
            let job: Box<RawValue> =
                serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
            job.get().to_owned()
        }
        (None, Some(path)) => json!({ "code": read(path)? }).to_string(),
        (None, None) => bail!("a job must be given: --job or --code"),
    };
    let body = body.to_string();
    Ok(format!("{},\"job\":{job}}}", body.trim_end_matches('}')))
}

/// The server says what is wrong with a name; one that would be another path is not sent.
fn path(name: &str) -> Result<String> {
    if name.is_empty() || name.starts_with('.') {
        bail!("{name:?} is not a schedule's name: 1 to 64 letters, digits, dots, dashes and underscores");
    }
    Ok(format!("/schedules/{}", escaped(name)))
}
