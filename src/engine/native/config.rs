//! What the operator chooses about the native engine.

use std::path::PathBuf;

/// How the native engine runs its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeConfig {
    /// Sandboxes at a time, waiting ones included.
    pub max_cells: usize,
    /// The interpreter; `None` means `/usr/bin/python3`. One outside `/usr` brings its whole
    /// installation (`sys.base_prefix`, and `sys.prefix` of a virtual environment) with it.
    pub python: Option<PathBuf>,
    /// What sandboxes see as their root.
    pub root: Root,
    /// Where the packages of job types lie; `None` means that there are none.
    pub layers: Option<PathBuf>,
    /// Where cells are locked and listed; `None` means `/run/tako-vm` as root, else a
    /// directory of the user's own. All servers of a host that share it know each other's
    /// sandboxes and clean up after each other.
    pub runtime_dir: Option<PathBuf>,
    /// Whether to refuse to start without cgroup limits of memory, processes and CPU.
    pub require_limits: bool,
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self { max_cells: 8, python: None, root: Root::Host, layers: None, runtime_dir: None, require_limits: false }
    }
}

/// What sandboxes see as their root, always read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The host's programs and libraries, without its configuration, state and homes.
    Host,
    /// A directory into which an image was unpacked. Everything in it is visible.
    Unpacked(PathBuf),
}
