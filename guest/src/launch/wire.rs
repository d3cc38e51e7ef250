//! What host and launcher say to each other, one JSON packet each.
//!
//! ```text
//! host      Setup ──────────────▶                            (once)
//! launcher         ◀── Ready                                 (root is built, network prepared)
//! host      Spawn + [frames] ───▶                            (per sandbox)
//! launcher         ◀── Spawned, later Exited                 (everything in the sandbox is dead)
//! host      Kill ───────────────▶                            (any time; harmless when none runs)
//! ```
//!
//! `Spawn` brings the guest's end of the frame stream and, on cgroup v2, the directory of the
//! cgroup into which the sandbox is cloned. On v1 the launcher itself is in the cell's cgroups
//! and its children inherit them.
//!
//! `Failed` answers `Setup` or `Spawn` instead. The end of the host's stream ends the launcher
//! and its sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// From the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Setup(Setup),
    Spawn(Spawn),
    Kill,
}

/// From the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Ready,
    /// The sandbox's PID 1 runs; its pid as the launcher's pid namespace counts.
    Spawned {
        pid: i32,
    },
    /// PID 1 ended, and with it everything in the sandbox: its `wait` status.
    Exited {
        status: i32,
    },
    Failed {
        /// The step that failed, like `mount /proc`.
        step: String,
        /// The kernel's error number.
        errno: i32,
    },
}

/// How the cell's root is made, and whose sandboxes run in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    pub identity: Identity,
    pub root: RootPlan,
}

/// How users inside map to users of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Two host users that are nobody: the sandbox's root (the guest) and its uid 1000 (the
    /// code). Needs `CAP_SETUID` on the host.
    Pair { guest: u32, user: u32 },
    /// One user, the launcher's own, which is uid 1000 inside. Guest and code share it.
    Single { uid: u32, gid: u32 },
}

/// A read-only root: a small tmpfs with these things in it. Targets are absolute paths inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// Trees or files of the host, visible inside without writing, setuid or devices.
    pub binds: Vec<Bind>,
    /// Small files of the host, copied once.
    pub copies: Vec<Bind>,
    pub links: Vec<Link>,
    pub files: Vec<PlacedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub path: PathBuf,
    pub leads_to: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// What differs between two sandboxes of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// Size of `/tmp` and of `/dev/shm`, each; bytes.
    pub tmp_bytes: u64,
    /// Size of `/output`; bytes.
    pub output_bytes: u64,
    /// Size of `/code` and of `/input`, each; bytes.
    pub intake_bytes: u64,
    /// Inodes of `/tmp`, of `/dev/shm` and of `/output`, each.
    pub inodes: u32,
    /// `RLIMIT_AS` of every process, where no cgroup bounds the memory; bytes.
    pub address_space_bytes: Option<u64>,
}
