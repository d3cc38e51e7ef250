//! `tako-vm status`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Context, dev};

/// Ask a running server how it is
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server; without it the one of `dev up`, else the configured address
    #[arg(long, env = "TAKO_VM_URL")]
    url: Option<String>,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let url = match args.url {
        Some(url) => url,
        None => dev::server_url(&context.load()?.config),
    };
    let health = health(&url, Duration::from_secs(5)).with_context(|| format!("no healthy answer from {url}"))?;
    if args.json {
        writeln!(context.out, "{health:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(context.out, "url      {url}")?;
    for (key, value) in health.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => writeln!(context.out, "{key}  {text}")?,
            value => writeln!(context.out, "{key}  {value}")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What `GET /health` answers.
pub(super) fn health(url: &str, timeout: Duration) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The server stands on this machine or is named; a proxy of the environment is not meant.
        let client = reqwest::Client::builder().no_proxy().timeout(timeout).build()?;
        let answer = client.get(format!("{}/health", url.trim_end_matches('/'))).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    })
}
