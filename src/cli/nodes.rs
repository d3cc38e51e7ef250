//! `tako-vm nodes`

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use super::Context;
use super::client::{Server, text};

/// Show the nodes, what they have and when they last gave a sign of life
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let nodes = args.server.connect(context)?.get("/nodes")?;
    if args.json {
        writeln!(context.out, "{nodes:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    for node in nodes.as_array().into_iter().flatten() {
        let labels = node["labels"].as_object().into_iter().flatten();
        let labels: Vec<_> = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or("-"))).collect();
        writeln!(
            context.out,
            "{}  {:<8}  {:>7.1} s ago  {}/{} slots  {}/{}  gpus {}  labels {}  warm {}",
            text(node, "node_id"),
            text(node, "state"),
            node["heartbeat_age"].as_f64().unwrap_or_default(),
            node["claimed"],
            node["slots"],
            text(node, "engine"),
            text(node, "runtime"),
            listed(&node["gpus"]),
            if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
            listed(&node["warm_job_types"]),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(values: &Value) -> String {
    let values: Vec<_> = values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(",") }
}
