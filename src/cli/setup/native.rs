//! Whether the kernel lets us make sandboxes without a daemon, from what it says in `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the native engine would run on, or what to do.
pub(super) fn look(python: &Path) -> Result<String, String> {
    let python = find_python(python)
        .ok_or_else(|| "no python3 found; install it (Debian: apt-get install python3)".to_owned())?;
    let version = python_version(&python).ok_or_else(|| format!("{} does not say its version", python.display()))?;
    let is_root = crate::cli::dev::is_root();
    if !is_root {
        may_make_user_namespaces()?;
    }
    let limits = match (cgroup_version(), is_root) {
        (Some(version), true) => format!("limits by cgroup v{version}"),
        (Some(version), false) => {
            format!("limits only in a delegated cgroup (v{version}): run it as a systemd service")
        }
        (None, _) => return Err("no cgroups are mounted on /sys/fs/cgroup".to_owned()),
    };
    Ok(format!("{version} at {}, {limits}", python.display()))
}

fn find_python(configured: &Path) -> Option<PathBuf> {
    if !configured.as_os_str().is_empty() {
        return configured.is_file().then(|| configured.to_path_buf());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("python3")).find(|file| file.is_file())
}

fn python_version(python: &Path) -> Option<String> {
    let output = Command::new(python).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| text.starts_with("Python 3."))
}

fn may_make_user_namespaces() -> Result<(), String> {
    let says = |path: &str, word: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == word);
    for (path, word, advice) in [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns",
        ),
    ] {
        if says(path, word) {
            return Err(format!("ordinary users may not make user namespaces; as root: {advice}"));
        }
    }
    Ok(())
}

fn cgroup_version() -> Option<u8> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Some(2);
    }
    Path::new("/sys/fs/cgroup/memory").exists().then_some(1)
}
