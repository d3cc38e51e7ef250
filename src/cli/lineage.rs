//! `tako-vm lineage`

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;
use uuid::Uuid;

use super::Context;
use super::client::{Server, text};

/// Show where an execution comes from and what came from it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    execution_id: Uuid,
    /// A tree for people, the graph, a W3C PROV-JSON document or OpenLineage run events
    #[arg(long, value_enum, default_value_t = Format::Tree)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Steps up and down at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    depth: u32,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Tree,
    Json,
    Prov,
    Openlineage,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let format = if args.json { Format::Json } else { args.format };
    let asked = match format {
        Format::Tree | Format::Json => "json",
        Format::Prov => "prov",
        Format::Openlineage => "openlineage",
    };
    let path = format!("/executions/{}/lineage?format={asked}&depth={}", args.execution_id, args.depth);
    let graph = client.get(&path)?;
    match format {
        Format::Tree => Tree::of(&graph, args.execution_id.to_string()).print(context.out)?,
        Format::Json | Format::Prov | Format::Openlineage => writeln!(context.out, "{graph:#}")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The graph by origin, ready to be walked from its roots.
struct Tree<'a> {
    nodes: BTreeMap<&'a str, &'a Value>,
    /// What each led to, and how.
    steps: BTreeMap<&'a str, Vec<(&'a str, String)>>,
    asked: String,
    truncated: bool,
}

impl<'a> Tree<'a> {
    fn of(graph: &'a Value, asked: String) -> Self {
        let list = |field: &str| graph.get(field).and_then(Value::as_array).into_iter().flatten();
        let nodes = list("nodes").map(|node| (text(node, "execution_id"), node)).collect();
        let mut steps: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for edge in list("edges") {
            let label = match text(edge, "kind") {
                "artifact" => {
                    let hash = text(edge, "sha256").get(..12).unwrap_or("-");
                    format!("{} ({hash}) as {}", text(edge, "artifact"), text(edge, "file"))
                }
                _ => text(edge, "relationship").to_owned(),
            };
            steps.entry(text(edge, "from")).or_default().push((text(edge, "to"), label));
        }
        Self { nodes, steps, asked, truncated: graph.get("truncated") == Some(&Value::Bool(true)) }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let made: BTreeSet<_> = self.steps.values().flatten().map(|(to, _)| *to).collect();
        let mut printed = BTreeSet::new();
        for root in self.nodes.keys().filter(|id| !made.contains(*id)) {
            self.print_from(root, "", 0, &mut printed, out)?;
        }
        if self.truncated {
            writeln!(out, "... and more than one answer shows")?;
        }
        Ok(())
    }

    /// Who has several origins stands below each, with what came from it below the first.
    fn print_from(
        &self,
        id: &'a str,
        label: &str,
        depth: usize,
        printed: &mut BTreeSet<&'a str>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let unknown = Value::Null;
        let node = self.nodes.get(id).copied().unwrap_or(&unknown);
        let mark = if id == self.asked { "  <" } else { "" };
        let short = |field| text(node, field).get(..12).unwrap_or("-");
        let label = if label.is_empty() { String::new() } else { format!("{label}: ") };
        let indent = depth * 2;
        if !printed.insert(id) {
            return writeln!(out, "{:indent$}{label}{id}  (above){mark}", "");
        }
        let attempts = match node.get("attempt").and_then(Value::as_u64) {
            Some(attempts @ 2..) => format!("  attempts {attempts}"),
            _ => String::new(),
        };
        let verdict = node.get("replay").and_then(|replay| replay.get("verdict")).and_then(Value::as_str);
        let verdict = verdict.map_or(String::new(), |verdict| format!("  {verdict}"));
        writeln!(
            out,
            "{:indent$}{label}{id}  {:<9}  code {}  input {}  output {}{attempts}{verdict}{mark}",
            "",
            text(node, "status"),
            short("code_hash"),
            short("input_hash"),
            short("output_hash"),
        )?;
        for (to, label) in self.steps.get(id).into_iter().flatten() {
            self.print_from(to, label, depth + 1, printed, out)?;
        }
        Ok(())
    }
}
