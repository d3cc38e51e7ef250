//! `tako-vm events`

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Context;
use crate::domain::{Edition, EventKind, Explained};

/// List the events of the log, or explain one of them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The event to explain
    #[arg(value_name = "NAME", value_parser = parse_kind)]
    kind: Option<EventKind>,
    /// As JSON; of one event its schema and a sample
    #[arg(long)]
    json: bool,
    /// All of them as docs/events.md
    #[arg(long, conflicts_with_all = ["json", "kind"])]
    markdown: bool,
}

pub(super) fn run(args: Args, context: &mut Context) -> anyhow::Result<ExitCode> {
    let out = &mut *context.out;
    match (args.kind, args.json) {
        (None, _) if args.markdown => write_markdown(out)?,
        (None, false) => write_list(out)?,
        (None, true) => {
            let all = EventKind::ALL.iter().map(|kind| summary(*kind)).collect::<Result<Vec<_>, _>>()?;
            writeln!(out, "{:#}", Value::from(all))?;
        }
        (Some(kind), false) => write_one(kind, out)?,
        (Some(kind), true) => {
            let mut one = summary(kind)?;
            if let Some(edition) = newest(kind) {
                one["schema"] = serde_json::from_str(edition.schema)?;
                one["sample"] = serde_json::from_str(edition.sample)?;
            }
            writeln!(out, "{one:#}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_kind(name: &str) -> Result<EventKind, String> {
    EventKind::from_name(name).ok_or_else(|| {
        let near = EventKind::ALL
            .iter()
            .map(|kind| (strsim::jaro_winkler(&kind.as_str().to_lowercase(), &name.to_lowercase()), kind.as_str()))
            .max_by(|one, other| one.0.total_cmp(&other.0));
        match near {
            Some((likeness, near)) if likeness > 0.8 => format!("no event has this name; did you mean {near}?"),
            _ => "no event has this name; `tako-vm events` lists them".to_owned(),
        }
    })
}

fn newest(kind: EventKind) -> Option<&'static Edition> {
    kind.editions().last()
}

fn explain(kind: EventKind) -> anyhow::Result<Explained> {
    let edition = newest(kind).ok_or_else(|| anyhow::anyhow!("{} has no schema", kind.as_str()))?;
    Ok(edition.explain()?)
}

fn summary(kind: EventKind) -> anyhow::Result<Value> {
    let description = explain(kind)?.description;
    Ok(json!({"type": kind.as_str(), "schema_version": kind.schema_version(), "description": description}))
}

fn write_list(out: &mut dyn Write) -> anyhow::Result<()> {
    for kind in EventKind::ALL {
        let description = explain(*kind)?.description;
        let (first, _) = description.split_once(". ").unwrap_or((description.trim_end_matches('.'), ""));
        writeln!(out, "{:<22} v{}  {first}", kind.as_str(), kind.schema_version())?;
    }
    Ok(())
}

fn write_one(kind: EventKind, out: &mut dyn Write) -> anyhow::Result<()> {
    let explained = explain(kind)?;
    writeln!(out, "{} v{}\n{}\n", kind.as_str(), kind.schema_version(), explained.description)?;
    for field in &explained.fields {
        let optional = if field.is_optional { ", optional" } else { "" };
        writeln!(out, "  {}  {}{optional}\n      {}", field.path, field.kind, field.description)?;
    }
    if let Some(edition) = newest(kind) {
        writeln!(out, "\nfor example\n{}", edition.sample.trim_end())?;
    }
    Ok(())
}

const PREFACE: &str = "\
# Events

Every transition is an event in an append-only log, and everything else is derived from it. An
event's envelope carries `event_id` (UUIDv7), `stream_id` (an execution, a build or a node),
`version` (in its stream, from 1), `position` (in the whole log), `type`, `schema_version`,
`recorded_at`, `actor` (which part spoke, on which node), `correlation_id`, `causation_id`,
`prev_hash` and `hash`, and the `payload` that is described here, by its newest schema version.

`events/` holds a folder per event, and in it for each schema version a JSON Schema, a sample, and
what the sample means today. A released file never changes: a new shape is a new version, and an
upcaster in `src/store/upcast.rs` makes the old one the new one when it is read.

`tako-vm events NAME` says the same on the command line. This file is made by
`tako-vm events --markdown`; a test holds it to what that prints, and writes it when `UPDATE_DOCS`
is set.
";

fn write_markdown(out: &mut dyn Write) -> anyhow::Result<()> {
    write!(out, "{PREFACE}")?;
    for kind in EventKind::ALL {
        let explained = explain(*kind)?;
        writeln!(out, "\n## {} v{}\n\n{}\n", kind.as_str(), kind.schema_version(), explained.description)?;
        writeln!(out, "| field | type | |\n|---|---|---|")?;
        for field in &explained.fields {
            let optional = if field.is_optional { ", optional" } else { "" };
            row(out, &field.path, &format!("{}{optional}", field.kind), &field.description)?;
        }
    }
    Ok(())
}

fn row(out: &mut dyn Write, path: &str, kind: &str, description: &str) -> io::Result<()> {
    let kind = kind.replace('|', "\\|");
    let description = description.replace('<', "&lt;").replace('|', "\\|");
    writeln!(out, "| `{path}` | {kind} | {description} |")
}
