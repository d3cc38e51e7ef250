//! What the sandbox's memory cgroup tells, where it can be read.

use std::fs;
use std::path::{Path, PathBuf};

/// The memory cgroup this process is in.
pub struct MemoryCgroup {
    version: Version,
    directory: PathBuf,
    /// OOM kills counted before the job.
    kills_at_start: Option<u64>,
}

#[derive(Clone, Copy)]
enum Version {
    V1,
    V2,
}

impl MemoryCgroup {
    /// Finds the cgroup below `/sys/fs/cgroup`; `None` where it is not mounted or is the root
    /// of the hierarchy, which speaks of the whole machine.
    pub fn find() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        let (version, directory) = locate(&text, Path::new("/sys/fs/cgroup"))?;
        let mut found = Self { version, directory, kills_at_start: None };
        found.kills_at_start = found.kills();
        Some(found)
    }

    /// The most memory the sandbox used, in bytes.
    pub fn peak_bytes(&self) -> Option<u64> {
        let name = match self.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        fs::read_to_string(self.directory.join(name)).ok()?.trim().parse().ok()
    }

    /// Whether the OOM killer struck here since [`MemoryCgroup::find`].
    pub fn oom_killed(&self) -> Option<bool> {
        Some(self.kills()? > self.kills_at_start?)
    }

    fn kills(&self) -> Option<u64> {
        let name = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.directory.join(name)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

/// Reads `/proc/self/cgroup` and finds the directory that has the memory files. Inside a
/// container the path may be the host's while the mount shows the container's own cgroup, so
/// the mount's root is the second guess.
fn locate(proc_self_cgroup: &str, mount: &Path) -> Option<(Version, PathBuf)> {
    let mut candidates = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            candidates.push((Version::V2, mount.to_owned(), path));
        } else if controllers.split(',').any(|name| name == "memory") {
            candidates.push((Version::V1, mount.join("memory"), path));
        }
    }
    candidates.into_iter().find_map(|(version, mount, path)| {
        let own = (!path.contains("..")).then(|| mount.join(path));
        own.into_iter().chain([mount]).find_map(|directory| {
            let file = match version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            // Version 2 has no memory files in the root; version 1 has, and this one beside.
            let is_root = directory.join("release_agent").exists();
            (directory.join(file).exists() && !is_root).then_some((version, directory))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mount(PathBuf);

    impl Mount {
        fn new(name: &str, files: &[&str]) -> Self {
            let path = std::env::temp_dir().join(format!("tako-cgroup-{name}-{}", std::process::id()));
            for file in files {
                let file = path.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
            }
            Self(path)
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_own_group_is_found_before_the_mounts_root() {
        let mount = Mount::new("own", &["memory/a/b/memory.oom_control", "memory/memory.oom_control"]);
        let (_, directory) = locate("4:cpu,memory:/a/b\n0::/\n", &mount.0).unwrap();
        assert_eq!(directory, mount.0.join("memory/a/b"));
        let (_, directory) = locate("4:memory:/not/here\n0::/\n", &mount.0).unwrap();
        assert_eq!(directory, mount.0.join("memory"));
    }

    #[test]
    fn the_root_of_the_machine_is_not_taken_for_the_sandbox() {
        let mount = Mount::new("root", &["memory/memory.oom_control", "memory/release_agent"]);
        assert!(locate("4:memory:/\n0::/\n", &mount.0).is_none());
    }

    #[test]
    fn kills_are_counted_from_the_start() {
        let mount = Mount::new("kills", &["memory/x/memory.oom_control"]);
        let (version, directory) = locate("4:memory:/x\n", &mount.0).unwrap();
        let mut group = MemoryCgroup { version, directory, kills_at_start: Some(3) };
        assert_eq!(group.oom_killed(), Some(false));
        group.kills_at_start = Some(2);
        assert_eq!(group.oom_killed(), Some(true));
    }
}
