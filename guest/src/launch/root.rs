//! The cell's root: built once, read-only ever after, copied by every sandbox's mount namespace.
//!
//! It is a small tmpfs with the host's trees bound into it. The launcher pivots into it, so
//! that nothing else of the host's files has a path in a sandbox. Sandboxes live in a user
//! namespace below the launcher's: the kernel locks every mount of this root for them, and
//! not even their root could unmount one or make it writable.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::sys::{self, Context, StepError};
use super::wire::RootPlan;

/// Where the root is assembled. Any directory will do: the mount is private to the launcher,
/// and the path is gone after the pivot.
const STAGE: &str = "/tmp";

/// Directories that every sandbox covers with a tmpfs of its own. [`super::sandbox`] mounts them.
pub const VOLATILE: [&str; 6] = ["/tmp", "/output", "/code", "/input", "/secrets", "/dev/shm"];

/// Devices that neither store nor leak anything.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

const LOCKED_DOWN: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;

/// Builds the root in a new mount namespace and moves into it.
///
/// # Errors
/// The first step the kernel refuses. The process is then of no use.
pub fn build(plan: &RootPlan) -> Result<(), StepError> {
    sys::unshare(libc::CLONE_NEWNS, "mount")?;
    // Nothing done here may travel back to the host.
    sys::mount(Path::new("none"), Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    let stage = Path::new(STAGE);
    let sources = HostRoot::open()?;
    sys::mount(Path::new("root"), stage, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "size=4m,nr_inodes=4096,mode=755")?;
    for directory in ["/proc", "/sys", "/dev"].iter().chain(&VOLATILE) {
        make_directory(&inside(stage, Path::new(directory)))?;
    }
    for bind in &plan.binds {
        let target = inside(stage, &bind.target);
        let source = sources.path(&bind.source);
        make_mount_point(&source, &target)?;
        sys::bind(&source, &target)?;
        sys::set_mount_attributes(&target, LOCKED_DOWN | libc::MOUNT_ATTR_NODEV)?;
    }
    for copy in &plan.copies {
        let target = inside(stage, &copy.target);
        make_parent(&target)?;
        fs::copy(sources.path(&copy.source), &target).step(|| format!("copy {}", copy.source.display()))?;
    }
    for link in &plan.links {
        let path = inside(stage, &link.path);
        make_parent(&path)?;
        symlink(&link.leads_to, &path).step(|| format!("link {}", link.path.display()))?;
    }
    for file in &plan.files {
        let path = inside(stage, &file.path);
        make_parent(&path)?;
        fs::write(&path, &file.bytes).step(|| format!("write {}", file.path.display()))?;
    }
    build_devices(stage, &sources)?;
    // The kernel lets a user namespace mount a new /proc only where one is already fully visible.
    // Every sandbox covers this one, which is the host's, with its own.
    let proc = stage.join("proc");
    sys::bind(Path::new("/proc"), &proc)?;
    sys::set_mount_attributes(&proc, LOCKED_DOWN | libc::MOUNT_ATTR_NODEV)?;
    sys::pivot_into(stage)?;
    sys::mount(
        Path::new("none"),
        Path::new("/"),
        "",
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
        "",
    )
}

/// Flags of every `/proc`: nothing in it is written by a sandbox, neither a sysctl nor a score.
pub const PROC_FLAGS: libc::c_ulong = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// The host's files after the stage has covered one of its directories.
struct HostRoot {
    descriptor_path: PathBuf,
    _handle: fs::File,
}

impl HostRoot {
    /// A handle on the stage's directory as it was; sources below it would be hidden otherwise.
    fn open() -> Result<Self, StepError> {
        let handle = fs::File::open(STAGE).step(|| format!("open {STAGE}"))?;
        let number = handle.as_raw_fd();
        Ok(Self { descriptor_path: format!("/proc/self/fd/{number}").into(), _handle: handle })
    }

    fn path(&self, source: &Path) -> PathBuf {
        match source.strip_prefix(STAGE) {
            Ok(rest) => self.descriptor_path.join(rest),
            Err(_) => source.to_owned(),
        }
    }
}

fn build_devices(stage: &Path, sources: &HostRoot) -> Result<(), StepError> {
    let directory = stage.join("dev");
    for name in DEVICES {
        let target = directory.join(name);
        let source = sources.path(&Path::new("/dev").join(name));
        make_mount_point(&source, &target)?;
        sys::bind(&source, &target)?;
        sys::set_mount_attributes(&target, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC)?;
    }
    for (name, leads_to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(leads_to, directory.join(name)).step(|| format!("link /dev/{name}"))?;
    }
    Ok(())
}

fn inside(stage: &Path, path: &Path) -> PathBuf {
    stage.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_mount_point(source: &Path, target: &Path) -> Result<(), StepError> {
    let kind = fs::metadata(source).step(|| format!("look at {}", source.display()))?;
    if kind.is_dir() {
        return make_directory(target);
    }
    make_parent(target)?;
    fs::write(target, "").step(|| format!("make {}", target.display()))
}

fn make_parent(path: &Path) -> Result<(), StepError> {
    path.parent().map_or(Ok(()), make_directory)
}

fn make_directory(path: &Path) -> Result<(), StepError> {
    fs::create_dir_all(path).step(|| format!("make directory {}", path.display()))
}
