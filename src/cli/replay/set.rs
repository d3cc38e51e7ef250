//! Replays many executions and counts the verdicts.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{Args, Context, text};
use crate::cli::client::{Client, escaped};
use crate::clock::{Clock as _, SystemClock};

/// Executions of one page of the list.
const PAGE: u32 = 200;

/// Ids that are printed of each verdict.
const SHOWN: usize = 20;

/// Before everything else, so that live jobs do not wait for replays.
const PRIORITY: i16 = 0;

#[derive(Default)]
struct Summary {
    identical: u32,
    normalised: u32,
    /// Original, replay and the parts that differ.
    diverged: Vec<(String, String, Vec<String>)>,
    refused: BTreeMap<String, Vec<String>>,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    // What is submitted from now on, the replays among it, is not in the set.
    let until = args.until.unwrap_or_else(|| SystemClock.now());
    let filter = Filter {
        job_type: args.job_type.unwrap_or_default(),
        since: args.since,
        until,
        status: args.status,
        limit: args.limit as usize,
    };
    let client = args.server.connect(context)?;
    let ids = filter.executions(&client)?;
    let total = ids.len();
    let body = json!({"image": args.image, "priority": PRIORITY}).to_string();
    let mut summary = Summary::default();
    let mut progress = Progress { total, done: 0, is_terminal: std::io::stderr().is_terminal() };
    client.block_on(async {
        let replays = ids.into_iter().map(|id| {
            let (client, body) = (&client, body.clone());
            async move {
                let path = format!("/executions/{id}/replay?wait=300");
                let answer = client.post_async(&path, Some(body), Duration::from_secs(320)).await;
                (id, answer)
            }
        });
        let mut replays = stream::iter(replays).buffer_unordered(usize::from(args.concurrency));
        while let Some((id, answer)) = replays.next().await {
            summary.add(id, answer?);
            progress.step(&summary);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    progress.end();
    if args.json {
        writeln!(context.out, "{:#}", summary.json())?;
    } else {
        summary.print(context.out)?;
    }
    Ok(if summary.diverged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Filter {
    job_type: String,
    since: Option<DateTime<Utc>>,
    until: DateTime<Utc>,
    status: Option<String>,
    limit: usize,
}

impl Filter {
    /// Ids of what ended and is no replay itself, the newest first.
    fn executions(&self, client: &Client) -> Result<Vec<String>> {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut query = format!("job_type={}&until={}", escaped(&self.job_type), time(self.until));
        if let Some(since) = self.since {
            query.push_str(&format!("&since={}", time(since)));
        }
        if let Some(status) = &self.status {
            query.push_str(&format!("&status={status}"));
        }
        let (mut ids, mut before) = (Vec::new(), String::new());
        loop {
            let page = client.get(&format!("/executions?{query}&view=full&limit={PAGE}{before}"))?;
            for item in page.get("items").and_then(Value::as_array).into_iter().flatten() {
                if ids.len() < self.limit && self.is_wanted(item) {
                    ids.push(text(item, "execution_id").to_owned());
                }
            }
            match page.get("next_before").and_then(Value::as_str) {
                Some(id) if ids.len() < self.limit => before = format!("&before={id}"),
                _ => return Ok(ids),
            }
        }
    }

    fn is_wanted(&self, item: &Value) -> bool {
        let has_ended = match text(item, "status") {
            "queued" | "running" => false,
            "cancelled" => self.status.is_some(),
            _ => true,
        };
        has_ended && text(item, "relationship") != "replay"
    }
}

impl Summary {
    fn add(&mut self, id: String, answer: Value) {
        match text(&answer, "verdict") {
            "identical" => {
                self.identical += 1;
                self.normalised += u32::from(answer.get("normalised") == Some(&Value::Bool(true)));
            }
            "diverged" => {
                let differences = answer.get("differences").and_then(Value::as_array).into_iter().flatten();
                let parts = differences.map(|difference| text(difference, "part").to_owned()).collect();
                self.diverged.push((id, text(&answer, "execution_id").to_owned(), parts));
            }
            "refused" => self.refused.entry(text(&answer, "cause").to_owned()).or_default().push(id),
            // It did not end while the server waited.
            _ => self.refused.entry("no_verdict_yet".to_owned()).or_default().push(id),
        }
    }

    fn refusals(&self) -> usize {
        self.refused.values().map(Vec::len).sum()
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let of_them = if self.normalised > 0 { format!("  ({} normalised)", self.normalised) } else { String::new() };
        writeln!(out, "identical  {:>6}{of_them}", self.identical)?;
        writeln!(out, "diverged   {:>6}", self.diverged.len())?;
        for (original, replay, parts) in self.diverged.iter().take(SHOWN) {
            writeln!(out, "  {original}  replay {replay}  {}", parts.join(", "))?;
        }
        more(self.diverged.len(), out)?;
        writeln!(out, "refused    {:>6}", self.refusals())?;
        for (cause, ids) in &self.refused {
            writeln!(out, "  {cause} {}: {}", ids.len(), ids.iter().take(3).cloned().collect::<Vec<_>>().join(" "))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let diverged = self.diverged.iter().map(|(original, replay, parts)| {
            json!({"original_execution_id": original, "execution_id": replay, "parts": parts})
        });
        json!({
            "identical": self.identical,
            "normalised": self.normalised,
            "diverged": diverged.collect::<Vec<_>>(),
            "refused": self.refused,
        })
    }
}

fn more(count: usize, out: &mut dyn Write) -> std::io::Result<()> {
    match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "  ... {more} more; --json has them"),
    }
}

/// One line on standard error, written over at a terminal and now and then elsewhere.
struct Progress {
    total: usize,
    done: usize,
    is_terminal: bool,
}

impl Progress {
    fn step(&mut self, summary: &Summary) {
        self.done += 1;
        if !self.is_terminal && !self.done.is_multiple_of(100) && self.done != self.total {
            return;
        }
        let (begin, end) = if self.is_terminal { ("\r", "") } else { ("", "\n") };
        let (diverged, refused) = (summary.diverged.len(), summary.refusals());
        let line = format!(
            "{begin}{}/{} replayed: {} identical, {diverged} diverged, {refused} refused{end}",
            self.done, self.total, summary.identical
        );
        // Nobody reads it, then.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn end(&self) {
        if self.is_terminal && self.done > 0 {
            let _ = std::io::stderr().write_all(b"\n");
        }
    }
}
