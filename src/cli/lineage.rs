//! `tako-vm lineage`

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;
use uuid::Uuid;

use super::Context;
use super::client::{Server, text};

/// Show where an execution comes from and what came from it, as a tree
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    execution_id: Uuid,
    /// Print the graph as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let graph = client.get(&format!("/executions/{}/lineage", args.execution_id))?;
    if args.json {
        writeln!(context.out, "{graph:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    Tree::of(&graph, args.execution_id.to_string()).print(context.out)?;
    Ok(ExitCode::SUCCESS)
}

/// The graph by parent, ready to be walked from its roots.
struct Tree<'a> {
    nodes: BTreeMap<&'a str, &'a Value>,
    children: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    asked: String,
}

impl<'a> Tree<'a> {
    fn of(graph: &'a Value, asked: String) -> Self {
        let list = |field: &str| graph.get(field).and_then(Value::as_array).into_iter().flatten();
        let nodes = list("nodes").map(|node| (text(node, "execution_id"), node)).collect();
        let mut children: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for edge in list("edges") {
            children.entry(text(edge, "from")).or_default().push((text(edge, "to"), text(edge, "relationship")));
        }
        Self { nodes, children, asked }
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let made: BTreeSet<_> = self.children.values().flatten().map(|(to, _)| *to).collect();
        for root in self.nodes.keys().filter(|id| !made.contains(*id)) {
            self.print_from(root, "", 0, out)?;
        }
        Ok(())
    }

    fn print_from(&self, id: &str, relationship: &str, depth: usize, out: &mut dyn Write) -> std::io::Result<()> {
        let unknown = Value::Null;
        let node = self.nodes.get(id).copied().unwrap_or(&unknown);
        let mark = if id == self.asked { "  <" } else { "" };
        let short = |field| text(node, field).get(..12).unwrap_or("-");
        let label = if relationship.is_empty() { String::new() } else { format!("{relationship}: ") };
        writeln!(
            out,
            "{:indent$}{label}{id}  {:<9}  code {}  input {}  output {}{mark}",
            "",
            text(node, "status"),
            short("code_hash"),
            short("input_hash"),
            short("output_hash"),
            indent = depth * 2,
        )?;
        for (child, relationship) in self.children.get(id).into_iter().flatten() {
            self.print_from(child, relationship, depth + 1, out)?;
        }
        Ok(())
    }
}
