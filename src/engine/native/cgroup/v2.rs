//! cgroup v2: one directory, into which a sandbox is cloned.
//!
//! As root of the machine the parent group lies at the top of the hierarchy. Elsewhere (a
//! container, a service with `Delegate=yes`, an ordinary user's delegated subtree) it lies in
//! the process's own group; as a group with processes may not hand controllers to children,
//! those processes first move into a leaf beside the parent.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::mounts::Mount;
use super::{Limit, Limits, PARENT, PERIOD_US, Usage, read_key, remove_group, write};

/// Where the processes of an own group go, so that it may have children with controllers.
const LEAF: &str = "tako-vm-host";

/// How often a group is tried again that other processes' doings came in between of.
const ATTEMPTS: usize = 100;

/// The most memory a group had at once: since Linux 5.19, reset by a write since 6.12.
const PEAK: &str = "memory.peak";

/// The parent directory in which groups are made, with controllers enabled for them.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    parent: PathBuf,
    limits: Vec<Limit>,
}

impl Hierarchy {
    /// Finds where the parent group goes; `None` when it cannot be had or lacks the memory controller.
    pub fn find(mounts: &[Mount], own_groups: &str) -> Option<Self> {
        let mut mounts = mounts.iter().filter(|mount| mount.controllers.is_none());
        mounts.find_map(|mount| Self::prepare(&base(mount, own_groups)?))
    }

    fn prepare(base: &Path) -> Option<Self> {
        let offered = fs::read_to_string(base.join("cgroup.controllers")).ok()?;
        let offers = |limit: &Limit| offered.split_whitespace().any(|name| name == limit.as_str());
        if !offers(&Limit::Memory) {
            return None;
        }
        // One by one, as a host may refuse one of them alone (cpu, where real-time processes run).
        let mut limits: Vec<Limit> = Limit::ALL.into_iter().filter(offers).collect();
        limits.retain(|&limit| enable(base, limit).is_ok());
        if !limits.contains(&Limit::Memory) {
            return None;
        }
        // The parent is made with the first group: others may remove it while it is empty.
        Some(Self { parent: base.join(PARENT), limits })
    }

    /// A parent that limits nothing, for hosts whose v2 hierarchy has no controllers.
    #[cfg(test)]
    pub fn without_limits(parent: PathBuf) -> Self {
        Self { parent, limits: Vec::new() }
    }

    pub fn has(&self, limit: Limit) -> bool {
        self.limits.contains(&limit)
    }

    /// See [`super::Cgroups::group`].
    pub fn group(&self, name: &str) -> io::Result<Group> {
        self.clear(name)?;
        let directory = self.parent.join(name);
        self.make(&directory)?;
        Ok(Group { hierarchy: self.clone(), directory, set: None, peak: None, is_used: false, kills_at_start: None })
    }

    /// Makes a cell's directory, with files for all limits in it.
    fn make(&self, directory: &Path) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            // A server that shuts down takes the parent with it while no group is in it.
            match fs::create_dir(&self.parent) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            match fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        // From here on the parent stays, but it may be new and hand nothing down yet.
        let enabled = self.enable_missing(directory);
        if enabled.is_err() {
            let _ = fs::remove_dir(directory);
        }
        enabled
    }

    fn enable_missing(&self, directory: &Path) -> io::Result<()> {
        for &limit in &self.limits {
            if directory.join(file(limit)).exists() {
                continue;
            }
            // While there was no parent the host may have taken the controller back.
            if let Some(base) = self.parent.parent() {
                enable(base, limit)?;
            }
            enable(&self.parent, limit)?;
        }
        Ok(())
    }

    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// See [`super::Cgroups::clear`].
    pub fn clear(&self, name: &str) -> io::Result<()> {
        let directory = self.parent.join(name);
        remove_group(&directory, || kill_all(&directory))
    }
}

/// The group below which the parent goes: the top, if this process may write there, else its own.
fn base(mount: &Mount, own_groups: &str) -> Option<PathBuf> {
    // The root of the machine's hierarchy alone has no type, and processes there are no obstacle.
    // SAFETY: geteuid cannot fail.
    if !mount.path.join("cgroup.type").exists() && unsafe { libc::geteuid() } == 0 {
        return Some(mount.path.clone());
    }
    let own = Path::new(own_groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    // A server restarted by the same shell finds itself in the leaf that its predecessor made.
    let own = if own.ends_with(LEAF) { own.parent()? } else { own };
    // Both are seen from this process's cgroup namespace; a mount may show a part of the hierarchy only.
    let below = own.strip_prefix(&mount.root).ok()?;
    Some(mount.path.join(below))
}

/// Hands a controller to children, making room for that where processes are in the way.
fn enable(group: &Path, limit: Limit) -> io::Result<()> {
    let path = group.join("cgroup.subtree_control");
    let text = format!("+{}", limit.as_str());
    for _ in 0..ATTEMPTS {
        match write(&path, &text) {
            // A process that was not moved yet may have forked meanwhile.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => move_to_leaf(group)?,
            other => return other,
        }
    }
    write(&path, &text)
}

fn move_to_leaf(group: &Path) -> io::Result<()> {
    let leaf = group.join(LEAF);
    fs::create_dir_all(&leaf)?;
    let procs = leaf.join("cgroup.procs");
    for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        // One that has ended since is no obstacle any more; any other keeps the group busy.
        let _ = write(&procs, pid);
    }
    Ok(())
}

/// The file whose presence tells that a group has the controller.
fn file(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "memory.max",
        Limit::Pids => "pids.max",
        Limit::Cpu => "cpu.max",
    }
}

/// A cell's directory.
#[derive(Debug)]
pub struct Group {
    hierarchy: Hierarchy,
    directory: PathBuf,
    set: Option<Limits>,
    /// [`PEAK`] held open, where a write makes this handle count anew.
    peak: Option<File>,
    /// Whether a sandbox was in the directory since it was made.
    is_used: bool,
    kills_at_start: Option<u64>,
}

impl Group {
    pub fn set(&mut self, limits: Limits) -> io::Result<()> {
        if self.set == Some(limits) {
            return Ok(());
        }
        self.set = None;
        let at = |name: &str| self.directory.join(name);
        for &limit in &self.hierarchy.limits {
            match limit {
                Limit::Memory => {
                    write(&at(file(limit)), &limits.memory_bytes.to_string())?;
                    write_if_there(&at("memory.swap.max"), "0")?;
                    // No `memory.oom.group`: it would take the guest with it, and with the guest
                    // the report. A child that was killed is the code's own affair.
                }
                Limit::Pids => write(&at(file(limit)), &limits.pids.to_string())?,
                Limit::Cpu => {
                    let quota = limits.quota_us().map_or("max".to_owned(), |us| us.to_string());
                    write(&at(file(limit)), &format!("{quota} {PERIOD_US}"))?;
                }
            }
        }
        self.set = Some(limits);
        Ok(())
    }

    pub fn directory(&self) -> io::Result<OwnedFd> {
        File::open(&self.directory).map(OwnedFd::from)
    }

    /// Resets the peak; a kernel that cannot gets a new group, whose count begins at zero.
    pub fn begin(&mut self) -> io::Result<()> {
        if !self.reset_peak() && self.is_used && self.directory.join(PEAK).exists() {
            let limits = self.set.take();
            self.remove()?;
            self.hierarchy.make(&self.directory)?;
            if let Some(limits) = limits {
                self.set(limits)?;
            }
        }
        self.is_used = true;
        self.kills_at_start = self.kills();
        Ok(())
    }

    fn reset_peak(&mut self) -> bool {
        if self.peak.is_none() {
            self.peak = File::options().read(true).write(true).open(self.directory.join(PEAK)).ok();
        }
        let reset = self.peak.as_mut().is_some_and(|file| file.write_all(b"reset").is_ok());
        if !reset {
            self.peak = None;
        }
        reset
    }

    pub fn usage(&self) -> Usage {
        let killed = self.kills_at_start.zip(self.kills()).map(|(before, now)| now > before);
        Usage { peak_bytes: self.peak_bytes(), oom_killed: killed }
    }

    fn peak_bytes(&self) -> Option<u64> {
        let mut text = String::new();
        match &self.peak {
            Some(file) => {
                let mut file: &File = file;
                file.rewind().ok()?;
                file.read_to_string(&mut text).ok()?;
            }
            None => text = fs::read_to_string(self.directory.join(PEAK)).ok()?,
        }
        text.trim().parse().ok()
    }

    /// One death may count twice (`oom_kill` and again for the group), so only the change matters.
    fn kills(&self) -> Option<u64> {
        read_key(&self.directory.join("memory.events"), "oom_kill")
    }

    pub fn remove(&mut self) -> io::Result<()> {
        self.peak = None;
        remove_group(&self.directory, || kill_all(&self.directory))
    }
}

/// Linux 5.14 has `cgroup.kill`; before it, each process is killed by itself.
fn kill_all(directory: &Path) -> io::Result<()> {
    if write(&directory.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for line in fs::read_to_string(directory.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = line.parse::<libc::pid_t>()
            && pid > 0
        {
            // SAFETY: the kernel listed this process in a group of ours a moment ago.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    Ok(())
}

fn write_if_there(path: &Path, text: &str) -> io::Result<()> {
    if path.exists() { write(path, text) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory_bytes: 64 << 20, cpu_millis: 500, pids: 32 };

    /// A group as plain files; what the kernel would refuse is not refused here.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(controllers: &str) -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fake.put("cgroup.controllers", controllers);
            for name in ["cgroup.subtree_control", "tako-vm/cgroup.subtree_control"] {
                fake.put(name, "");
            }
            fake
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.0.path().join(path)).unwrap()
        }

        fn group(&self) -> Group {
            let group = Hierarchy::prepare(self.0.path()).unwrap().group("cell").unwrap();
            for name in ["memory.max", "memory.swap.max", "memory.peak", "pids.max", "cpu.max"] {
                self.put(&format!("tako-vm/cell/{name}"), "");
            }
            self.put("tako-vm/cell/memory.events", "low 0\noom 1\noom_kill 2\noom_group_kill 1\n");
            group
        }
    }

    #[test]
    fn controllers_are_handed_down_on_both_levels() {
        let fake = Fake::new("cpuset cpu io memory pids");
        let hierarchy = Hierarchy::prepare(fake.0.path()).unwrap();
        assert!(Limit::ALL.iter().all(|&limit| hierarchy.has(limit)));
        hierarchy.group("cell").unwrap();
        // One write each, of which a plain file keeps the last.
        assert_eq!(fake.text("cgroup.subtree_control"), "+cpu");
        assert_eq!(fake.text("tako-vm/cgroup.subtree_control"), "+cpu");
    }

    #[test]
    fn a_hierarchy_without_memory_is_left_to_version_one() {
        let fake = Fake::new("hugetlb");
        assert!(Hierarchy::prepare(fake.0.path()).is_none());
    }

    #[test]
    fn a_controller_that_is_not_offered_is_not_asked_for() {
        let fake = Fake::new("memory pids");
        let hierarchy = Hierarchy::prepare(fake.0.path()).unwrap();
        assert!(!hierarchy.has(Limit::Cpu));
        assert_eq!(fake.text("cgroup.subtree_control"), "+pids");
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let fake = Fake::new("cpu memory pids");
        fake.group().set(LIMITS).unwrap();
        assert_eq!(fake.text("tako-vm/cell/memory.max"), "67108864");
        assert_eq!(fake.text("tako-vm/cell/memory.swap.max"), "0");
        assert_eq!(fake.text("tako-vm/cell/pids.max"), "32");
        assert_eq!(fake.text("tako-vm/cell/cpu.max"), "50000 100000");
    }

    #[test]
    fn only_kills_after_the_start_count() {
        let fake = Fake::new("cpu memory pids");
        let mut group = fake.group();
        group.begin().unwrap();
        assert_eq!(fake.text("tako-vm/cell/memory.peak"), "reset");
        assert_eq!(group.usage().oom_killed, Some(false));
        fake.put("tako-vm/cell/memory.events", "oom 2\noom_kill 4\noom_group_kill 2\n");
        assert_eq!(group.usage().oom_killed, Some(true));
    }

    #[test]
    fn a_kernel_without_a_peak_keeps_its_group() {
        let fake = Fake::new("cpu memory pids");
        let mut group = fake.group();
        fs::remove_file(fake.0.path().join("tako-vm/cell/memory.peak")).unwrap();
        for _ in 0..2 {
            // To make it anew would fail here, as a plain directory with files cannot be removed.
            group.begin().unwrap();
            assert_eq!(group.usage(), Usage { peak_bytes: None, oom_killed: Some(false) });
        }
    }

    /// With the kernel's own groups, where this user may make them.
    #[test]
    fn servers_that_come_and_go_take_nothing_from_this_one() {
        let super::super::Cgroups::V2(hierarchy) = super::super::Cgroups::find() else {
            eprintln!("SKIPPED: this user has no cgroup v2");
            return;
        };
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let use_groups = || {
            for _ in 0..100 {
                let mut group = hierarchy.group(&format!("test-{}", std::process::id()))?;
                for _ in 0..3 {
                    group.set(LIMITS)?;
                    group.begin()?;
                }
                group.remove()?;
            }
            Ok::<_, io::Error>(())
        };
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = fs::remove_dir(hierarchy.parent());
                    std::thread::yield_now();
                }
            });
            let outcome = use_groups();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome
        });
        outcome.unwrap();
        let _ = fs::remove_dir(hierarchy.parent());
    }

    #[test]
    fn the_own_group_is_the_base_where_the_top_is_not_ours() {
        let fake = Fake::new("memory");
        fake.put("cgroup.type", "domain\n");
        let top = fake.0.path();
        let base = |root: &str, own| base(&Mount { path: top.into(), root: root.into(), controllers: None }, own);
        assert_eq!(base("/", "0::/user.slice/a.service\n"), Some(top.join("user.slice/a.service")));
        assert_eq!(base("/", "1:cpu:/x\n0::/\n"), Some(top.to_owned()));
        assert_eq!(base("/", "0::/a/tako-vm-host\n"), Some(top.join("a")));
        assert_eq!(base("/", "0::/tako-vm-host\n"), Some(top.to_owned()));
        // A container in the host's cgroup namespace, with its own group mounted.
        assert_eq!(base("/docker/1", "0::/docker/1/a\n"), Some(top.join("a")));
        assert_eq!(base("/docker/1", "0::/docker/2\n"), None);
    }
}
