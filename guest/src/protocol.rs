//! What the frames carry. One session runs one job:
//!
//! ```text
//! host   Boot ─────────────▶                                 (sandbox just started)
//! guest         ◀───────────── Ready                         (interpreter waits: the pool keeps it here)
//! host   File FileData… ×n ─▶  Run ─▶                        (the job arrives)
//! guest         ◀── Started, Stdout…, Stderr…                (interleaved as they come)
//! host   Cancel ────────────▶                                (only if asked to)
//! guest         ◀── Artifact ArtifactData… ×n, Exited        (everything is dead; the sandbox may go)
//! ```
//!
//! The guest answers `Fault` instead of any of its frames when it cannot go on. The host ends
//! a session at any point by killing the sandbox. End of the host's stream means the same as
//! `Cancel`: a sandbox never outlives its host's interest in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The protocol's version. Guest and host must have the same one.
pub const VERSION: u32 = 2;

/// The longest path of an artifact, collected or refused.
pub const MAX_PATH_BYTES: usize = 255;
/// Refused entries that a report names; further ones are left out.
pub const MAX_REFUSED_ARTIFACTS: usize = 100;
/// The longest class name of an exception.
pub const MAX_NAME_BYTES: usize = 1024;
/// Base classes of an exception that a report names.
pub const MAX_BASES: usize = 64;
/// Names and values of [`Run::environment`] together, with two bytes for each pair: what a pipe takes
/// at once, whoever reads.
pub const MAX_ENVIRONMENT_BYTES: usize = 32 << 10;
/// Connections of the code that are carried at the same time; further ones wait.
pub const MAX_CHANNELS: usize = 32;
/// Bytes of one channel and direction that may be on their way: sent, and not yet taken.
pub const CHANNEL_WINDOW_BYTES: usize = 64 << 10;
/// The longest message of an exception or a fault.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// The first frame: how to start the interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// [`VERSION`] of the host.
    pub protocol: u32,
    /// The interpreter's path inside the sandbox; `None` means the first `python3` on `PATH`.
    pub python: Option<String>,
    /// Modules to import before the job arrives.
    pub preload: Vec<String>,
    /// The environment of the user's code beside `PATH`, `HOME`, `LANG`,
    /// `PYTHONDONTWRITEBYTECODE` and `PYTHONHASHSEED`, which the guest sets where this does not.
    pub environment: BTreeMap<String, String>,
    /// Numeric user and group of the user's code.
    pub uid: u32,
    pub gid: u32,
    /// Device nodes that the code may open: it becomes a member of their groups.
    pub devices: Vec<String>,
    /// From `Boot` to `Ready`, milliseconds.
    pub startup_timeout_ms: u64,
    /// Limits the guest sets on the user's processes by `setrlimit`.
    pub rlimits: Rlimits,
}

/// Resource limits of each process of the user's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Open file descriptors (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Bytes of one file (`RLIMIT_FSIZE`).
    pub file_bytes: u64,
    /// Processes and threads (`RLIMIT_NPROC`); the cgroup has the stricter one. The kernel counts
    /// those of the same user in all sandboxes of a user namespace together, so that a low
    /// value lets one sandbox starve another; 0 sets no limit.
    pub processes: u64,
}

/// The interpreter is started and blocked on a read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// [`VERSION`] of the guest.
    pub protocol: u32,
    /// The interpreter's version as it says itself, like `3.11.2`.
    pub python_version: String,
    /// From `Boot` to `Ready`, milliseconds.
    pub startup_ms: u64,
}

/// A file that follows in data frames: exactly `bytes` bytes, none for an empty file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHeader {
    /// To the guest: absolute, below `/code`, `/input` or `/secrets`. From the guest: relative to `/output`.
    pub path: String,
    pub bytes: u64,
}

/// Starts the code in `/code/main.py`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// From `Started` to the end of the code, milliseconds.
    pub execution_timeout_ms: u64,
    /// Bytes kept of standard output and of standard error, each.
    pub stdout_limit_bytes: u64,
    pub stderr_limit_bytes: u64,
    pub artifacts: ArtifactLimits,
    /// Put into the environment of the waiting interpreter just before the code starts; at most
    /// [`MAX_ENVIRONMENT_BYTES`].
    pub environment: BTreeMap<String, String>,
    /// A port of 127.0.0.1 on which the guest listens for the code from before it starts, and whose
    /// connections it carries as channels; none without it.
    pub egress_port: Option<u16>,
}

/// What is collected of `/output`. A file beyond a limit is refused, never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactLimits {
    pub max_count: u32,
    pub max_file_bytes: u64,
    pub max_total_bytes: u64,
}

/// Asks the guest to end the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {}

/// What happened, as the kernel told the guest. The last frame of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub end: End,
    /// The uncaught exception, as the interpreter states it. User code shares the interpreter,
    /// so this is the code's own word; nothing but the error's name depends on it.
    pub exception: Option<Exception>,
    /// From `Started` to the end of the code, milliseconds.
    pub wall_ms: u64,
    /// User and system time of all processes of the code, milliseconds.
    pub cpu_ms: u64,
    /// Peak memory in bytes: the cgroup's where it can be read, else the largest process's.
    pub peak_memory_bytes: u64,
    /// Whether the cgroup's OOM killer struck inside this sandbox. `None` where the guest
    /// cannot read the cgroup; the host then asks the engine.
    pub oom_killed: Option<bool>,
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    /// Bytes the code wrote, kept or not.
    pub stdout_total_bytes: u64,
    pub stderr_total_bytes: u64,
    /// Entries of `/output` that were not collected, and why; the first
    /// [`MAX_REFUSED_ARTIFACTS`] of them.
    pub refused_artifacts: Vec<RefusedArtifact>,
}

/// How the code ended. Exactly one is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum End {
    /// The interpreter exited by itself.
    Exited { code: i32 },
    /// A signal that the guest did not send ended the interpreter.
    Signaled { signal: i32 },
    /// The guest killed it at the execution limit.
    TimedOut,
    /// The guest killed it at the host's word.
    Cancelled,
}

/// An uncaught exception: `class` is qualified unless it is a builtin (`json.decoder.JSONDecodeError`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    pub class: String,
    /// Base classes in resolution order, so that a subclass of `OSError` is known as one.
    pub bases: Vec<String>,
    pub message: String,
}

/// An entry of `/output` that was not collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedArtifact {
    /// Lossy UTF-8, control characters escaped, cut at [`MAX_PATH_BYTES`].
    pub name: String,
    pub reason: Refusal,
}

/// Why an entry of `/output` was not collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A link, FIFO, socket or device.
    NotARegularFile,
    /// More than one name leads to the file.
    HardLink,
    /// Not UTF-8, control characters, or longer than [`MAX_PATH_BYTES`].
    BadName,
    TooDeep,
    TooLarge,
    TooMany,
    TotalTooLarge,
    /// It changed or vanished while it was read, or could not be read.
    Unreadable,
    /// It holds a secret that the job was given; said by the host alone.
    HoldsASecret,
}

/// The guest cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub phase: Phase,
    pub kind: FaultKind,
    /// For the operator: no user data.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Startup,
    Execution,
    Collection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The interpreter did not become ready in time.
    StartupTimeout,
    /// The interpreter ended before it was ready: a module to preload is missing, say.
    StartupFailed,
    /// The host sent what the protocol does not allow here.
    Protocol,
    /// The kernel refused what the guest needs.
    System,
}

/// The longest beginning of a text that has at most so many bytes and only whole characters.
pub fn prefix(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_prefix_has_whole_characters_only() {
        assert_eq!(prefix("aéb", 0), "");
        assert_eq!(prefix("aéb", 2), "a");
        assert_eq!(prefix("aéb", 3), "aé");
        assert_eq!(prefix("aéb", 9), "aéb");
    }
}
