//! The drill that operators have for a backup, on a log with jobs in it.

use std::process::Command;

use super::has;

#[test]
fn a_backup_is_restored_verified_and_served_from() {
    if !has("pg_dump") {
        eprintln!("skipped: a_backup_is_restored_verified_and_served_from: pg_dump is not installed");
        return;
    }
    let mut drill = Command::new("scripts/restore-drill.sh");
    drill.arg(env!("CARGO_BIN_EXE_tako-vm")).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = drill.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the restored log holds, and the service goes on from it"), "{said}");
}
