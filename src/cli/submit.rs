//! `tako-vm submit`

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Context;
use super::client::{Server, text};

/// Submit a Python file as a job
///
/// Without --wait the job's id is printed at once. With it the record is printed when the job
/// has ended, and the exit code is 0 for a job that succeeded and 1 for one that did not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The Python source; - reads standard input
    code: PathBuf,
    /// JSON file that the job reads as /input/data.json
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Further file below /input, under its own name; may be repeated
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Further file below /input that is another execution's artifact; may be repeated
    #[arg(long = "file-from", value_name = "NAME=EXECUTION/ARTIFACT")]
    files_from: Vec<String>,
    /// Secret that the code reads as /secrets/NAME, or as a variable with NAME=env; or, as JSON, one that the
    /// proxy writes into a header; may be repeated
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    #[arg(long)]
    job_type: Option<String>,
    /// Time limit of the code, in seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// 0 to 9; 9 runs first
    #[arg(long)]
    priority: Option<i16>,
    /// Of your jobs with the same key, --concurrency-limit run at the same time
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Without it, one
    #[arg(long, value_name = "JOBS", requires = "concurrency_key")]
    concurrency_limit: Option<u32>,
    /// Wait for the job's end and print its record
    #[arg(long)]
    wait: bool,
    /// Print nothing but the id
    #[arg(long)]
    id_only: bool,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let body = Body {
        code: read_text(&args.code)?,
        input_data: args.input.as_deref().map(read_json).transpose()?,
        files: args
            .files
            .iter()
            .map(|path| encode(path))
            .chain(args.files_from.iter().map(|given| take_from(given)))
            .collect::<Result<_>>()?,
        secrets: args.secrets.iter().map(|given| secret(given)).collect::<Result<_>>()?,
        job_type: args.job_type,
        timeout: args.timeout,
        idempotency_key: args.idempotency_key,
        priority: args.priority,
        concurrency_key: args.concurrency_key,
        concurrency_limit: args.concurrency_limit,
    };
    let client = args.server.connect(context)?;
    let accepted = client.post("/jobs", Some(serde_json::to_string(&body)?), Duration::from_secs(60))?;
    let id = text(&accepted, "execution_id").to_owned();
    if !args.wait {
        writeln!(context.out, "{id}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let record = client.wait(&id)?;
    if args.id_only {
        writeln!(context.out, "{id}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(context.out, "{record:#}")?;
    Ok(if text(&record, "status") == "succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The request; input stays the text it was, so that huge integers survive.
#[derive(serde::Serialize)]
struct Body {
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Value>,
    job_type: Option<String>,
    timeout: Option<f64>,
    idempotency_key: Option<String>,
    priority: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_limit: Option<u32>,
}

fn read_json(path: &Path) -> Result<Box<RawValue>> {
    serde_json::from_str(&read_text(path)?).with_context(|| format!("{} is not JSON", path.display()))
}

fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input as UTF-8 text")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {} as UTF-8 text", path.display()))
}

fn encode(path: &Path) -> Result<(String, Value)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no name that is UTF-8", path.display()))?;
    Ok((name.to_owned(), base64::engine::general_purpose::STANDARD.encode(bytes).into()))
}

fn take_from(given: &str) -> Result<(String, Value)> {
    let (name, from) = given.split_once('=').with_context(|| format!("{given:?} is not NAME=EXECUTION/ARTIFACT"))?;
    Ok((name.to_owned(), json!({ "from": from })))
}

fn secret(given: &str) -> Result<Value> {
    if given.starts_with('{') {
        return serde_json::from_str(given).context("a secret that begins with { must be JSON");
    }
    match given.split_once('=') {
        None => Ok(given.into()),
        Some((name, delivery @ ("file" | "env"))) => Ok(json!({ "name": name, "as": delivery })),
        // What follows may be the value, which is not repeated.
        Some((name, _)) => {
            anyhow::bail!("{name}= may be followed by file or env; set a value with tako-vm secrets set")
        }
    }
}
