//! `tako-vm audit shred`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use uuid::Uuid;

use super::super::Context;
use super::super::client::Server;

/// Make the private payload of an execution, or of all a tenant has had, unreadable for everybody
///
/// Its keys are destroyed and the bytes that only it needed removed; the log, its chains and its seals stay
/// valid. It cannot be undone. Needs a running server and the scope admin.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An ended execution
    #[arg(long, value_name = "ID", required_unless_present = "tenant", conflicts_with = "tenant")]
    execution: Option<Uuid>,
    /// Every execution of a tenant, of which none may be in progress
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Why; the log keeps it
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    server: Server,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let client = args.server.connect(context)?;
    let path = match (&args.execution, &args.tenant) {
        (Some(id), _) => format!("/executions/{id}/shred"),
        (None, tenant) => format!("/tenants/{}/shred", tenant.as_deref().unwrap_or_default()),
    };
    let body = json!({ "reason": args.reason }).to_string();
    let done = client.post(&path, Some(body), Duration::from_secs(3600))?;
    let number = |field: &str| done.get(field).and_then(serde_json::Value::as_u64).unwrap_or_default();
    let (executions, keys) = (number("executions"), number("destroyed_keys"));
    let (blobs, bytes) = (number("removed_blobs"), number("removed_bytes"));
    writeln!(
        context.out,
        "shredded {executions} executions: {keys} keys destroyed, {blobs} blobs ({bytes} bytes) removed"
    )?;
    if keys == 0 {
        writeln!(context.out, "nothing of it was encrypted: what the log itself says of it stays readable there")?;
    }
    Ok(ExitCode::SUCCESS)
}
