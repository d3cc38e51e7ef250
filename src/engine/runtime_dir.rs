//! Where engines keep files that mean nothing after a restart of the host.

use std::path::{Path, PathBuf};

/// `/run/tako-vm` as root, else a directory of the user's own. It may not exist yet.
pub(super) fn runtime_dir() -> PathBuf {
    // SAFETY: geteuid cannot fail.
    let uid = unsafe { libc::geteuid() };
    if uid == 0 {
        return "/run/tako-vm".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if Path::new(&directory).is_dir() => Path::new(&directory).join("tako-vm"),
        _ => std::env::temp_dir().join(format!("tako-vm-{uid}")),
    }
}
