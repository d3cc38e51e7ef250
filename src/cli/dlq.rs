//! `tako-vm dlq`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Context;
use super::client::{Client, Server, escaped, text};

/// Requeueing many submits each of them.
const PATIENCE: Duration = Duration::from_secs(300);

/// What one call requeues at most.
const TOGETHER: u64 = 1000;

/// Look after jobs that the service, not their code, failed for good
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// How many there are of each error type, and the newest of them
    List {
        /// Only of this error type
        #[arg(long, value_name = "TYPE")]
        error_type: Option<String>,
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// The entries, with the jobs as they were submitted, as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// One entry, with the code and input of its job
    Show {
        id: Uuid,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Submit jobs again, as new executions that know where they come from
    Requeue {
        #[arg(required_unless_present_any = ["error_type", "all"], conflicts_with_all = ["error_type", "all"])]
        ids: Vec<Uuid>,
        /// All of this error type, at most 1,000 at a time
        #[arg(long, value_name = "TYPE")]
        error_type: Option<String>,
        /// All there are, at most 1,000 at a time
        #[arg(long, conflicts_with = "error_type")]
        all: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Put entries away; their executions stay on record
    Discard {
        #[arg(required = true)]
        ids: Vec<Uuid>,
        /// Why, for the log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        server: Server,
    },
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    match args.action {
        Action::List { error_type, limit, json, server } => {
            let client = server.connect(context)?;
            let of = error_type.map_or(String::new(), |name| format!("&error_type={}", escaped(&name)));
            let page = client.get(&format!("/dlq?limit={limit}{of}"))?;
            if json {
                writeln!(context.out, "{:#}", page["items"])?;
            } else {
                list(&page, &client.get("/dlq/stats")?, context)?;
            }
        }
        Action::Show { id, json, server } => {
            let entry = server.connect(context)?.get(&format!("/dlq/{id}"))?;
            if json {
                writeln!(context.out, "{entry:#}")?;
            } else {
                show(&entry, context)?;
            }
        }
        Action::Requeue { ids, error_type, all: _, server } => {
            let client = server.connect(context)?;
            if !ids.is_empty() {
                return each(&ids, context, |id| {
                    let requeued = client.post(&format!("/dlq/{id}/requeue"), None, PATIENCE)?;
                    Ok(format!("requeued as {}", text(&requeued, "execution_id")))
                });
            }
            requeue_many(&client, error_type.as_deref(), context)?;
        }
        Action::Discard { ids, reason, server } => {
            let client = server.connect(context)?;
            let body = json!({ "reason": reason }).to_string();
            return each(&ids, context, |id| {
                client.delete(&format!("/dlq/{id}"), Some(body.clone())).map(|_| "discarded".to_owned())
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Goes through all, and fails in the end if one failed.
fn each(ids: &[Uuid], context: &mut Context, action: impl Fn(Uuid) -> Result<String>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match action(*id) {
            Ok(done) => writeln!(context.out, "{id}  {done}")?,
            Err(error) => {
                writeln!(context.out, "{id}  {error:#}")?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn requeue_many(client: &Client, error_type: Option<&str>, context: &mut Context) -> Result<()> {
    let of = error_type.map_or(String::new(), |name| format!("?error_type={}", escaped(name)));
    let answer = client.post(&format!("/dlq/requeue{of}"), None, PATIENCE)?;
    for id in answer["job_ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(context.out, "{id}")?;
    }
    let requeued = answer["requeued"].as_u64().unwrap_or_default();
    let more = if requeued >= TOGETHER { "; there may be more: ask again" } else { "" };
    writeln!(context.out, "requeued {requeued}{more}")?;
    Ok(())
}

fn list(page: &Value, stats: &Value, context: &mut Context) -> Result<()> {
    let total = stats["total"].as_u64().unwrap_or_default();
    writeln!(context.out, "{total} dead letters")?;
    for (error_type, count) in stats["by_error_type"].as_object().into_iter().flatten() {
        writeln!(context.out, "  {:>6}  {error_type}", count.as_u64().unwrap_or_default())?;
    }
    for entry in page["items"].as_array().into_iter().flatten() {
        writeln!(
            context.out,
            "{}  {}  {}  {}  {}",
            text(entry, "id"),
            text(entry, "created_at").get(..19).unwrap_or("-"),
            text(&entry["job_data"], "job_type"),
            text(entry, "error_type"),
            text(entry, "error_message").lines().next().unwrap_or_default(),
        )?;
    }
    if page["has_more"] == true {
        writeln!(context.out, "... and more; see --limit and --error-type")?;
    }
    Ok(())
}

fn show(entry: &Value, context: &mut Context) -> Result<()> {
    let job = &entry["job_data"];
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    for field in ["id", "error_type", "error_message", "retry_count", "created_at", "client_ip", "correlation_id"] {
        writeln!(context.out, "{field:<16} {}", shown(&entry[field]))?;
    }
    for field in ["job_type", "job_version", "timeout", "requirements", "priority", "max_attempts", "tags", "files"] {
        writeln!(context.out, "{field:<16} {}", shown(&job[field]))?;
    }
    for (field, name) in [("input_data", "input"), ("code", "code")] {
        match &job[field] {
            Value::Null => writeln!(context.out, "{name} is no longer kept")?,
            value => writeln!(context.out, "{name}:\n{}", shown(value).trim_end())?,
        }
    }
    Ok(())
}
