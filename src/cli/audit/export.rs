//! `tako-vm audit export`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::super::Context;
use super::super::server::open_store;
use crate::store::{Store, StoredEvent};

/// Seals, or events, read at once.
const PAGE: u32 = 1000;

/// Write the seals, and if asked the events before each, as lines of JSON
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write the events as well; their payloads are texts, so that their hashes can be recomputed
    #[arg(long)]
    events: bool,
    /// Begin behind this seal
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    since_seal: i64,
    /// Write to this file instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let config = context.load()?.config;
    let (seals, events) = super::runtime()?.block_on(async {
        let store = open_store(&config, "").await?;
        match &args.out {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                let mut out = BufWriter::new(file);
                let counts = export(&store, &args, &mut out).await?;
                out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
                Ok(counts)
            }
            None => export(&store, &args, &mut *context.out).await,
        }
    })?;
    eprintln!("exported {seals} seals and {events} events");
    Ok(ExitCode::SUCCESS)
}

async fn export(store: &Store, args: &Args, out: &mut dyn Write) -> Result<(u64, u64)> {
    let (mut seals, mut events, mut after) = (0, 0, args.since_seal);
    loop {
        let page = store.seals(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok((seals, events)) };
        after = last.seal_no;
        for seal in &page {
            let mut position = seal.first_position - 1;
            while args.events && position < seal.last_position {
                let found = store.log_events(position, &[], PAGE).await?;
                let Some(last) = found.last() else { break };
                position = last.position;
                for event in found.iter().take_while(|event| event.position <= seal.last_position) {
                    writeln!(out, "{}", line(event))?;
                    events += 1;
                }
            }
            writeln!(out, "{}", json!({ "seal": seal }))?;
            seals += 1;
        }
    }
}

fn line(event: &StoredEvent) -> serde_json::Value {
    json!({"event": {
        "position": event.position,
        "stream_id": event.stream_id,
        "stream_kind": event.stream_kind.as_str(),
        "version": event.version,
        "event_id": event.event_id,
        "type": event.event_type,
        "schema_version": event.schema_version,
        "recorded_at": event.recorded_at,
        "actor": event.actor,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "payload": event.payload,
        "prev_hash": event.prev_hash,
        "hash": event.hash,
    }})
}
