//! The service under faults of what it stands on, and under its own death at every step.

mod clock;
mod crash;
mod disk;
mod docker;
mod dockerd;
mod hung;
mod life;
mod mute;
mod postgres;
mod read_only;
mod restore;
mod server;
mod stories;
mod tmpfs;

use std::process::Command;

use crate::fleet::Node;

/// Demands, through the command that operators have, that nothing was lost, doubled or mixed up.
#[track_caller]
fn demand_invariants(url: &str, with_blobs: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
    command.args(["doctor", "--invariants"]).current_dir(folder.path()).env("HOME", folder.path());
    command.env("TAKO_VM_DATABASE_URL", url).env("TAKO_VM_DATA_DIR", folder.path().join("data"));
    if !with_blobs {
        command.arg("--skip-blobs");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Stops a node as SIGTERM does and demands that it ends well.
async fn stop(node: &mut Node) {
    let code = node.stop().await;
    assert_eq!(code, Some(0), "{}", node.log());
}

/// The processes below one, parents first.
fn descendants(of: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Kills PID 1 of every sandbox below a process, as if the kernel had taken them.
fn kill_sandboxes(of: u32) {
    for pid in descendants(of) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        if inner.is_some_and(|pids| pids.split_whitespace().count() > 1 && pids.trim_end().ends_with("\t1")) {
            // SAFETY: a descendant of a process of this test's own.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        }
    }
}

/// Whether a program is on the path.
fn has(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).exists())
}

fn is_root() -> bool {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() == 0 }
}
