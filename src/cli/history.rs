//! `tako-vm history`

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::Context;
use super::client::{Server, text};
use crate::domain::{Envelope, Event, ExecutionRecord, SecretRemoved, SecretSet};
use crate::store;

/// Show an execution's events, what each made of its record, and the record as it was
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    execution_id: Uuid,
    /// Show the record as it was after that many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    at_version: Option<i32>,
    /// Show the record as it was at that time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "at_version")]
    at: Option<DateTime<Utc>>,
    /// Show after each event what it changed in the record, field by field
    #[arg(long, conflicts_with_all = ["at_version", "at", "json"])]
    step: bool,
    /// Print the events, or the record, as the server sent them
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let moment = match (args.at_version, args.at) {
        (Some(version), _) => Some(format!("at_version={version}")),
        (None, Some(at)) => Some(format!("at={}", at.to_rfc3339_opts(SecondsFormat::Micros, true))),
        (None, None) => None,
    };
    if let Some(moment) = moment {
        let record = client.get(&format!("/executions/{}?view=full&{moment}", args.execution_id))?;
        if args.json {
            writeln!(context.out, "{record:#}")?;
        } else {
            for (field, value) in flat(&record) {
                writeln!(context.out, "{field:<28} {value}")?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.get(&format!("/jobs/{}/events", args.execution_id))?;
    if args.json {
        writeln!(context.out, "{answer:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let events = answer.get("items").and_then(Value::as_array).context("the server sent no events")?;
    writeln!(context.out, "execution {}", args.execution_id)?;
    let mut record = None;
    for event in events {
        let envelope = envelope(event)?;
        let before = json(&record);
        record = ExecutionRecord::evolve(record, &envelope)?;
        let status = record.as_ref().map_or("-", |record: &ExecutionRecord| record.status().as_str());
        writeln!(
            context.out,
            "{:>3}  {}  {:<22} {:<9}  {}",
            envelope.version,
            envelope.recorded_at.format("%H:%M:%S%.3f"),
            envelope.event.kind().as_str(),
            status,
            gist(&envelope.event),
        )?;
        if args.step {
            print_changes(&flat(&before), &flat(&json(&record)), context.out)?;
        }
    }
    if args.step {
        return Ok(ExitCode::SUCCESS);
    }
    let Some(record) = record else { return Ok(ExitCode::SUCCESS) };
    let shown = client.get(&format!("/executions/{}", args.execution_id))?;
    writeln!(context.out, "record after version {}:", record.version)?;
    for field in ["status", "exit_code", "duration_ms", "output", "error"] {
        match shown.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) => writeln!(context.out, "     {field:<12} {value}")?,
            Some(value) => writeln!(context.out, "     {field:<12} {value}")?,
        }
    }
    for stream in ["stdout", "stderr"] {
        for (number, line) in text(&shown, stream).lines().enumerate().take(20) {
            let label = if number == 0 { stream } else { "" };
            writeln!(context.out, "     {label:<12} {line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json(record: &Option<ExecutionRecord>) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

/// Every value of a record by its dotted path; what is null is not there.
fn flat(record: &Value) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    flatten("", record, &mut fields);
    fields
}

fn flatten(at: &str, value: &Value, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, value) in members {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                flatten(&path, value, fields);
            }
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            fields.insert(at.to_owned(), value.to_string());
        }
    }
}

/// `+` for a field that came, `-` for one that went, `~` for one that changed.
fn print_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        match (before.get(name), after.get(name)) {
            (None, Some(value)) => writeln!(out, "     + {name} = {value}")?,
            (Some(value), None) => writeln!(out, "     - {name} was {value}")?,
            (Some(was), Some(is)) if was != is => writeln!(out, "     ~ {name} = {is}, was {was}")?,
            _ => {}
        }
    }
    Ok(())
}

/// An event as the API shows it, back in the domain's model.
fn envelope(event: &Value) -> Result<Envelope> {
    let payload = event.get("payload").unwrap_or(&Value::Null).to_string();
    let schema_version = serde_json::from_value(event["schema_version"].clone())?;
    Ok(Envelope {
        event_id: text(event, "event_id").parse()?,
        stream_id: text(event, "stream_id").parse()?,
        version: serde_json::from_value(event["version"].clone())?,
        recorded_at: serde_json::from_value(event["recorded_at"].clone())?,
        correlation_id: serde_json::from_value(event["correlation_id"].clone())?,
        event: store::event_of(text(event, "type"), schema_version, &payload)?,
    })
}

/// What is worth a line of an event.
fn gist(event: &Event) -> String {
    match event {
        Event::JobSubmitted(job) => {
            let from = job.parent.map_or(String::new(), |parent| {
                format!(", {} of {}", parent.relationship.as_str(), parent.execution_id)
            });
            format!("{} code {} input {}{from}", job.job_version, job.code.short(), job.input.short())
        }
        Event::DependenciesDeclared(declared) => format!("after {} executions", declared.after.len()),
        Event::DependenciesMet(met) => format!("{} executions ended", met.ended.len()),
        Event::JobScheduled(scheduled) => format!("by {} for {}", scheduled.name, scheduled.due_at),
        Event::JobDequeued(dequeued) => {
            format!("attempt {} in slot {} under lease {}", dequeued.attempt, dequeued.slot, dequeued.lease)
        }
        Event::ExecutionStarted(started) => {
            let sandbox = &started.sandbox;
            format!(
                "{} sandbox, {}/{}, image {}",
                serde_json::to_value(sandbox.warmth).ok().as_ref().and_then(Value::as_str).unwrap_or("-"),
                sandbox.engine,
                sandbox.runtime,
                sandbox.image_digest.get(..19).unwrap_or(&sandbox.image_digest),
            )
        }
        Event::ExecutionSucceeded(succeeded) => {
            let timing = &succeeded.observed.timing;
            format!(
                "{} ms of {} ms running, {} artifacts",
                timing.execution_ms,
                timing.total_ms,
                succeeded.observed.artifacts.len()
            )
        }
        Event::ExecutionFailed(failed) => format!("{}: {}", failed.error.error_type.as_str(), failed.error.message),
        Event::ExecutionTimedOut(timed_out) => format!("limit {} ms", timed_out.limit_ms),
        Event::ExecutionOutOfMemory(oom) => {
            format!("limit {} MiB, peak {} MiB", oom.limit_bytes >> 20, oom.peak_bytes >> 20)
        }
        Event::CancelRequested(request) => format!("by {}", request.by),
        Event::ExecutionCancelled(cancelled) => format!("by {}", cancelled.by),
        Event::LeaseExpired(expired) => format!("lease {}: {}", expired.lease, expired.cause),
        Event::RetryScheduled(retry) => format!("in {} ms after {}", retry.delay_ms, retry.cause.message),
        Event::JobDeadLettered(letter) => {
            format!("{} after {} attempts", letter.error_type.as_str(), letter.attempts)
        }
        Event::DeadLetterRequeued(requeued) => format!("as {}", requeued.execution_id),
        Event::DeadLetterDiscarded(discarded) => discarded.reason.clone().unwrap_or_default(),
        Event::ReplayVerdictRecorded(verdict) => {
            serde_json::to_value(&verdict.verdict).map(|verdict| verdict.to_string()).unwrap_or_default()
        }
        Event::JobRejected(rejected) => rejected.reason.clone(),
        Event::SecretsDelivered(delivered) => {
            let secrets = delivered.secrets.iter().map(|secret| format!("{} version {}", secret.name, secret.version));
            secrets.collect::<Vec<_>>().join(", ")
        }
        Event::EgressObserved(observed) => {
            let hosts = observed.hosts.iter().map(|host| {
                format!("{}:{} sent {} received {} bytes", host.host, host.port, host.bytes_sent, host.bytes_received)
            });
            let refused: u64 = observed.refused.iter().map(|refused| refused.count).sum();
            let refused = (refused > 0).then(|| format!("{refused} refused"));
            hosts.chain(refused).collect::<Vec<_>>().join(", ")
        }
        Event::SecretSet(SecretSet { name, version, by, .. })
        | Event::SecretRemoved(SecretRemoved { name, version, by, .. }) => format!("{name} version {version} by {by}"),
        Event::ExecutionExpired(expired) => format!("records are kept for {} days", expired.records_days),
        Event::PayloadShredded(shredded) => format!("by {}", shredded.by),
        Event::BuildRequested(_)
        | Event::BuildStarted(_)
        | Event::BuildSucceeded(_)
        | Event::BuildFailed(_)
        | Event::JobTypeDefined(_)
        | Event::JobTypePaused(_)
        | Event::JobTypeResumed(_)
        | Event::NodeStarted(_)
        | Event::NodeDraining(_)
        | Event::NodeStopped(_)
        | Event::ScheduleDefined(_)
        | Event::ScheduleChanged(_)
        | Event::SchedulePaused(_)
        | Event::ScheduleResumed(_)
        | Event::ScheduleRemoved(_)
        | Event::ScheduleFired(_)
        | Event::ScheduleSkipped(_)
        | Event::TenantShredded(_)
        | Event::RetentionApplied(_)
        | Event::LogArchived(_) => String::new(),
    }
}
