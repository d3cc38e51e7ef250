//! cgroup v1: one directory per controller, which a process enters one by one.
//!
//! Entering is slow (the kernel stops the world of that hierarchy), so the launcher is put in
//! once and sandboxes inherit the groups from it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mounts::Mount;
use super::{Limit, Limits, PARENT, PERIOD_US, Usage, cpus, read_key, read_number, remove_group, write};

/// The parent directories in which groups are made, per controller that can be had.
#[derive(Debug)]
pub struct Hierarchies {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Hierarchies {
    /// The hierarchies in which a parent group exists or could be made; `None` without any.
    pub fn find(mounts: &[Mount]) -> Option<Self> {
        let parent = |limit: Limit| {
            let mount =
                mounts.iter().find(|mount| mount.controllers.iter().flatten().any(|name| name == limit.as_str()))?;
            let parent = mount.path.join(PARENT);
            fs::create_dir_all(&parent).ok()?;
            is_writable(&parent).then_some(parent)
        };
        let found = Self { memory: parent(Limit::Memory), pids: parent(Limit::Pids), cpu: parent(Limit::Cpu) };
        Limit::ALL.iter().any(|&limit| found.has(limit)).then_some(found)
    }

    pub fn has(&self, limit: Limit) -> bool {
        self.parent(limit).is_some()
    }

    pub fn parents(&self) -> impl Iterator<Item = &Path> {
        Limit::ALL.iter().filter_map(|&limit| self.parent(limit)).map(PathBuf::as_path)
    }

    fn parent(&self, limit: Limit) -> Option<&PathBuf> {
        match limit {
            Limit::Memory => self.memory.as_ref(),
            Limit::Pids => self.pids.as_ref(),
            Limit::Cpu => self.cpu.as_ref(),
        }
    }

    /// See [`super::Cgroups::group`].
    pub fn group(&self, name: &str) -> io::Result<Group> {
        self.clear(name)?;
        let directory = |limit| self.parent(limit).map(|parent| parent.join(name));
        let mut group = Group {
            memory: directory(Limit::Memory),
            pids: directory(Limit::Pids),
            cpu: directory(Limit::Cpu),
            set: None,
            kills_at_start: None,
        };
        // Controllers mounted together share a directory.
        let made = group.directories().try_for_each(fs::create_dir_all);
        self.weigh();
        if let Err(error) = made {
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// All groups together count as one beside the host's other processes, so they get the
    /// weight of one ordinary process per CPU. Refused, they are only slower.
    fn weigh(&self) {
        if let Some(cpu) = &self.cpu {
            let _ = write(&cpu.join("cpu.shares"), &(1024 * cpus()).to_string());
        }
    }

    /// See [`super::Cgroups::clear`].
    pub fn clear(&self, name: &str) -> io::Result<()> {
        for parent in self.parents() {
            let directory = parent.join(name);
            remove_group(&directory, || kill_all(&directory))?;
        }
        Ok(())
    }
}

/// A cell's directories.
#[derive(Debug)]
pub struct Group {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
    set: Option<Limits>,
    kills_at_start: Option<u64>,
}

impl Group {
    fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.memory, &self.pids, &self.cpu].into_iter().flatten()
    }

    pub fn set(&mut self, limits: Limits) -> io::Result<()> {
        let before = self.set.take();
        if let Some(memory) = &self.memory
            && before.map(|set| set.memory_bytes) != Some(limits.memory_bytes)
        {
            set_memory(memory, limits.memory_bytes)?;
        }
        if let Some(pids) = &self.pids
            && before.map(|set| set.pids) != Some(limits.pids)
        {
            write(&pids.join("pids.max"), &limits.pids.to_string())?;
        }
        if let Some(cpu) = &self.cpu
            && before.map(|set| set.cpu_millis) != Some(limits.cpu_millis)
        {
            let quota = limits.quota_us().map_or("-1".to_owned(), |quota| quota.to_string());
            write(&cpu.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
            write(&cpu.join("cpu.cfs_quota_us"), &quota)?;
        }
        self.set = Some(limits);
        Ok(())
    }

    pub fn admit(&self, pid: u32) -> io::Result<()> {
        let pid = pid.to_string();
        self.directories().try_for_each(|directory| write(&directory.join("cgroup.procs"), &pid))
    }

    pub fn begin(&mut self) -> io::Result<()> {
        if let Some(memory) = &self.memory {
            write(&memory.join("memory.max_usage_in_bytes"), "0")?;
            self.kills_at_start = kills(memory);
        }
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        let Some(memory) = &self.memory else { return Usage::default() };
        let killed = self.kills_at_start.zip(kills(memory)).map(|(before, now)| now > before);
        Usage { peak_bytes: read_number(&memory.join("memory.max_usage_in_bytes")), oom_killed: killed }
    }

    pub fn remove(&mut self) -> io::Result<()> {
        self.directories().try_for_each(|directory| remove_group(directory, || kill_all(directory)))
    }
}

fn kills(memory: &Path) -> Option<u64> {
    read_key(&memory.join("memory.oom_control"), "oom_kill")
}

/// The limit with swap must never be below the one without, so the order of the two writes
/// depends on the direction. A kernel without swap accounting lacks the second file.
fn set_memory(memory: &Path, bytes: u64) -> io::Result<()> {
    let plain = memory.join("memory.limit_in_bytes");
    let with_swap = memory.join("memory.memsw.limit_in_bytes");
    let text = bytes.to_string();
    if !with_swap.exists() {
        return write(&plain, &text);
    }
    let shrinks = read_number(&plain).is_some_and(|now| bytes < now);
    let order = if shrinks { [plain, with_swap] } else { [with_swap, plain] };
    order.iter().try_for_each(|path| write(path, &text))
}

fn kill_all(directory: &Path) -> io::Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for pid in text.lines().filter_map(|line| line.parse::<libc::pid_t>().ok()) {
        // SAFETY: the kernel listed this process in a group of ours a moment ago; it lists 0 for
        // a process of another pid namespace, which would mean our own process group.
        if pid > 0 {
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    Ok(())
}

fn is_writable(directory: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: a NUL-terminated path that outlives the call.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy as plain files; what the kernel would refuse is not refused here.
    fn fake() -> (tempfile::TempDir, Group) {
        let mount = tempfile::tempdir().unwrap();
        let directory = |name: &str, files: &[(&str, &str)]| {
            let path = mount.path().join(name);
            fs::create_dir_all(&path).unwrap();
            for (file, text) in files {
                fs::write(path.join(file), text).unwrap();
            }
            Some(path)
        };
        let group = Group {
            memory: directory(
                "memory",
                &[
                    ("memory.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.max_usage_in_bytes", "4096\n"),
                    ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
                ],
            ),
            pids: directory("pids", &[("pids.max", "max\n"), ("cgroup.procs", "")]),
            cpu: directory("cpu", &[("cpu.cfs_period_us", ""), ("cpu.cfs_quota_us", "")]),
            set: None,
            kills_at_start: None,
        };
        (mount, group)
    }

    fn text(mount: &tempfile::TempDir, path: &str) -> String {
        fs::read_to_string(mount.path().join(path)).unwrap()
    }

    const LIMITS: Limits = Limits { memory_bytes: 64 << 20, cpu_millis: 500, pids: 32 };

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let (mount, mut group) = fake();
        group.set(LIMITS).unwrap();
        assert_eq!(text(&mount, "memory/memory.limit_in_bytes"), "67108864");
        assert_eq!(text(&mount, "memory/memory.memsw.limit_in_bytes"), "67108864");
        assert_eq!(text(&mount, "pids/pids.max"), "32");
        assert_eq!(text(&mount, "cpu/cpu.cfs_quota_us"), "50000");
    }

    #[test]
    fn a_limit_that_stays_is_not_written_again() {
        let (mount, mut group) = fake();
        group.set(LIMITS).unwrap();
        fs::write(mount.path().join("pids/pids.max"), "untouched").unwrap();
        group.set(Limits { cpu_millis: 250, ..LIMITS }).unwrap();
        assert_eq!(text(&mount, "pids/pids.max"), "untouched");
        assert_eq!(text(&mount, "cpu/cpu.cfs_quota_us"), "25000");
    }

    #[test]
    fn as_many_cpus_as_the_machine_has_are_no_limit() {
        let (mount, mut group) = fake();
        group.set(Limits { cpu_millis: u32::MAX, ..LIMITS }).unwrap();
        assert_eq!(text(&mount, "cpu/cpu.cfs_quota_us"), "-1");
    }

    #[test]
    fn only_kills_after_the_start_count() {
        let (mount, mut group) = fake();
        group.begin().unwrap();
        assert_eq!(group.usage().oom_killed, Some(false));
        fs::write(mount.path().join("memory/memory.oom_control"), "oom_kill 3\n").unwrap();
        assert_eq!(group.usage().oom_killed, Some(true));
    }
}
