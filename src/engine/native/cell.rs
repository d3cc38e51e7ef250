//! A cell: what stays while sandboxes come and go in it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tako_guest::launch::wire::{Answer, Identity, Request, RootPlan, Setup, Spawn};

use super::cgroup::{Cgroups, Group, Limit, Limits, Usage};
use super::control::Control;
use super::launcher;
use super::registry::{Registry, Slot};
use crate::engine::{Error, SandboxLimits};

/// How long a launcher may take for anything it is asked. A busy machine is slow, not broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Processes in a cell's cgroup that are not the job's: the launcher (on v1) and the guest.
const OWN_PROCESSES: u32 = 2;

/// Size of `/code` and of `/input`, each. The API's own limits are far below, and the memory
/// limit counts what is in them.
const INTAKE_BYTES: u64 = 256 << 20;

/// The first of the host users that sandboxes run as: two for each cell number. Nothing hands
/// this range out (see "Users, Groups, UIDs and GIDs on systemd systems").
const FIRST_USER: u32 = 0x7000_0000;

/// A launcher with its root, cgroup and users, in which no sandbox runs or one does.
#[derive(Debug)]
pub struct Cell {
    control: Control,
    remains: Remains,
    limits_memory: bool,
    /// The version whose packages its root has.
    layer: Option<Arc<str>>,
    /// Whether a sandbox was asked for whose end was not heard yet.
    occupied: bool,
}

impl Cell {
    /// Starts the launcher and has it build the root.
    ///
    /// # Errors
    /// [`Error::System`] naming the step. Nothing is left behind then, nor when the future is
    /// dropped.
    pub async fn make(
        registry: &Registry,
        cgroups: &Arc<Cgroups>,
        root: RootPlan,
        layer: Option<Arc<str>>,
    ) -> Result<Self, Error> {
        let (registry, cgroups) = (registry.clone(), cgroups.clone());
        let limits_memory = !cgroups.missing().contains(&Limit::Memory);
        let (remains, socket) = tokio::task::spawn_blocking(move || Remains::new(&registry, &cgroups))
            .await
            .map_err(|error| system("make a cell", io::Error::other(error)))??;
        let control = Control::new(socket).map_err(|error| system("reach the launcher", error))?;
        let cell = Self { control, remains, limits_memory, layer, occupied: false };
        let identity = identity(cell.remains.slot.number).map_err(|error| system("find users", error))?;
        match cell.ask(&Request::Setup(Setup { identity, root }), &[]).await? {
            Answer::Ready => Ok(cell),
            answer => Err(unexpected(&answer)),
        }
    }

    pub fn layer(&self) -> Option<&str> {
        self.layer.as_deref()
    }

    pub fn slot(&self) -> &Slot {
        &self.remains.slot
    }

    /// Starts a sandbox; the pid of its PID 1 as the host counts.
    ///
    /// # Errors
    /// [`Error::System`] naming the step; [`Error::Unavailable`] when the launcher is gone, and
    /// with it the cell.
    pub async fn spawn(&mut self, limits: &SandboxLimits, frames: OwnedFd) -> Result<i32, Error> {
        let group = &mut self.remains.group;
        group
            .set(Limits {
                memory_bytes: limits.memory_bytes,
                cpu_millis: limits.cpu_millis,
                pids: limits.pids.saturating_add(OWN_PROCESSES),
            })
            .and_then(|()| group.begin())
            .map_err(|error| system("limit the sandbox", error))?;
        let cgroup = group.directory().map_err(|error| system("open the cgroup", error))?;
        let spawn = Spawn {
            tmp_bytes: limits.tmp_bytes,
            output_bytes: limits.output_bytes,
            intake_bytes: INTAKE_BYTES,
            inodes: limits.inodes,
            address_space_bytes: (!self.limits_memory).then_some(limits.memory_bytes),
        };
        let mut fds = vec![frames.as_fd()];
        fds.extend(cgroup.as_ref().map(AsFd::as_fd));
        self.occupied = true;
        match self.ask(&Request::Spawn(spawn), &fds).await? {
            Answer::Spawned { pid } => Ok(pid),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Ends the sandbox and waits until everything in it is dead.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the launcher is gone or does not manage: the cell is of no more
    /// use, and dropping it kills what is left.
    pub async fn end(&mut self) -> Result<(), Error> {
        if !self.occupied {
            return Ok(());
        }
        let exited = async {
            self.control.say(&Request::Kill, &[]).await?;
            loop {
                // A sandbox whose start was given up may still be announced first.
                if let Answer::Exited { .. } | Answer::Failed { .. } = self.control.hear().await? {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(ANSWER_LIMIT, exited)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| gone(&error))?;
        self.occupied = false;
        Ok(())
    }

    /// What the sandbox has used so far.
    pub fn usage(&self) -> Usage {
        self.remains.group.usage()
    }

    /// Ends the launcher and removes all that the cell had; blocks until it is gone.
    pub fn dismantle(self) {
        let Self { control, mut remains, .. } = self;
        drop(control);
        remains.clear();
    }

    async fn ask(&self, request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<Answer, Error> {
        let exchange = async {
            self.control.say(request, fds).await?;
            self.control.hear().await
        };
        match tokio::time::timeout(ANSWER_LIMIT, exchange).await {
            Ok(Ok(Answer::Failed { step, errno })) => Err(system(&step, io::Error::from_raw_os_error(errno))),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(gone(&error)),
            Err(_) => Err(gone(&io::ErrorKind::TimedOut.into())),
        }
    }
}

/// What a cell has outside this process, and what has to go with it.
#[derive(Debug)]
struct Remains {
    launcher: Option<Child>,
    group: Group,
    /// Last, so that the number is free only when nothing carries it any more.
    slot: Slot,
}

impl Remains {
    fn new(registry: &Registry, cgroups: &Cgroups) -> Result<(Self, OwnedFd), Error> {
        let slot = registry.take().map_err(|error| system("take a cell's number", error))?;
        let group = cgroups.group(&slot.name).map_err(|error| system("make a cgroup", error))?;
        let mut remains = Self { launcher: None, group, slot };
        let (launcher, socket) = launcher::start().map_err(|error| system("start a launcher", error))?;
        let pid = launcher.id();
        remains.launcher = Some(launcher);
        remains.group.admit_launcher(pid).map_err(|error| system("put the launcher into its cgroup", error))?;
        Ok((remains, socket))
    }

    /// Kills the launcher, whose sandbox the kernel kills with it, and removes the cgroup.
    fn clear(&mut self) {
        if let Some(mut launcher) = self.launcher.take() {
            // It may have ended by itself; then this only reaps it.
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
        if let Err(error) = self.group.remove() {
            tracing::warn!(cell = self.slot.name, %error, "cannot remove a cell's cgroup");
        }
        let _ = self.slot.clear();
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if self.launcher.is_none() {
            return;
        }
        let remains = Self {
            launcher: self.launcher.take(),
            group: std::mem::replace(&mut self.group, Group::None),
            slot: self.slot.share(),
        };
        // Waiting for processes to die is not for the thread that happens to drop a future.
        std::thread::spawn(move || {
            let mut remains = remains;
            remains.clear();
        });
    }
}

/// The host users of a cell's sandboxes.
///
/// # Errors
/// `PermissionDenied` for a root that may not be anybody else: as itself is what a sandbox must not run.
fn identity(number: u32) -> io::Result<Identity> {
    // SAFETY: neither call can fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid != 0 {
        return Ok(Identity::Single { uid, gid });
    }
    let users = first_user(&fs::read_to_string("/proc/self/uid_map")?);
    let groups = first_user(&fs::read_to_string("/proc/self/gid_map")?);
    match users {
        Some(first) if users == groups => {
            let guest = first + 2 * number;
            Ok(Identity::Pair { guest, user: guest + 1 })
        }
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Where two users for each cell fit into the ids this process knows: at [`FIRST_USER`], or
/// near the end of the longest range inside a container that has fewer.
fn first_user(id_map: &str) -> Option<u32> {
    const SPACE: u32 = 2 * 4096;
    let ranges = id_map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, _, count) = (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?);
        Some((inside, count))
    });
    let (start, count) = ranges.max_by_key(|&(_, count)| count)?;
    if start <= FIRST_USER && u64::from(start) + u64::from(count) >= u64::from(FIRST_USER + SPACE) {
        return Some(FIRST_USER);
    }
    // The last ids of a 16-bit range have meanings (65534 is nobody), so the end stays free.
    (count >= 4 * SPACE).then(|| start + count - 2 * SPACE)
}

fn system(context: &str, source: io::Error) -> Error {
    Error::System { context: format!("native sandbox: cannot {context}"), source }
}

fn gone(error: &io::Error) -> Error {
    let message = format!("launcher does not answer: {error}");
    Error::Unavailable { engine: "native", message, retry_after: None }
}

fn unexpected(answer: &Answer) -> Error {
    let message = format!("launcher answered {answer:?}");
    Error::Unavailable { engine: "native", message, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::native::config::NativeConfig;
    use crate::engine::native::host_root::HostRoot;

    const LIMITS: SandboxLimits = SandboxLimits {
        memory_bytes: 512 << 20,
        cpu_millis: 1000,
        pids: 16,
        open_files: 64,
        file_bytes: 1 << 20,
        tmp_bytes: 1 << 20,
        output_bytes: 1 << 20,
        inodes: 16,
    };

    /// The mechanics of v2, on hosts whose controllers are on v1 too.
    #[tokio::test]
    async fn a_sandbox_is_cloned_into_its_group_of_version_two() {
        let parent = format!("tako-vm-test-{}", std::process::id());
        let Some(cgroups) = Cgroups::v2_without_limits(&parent) else {
            eprintln!("SKIPPED: no cgroup v2 hierarchy that this user may write");
            return;
        };
        let cgroups = Arc::new(cgroups);
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(Some(directory.path())).unwrap();
        let root = HostRoot::plan(&NativeConfig::default()).unwrap().plan;
        let mut cell = Cell::make(&registry, &cgroups, root, None).await.unwrap();
        for _ in 0..2 {
            let (host, guest) = std::os::unix::net::UnixStream::pair().unwrap();
            let pid = cell.spawn(&LIMITS, guest.into()).await.unwrap();
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let expected = format!("0::/{parent}/{}", cell.slot().name);
            assert!(groups.lines().any(|line| line == expected), "{groups}");
            cell.end().await.unwrap();
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
            drop(host);
        }
        tokio::task::spawn_blocking(|| cell.dismantle()).await.unwrap();
        // Only an empty group can be removed.
        cgroups.remove_parent();
        let Cgroups::V2(hierarchy) = &*cgroups else { unreachable!() };
        assert!(!hierarchy.parent().exists());
    }

    #[test]
    fn the_hosts_own_users_are_never_given_to_a_sandbox() {
        assert_eq!(first_user("0 0 4294967295\n"), Some(FIRST_USER));
        let first = first_user("0 1000 1\n1 100000 65536\n").unwrap();
        assert!(first > 40_000 && first + 8192 < 65_534);
        assert_eq!(first_user("0 1000 1\n"), None);
    }
}
