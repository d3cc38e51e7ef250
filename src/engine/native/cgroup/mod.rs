//! Limits of memory, processes and CPU for a cell, on cgroup v1 and v2 behind one type.
//!
//! [`Cgroups::find`] looks once where groups can be made; [`Cgroups::group`] makes one per
//! cell. What the kernel or the user's rights do not offer is named by [`Cgroups::missing`]
//! and left out, never an error.

mod mounts;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The directory below a hierarchy in which all groups of the native engine lie.
const PARENT: &str = "tako-vm";

/// How long killed processes may take to leave a group.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// One CPU quota period, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// Limits of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory, and memory plus swap; bytes.
    pub memory_bytes: u64,
    /// Thousandths of one CPU.
    pub cpu_millis: u32,
    /// Processes and threads, the engine's own included.
    pub pids: u32,
}

impl Limits {
    /// Microseconds of CPU per period; `None` when the machine has no more than that.
    fn quota_us(&self) -> Option<u64> {
        let millis = u64::from(self.cpu_millis);
        (millis < cpus() * 1000).then_some((millis * PERIOD_US / 1000).max(1000))
    }
}

/// The machine's processors. Not those this process may use: its own quota and affinity do not bind a sandbox, which is in
/// another group and may choose its processors anew.
fn cpus() -> u64 {
    // SAFETY: takes a number.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1).max(1)
}

/// What a group can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Memory,
    Pids,
    Cpu,
}

impl Limit {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// What a group counted since [`Group::begin`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most memory in use at once; bytes. On v1 with what earlier sandboxes of the cell left
    /// in the page cache.
    pub peak_bytes: Option<u64>,
    pub oom_killed: Option<bool>,
}

/// Where groups can be made on this host.
#[derive(Debug)]
pub enum Cgroups {
    V1(v1::Hierarchies),
    V2(v2::Hierarchy),
    /// No cgroup can be written.
    None,
}

impl Cgroups {
    /// Looks where this process may make groups, preparing the parent group.
    ///
    /// v2 counts only if it has the memory controller: on a hybrid host that one is on v1.
    pub fn find() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::find_in(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn find_in(mountinfo: &str, own_groups: &str) -> Self {
        let mounts = mounts::parse(mountinfo);
        if let Some(hierarchy) = v2::Hierarchy::find(&mounts, own_groups) {
            return Self::V2(hierarchy);
        }
        match v1::Hierarchies::find(&mounts) {
            Some(hierarchies) => Self::V1(hierarchies),
            None => Self::None,
        }
    }

    /// A v2 hierarchy that can be written, limits or not, in the group `name` at its top.
    #[cfg(test)]
    pub fn v2_without_limits(name: &str) -> Option<Self> {
        let mounts = mounts::parse(&fs::read_to_string("/proc/self/mountinfo").ok()?);
        let mount = mounts.iter().find(|mount| mount.controllers.is_none())?;
        let parent = mount.path.join(name);
        fs::create_dir_all(&parent).ok()?;
        Some(Self::V2(v2::Hierarchy::without_limits(parent)))
    }

    /// The limits that groups of this host do not set.
    pub fn missing(&self) -> Vec<Limit> {
        let all = Limit::ALL.into_iter();
        match self {
            Self::V1(hierarchies) => all.filter(|&limit| !hierarchies.has(limit)).collect(),
            Self::V2(hierarchy) => all.filter(|&limit| !hierarchy.has(limit)).collect(),
            Self::None => all.collect(),
        }
    }

    /// Makes an empty group, ending and removing what an ended server left under its name.
    ///
    /// # Errors
    /// What the kernel answers. Nothing is left behind then.
    pub fn group(&self, name: &str) -> io::Result<Group> {
        Ok(match self {
            Self::V1(hierarchies) => Group::V1(hierarchies.group(name)?),
            Self::V2(hierarchy) => Group::V2(hierarchy.group(name)?),
            Self::None => Group::None,
        })
    }

    /// Removes the parent group if nobody has a group in it; the next one makes it again.
    pub fn remove_parent(&self) {
        let parents: Vec<&Path> = match self {
            Self::V1(hierarchies) => hierarchies.parents().collect(),
            Self::V2(hierarchy) => vec![hierarchy.parent()],
            Self::None => Vec::new(),
        };
        for parent in parents {
            // Busy means that another server is there.
            let _ = fs::remove_dir(parent);
        }
    }

    /// Ends and removes what an ended server left under this name; nothing there is fine.
    pub fn clear(&self, name: &str) -> io::Result<()> {
        match self {
            Self::V1(hierarchies) => hierarchies.clear(name),
            Self::V2(hierarchy) => hierarchy.clear(name),
            Self::None => Ok(()),
        }
    }
}

/// The group of one cell. Removed by [`Group::remove`] alone.
#[derive(Debug)]
pub enum Group {
    V1(v1::Group),
    V2(v2::Group),
    None,
}

impl Group {
    /// Sets the limits for the next sandbox; writes only what differs from before.
    pub fn set(&mut self, limits: Limits) -> io::Result<()> {
        match self {
            Self::V1(group) => group.set(limits),
            Self::V2(group) => group.set(limits),
            Self::None => Ok(()),
        }
    }

    /// Takes in the launcher where sandboxes inherit their group from it.
    pub fn admit_launcher(&self, pid: u32) -> io::Result<()> {
        match self {
            Self::V1(group) => group.admit(pid),
            Self::V2(_) | Self::None => Ok(()),
        }
    }

    /// The directory into which a sandbox is cloned, where that is how it gets in.
    pub fn directory(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::V2(group) => group.directory().map(Some),
            Self::V1(_) | Self::None => Ok(None),
        }
    }

    /// Starts counting for one sandbox.
    pub fn begin(&mut self) -> io::Result<()> {
        match self {
            Self::V1(group) => group.begin(),
            Self::V2(group) => group.begin(),
            Self::None => Ok(()),
        }
    }

    /// What was counted since [`Group::begin`].
    pub fn usage(&self) -> Usage {
        match self {
            Self::V1(group) => group.usage(),
            Self::V2(group) => group.usage(),
            Self::None => Usage::default(),
        }
    }

    /// Kills whatever is left in the group and removes it.
    ///
    /// # Errors
    /// `TimedOut` when a process does not leave within 5 s.
    pub fn remove(&mut self) -> io::Result<()> {
        match self {
            Self::V1(group) => group.remove(),
            Self::V2(group) => group.remove(),
            Self::None => Ok(()),
        }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value after a key in a file of `key value` lines.
fn read_key(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Writes to a file that exists already, as all files of a group do.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let name =
        |error: io::Error| io::Error::new(error.kind(), format!("write {text:?} to {}: {error}", path.display()));
    let mut file = fs::File::options().write(true).truncate(true).open(path).map_err(name)?;
    file.write_all(text.as_bytes()).map_err(name)
}

/// Removes a group's directory once `kill` has ended its processes; gone already is fine.
fn remove_group(directory: &Path, kill: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let give_up = Instant::now() + LEAVE_LIMIT;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => kill()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
        if Instant::now() >= give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The kernel tells nobody when a v1 group becomes empty.
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_with_few_processors_still_limits_its_sandboxes() {
        if cpus() == 1 {
            eprintln!("SKIPPED: this machine has one processor");
            return;
        }
        let limits = Limits { memory_bytes: 0, cpu_millis: 1000, pids: 0 };
        let quota = std::thread::spawn(move || {
            // SAFETY: an empty set is a valid one; it outlives the call, which binds this thread alone.
            let bound = unsafe {
                let mut set = std::mem::zeroed::<libc::cpu_set_t>();
                libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
                let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &set)).unwrap();
                set = std::mem::zeroed();
                libc::CPU_SET(first, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
            };
            assert_eq!(bound, 0);
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            limits.quota_us()
        });
        assert_eq!(quota.join().unwrap(), Some(PERIOD_US));
    }
}
