//! `tako-vm secrets`

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};

use super::Context;
use super::client::{Server, text};

/// Set, list and remove the secrets that jobs may name
///
/// A value is read from standard input or a file, never from an argument, which other users of the
/// machine could see. Nothing reads a value back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Give a secret a value; a newline at the end of standard input is not part of it
    Set {
        name: String,
        /// Read the value from a file, every byte of it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        server: Server,
    },
    /// Name the secrets
    List {
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Remove a secret; jobs that name it fail from now on
    Remove {
        name: String,
        #[command(flatten)]
        server: Server,
    },
}

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    match args.action {
        Action::Set { name, file, server } => {
            let value = match file {
                Some(path) => std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
                None => typed()?,
            };
            let body = json!({ "base64": base64::engine::general_purpose::STANDARD.encode(value) });
            let answer = server.connect(context)?.put(&path(&name)?, body.to_string(), PATIENCE)?;
            writeln!(context.out, "{name} is set, version {}", answer["version"])?;
        }
        Action::List { json, server } => {
            let answer = server.connect(context)?.get("/secrets")?;
            if json {
                writeln!(context.out, "{answer:#}")?;
            } else {
                for secret in answer.get("items").and_then(Value::as_array).into_iter().flatten() {
                    let version = secret["version"].to_string();
                    writeln!(context.out, "{:<32} {version:>8}  {}", text(secret, "name"), text(secret, "updated_at"))?;
                }
            }
        }
        Action::Remove { name, server } => {
            server.connect(context)?.delete(&path(&name)?, None)?;
            writeln!(context.out, "{name} is removed")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The server says what is wrong with a name; one that would be another path is not sent.
fn path(name: &str) -> Result<String> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        bail!("{name:?} is not a secret's name: 1 to 64 letters, digits and underscores, and no digit first");
    }
    Ok(format!("/secrets/{name}"))
}

fn typed() -> Result<Vec<u8>> {
    let mut value = Vec::new();
    std::io::stdin().read_to_end(&mut value).context("cannot read the value from standard input")?;
    if value.ends_with(b"\n") {
        value.pop();
    }
    Ok(value)
}
