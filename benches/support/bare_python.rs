//! What running Python costs without any sandbox: the reference of every native figure.

use anyhow::{Result, ensure};
use tokio::process::Command;

/// The interpreter of the native engine; the first on `PATH` may be a script that looks for one.
const PYTHON: &str = "/usr/bin/python3";

/// `python3 -c 'print(1)'`
pub async fn run() -> Result<()> {
    let output = Command::new(PYTHON).args(["-c", "print(1)"]).output().await?;
    ensure!(output.stdout == b"1\n", "{output:?}");
    Ok(())
}
