//! The kernel calls of a launcher, each with the step's name in its error.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A step that the kernel refused.
#[derive(Debug)]
pub struct StepError {
    pub step: String,
    pub source: io::Error,
}

impl StepError {
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EINVAL)
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

impl std::error::Error for StepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Names the step that failed.
pub trait Context<T> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T> Context<T> for io::Result<T> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|source| StepError { step: name(), source })
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// `mount(2)`; `data` without options is the empty string.
pub fn mount(source: &Path, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> Result<(), StepError> {
    let call = || {
        let source = c_path(source)?;
        let path = c_path(target)?;
        let kind = CString::new(kind)?;
        let data = CString::new(data)?;
        // SAFETY: four NUL-terminated strings that outlive the call.
        check(libc::c_long::from(unsafe {
            libc::mount(source.as_ptr(), path.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
        }))
    };
    call().map(drop).step(|| format!("mount {} on {}", kind_or(kind, "bind"), target.display()))
}

fn kind_or<'a>(kind: &'a str, other: &'a str) -> &'a str {
    if kind.is_empty() { other } else { kind }
}

/// Binds a tree with everything mounted in it.
pub fn bind(source: &Path, target: &Path) -> Result<(), StepError> {
    mount(source, target, "", libc::MS_BIND | libc::MS_REC, "")
}

/// Sets attributes (`MOUNT_ATTR_*`) on a mount and everything below it.
pub fn set_mount_attributes(target: &Path, attributes: u64) -> Result<(), StepError> {
    let call = || {
        let path = c_path(target)?;
        let wanted = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
        // SAFETY: the path and the structure outlive the call, and the size is the structure's.
        check(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::AT_RECURSIVE,
                &raw const wanted,
                size_of::<libc::mount_attr>(),
            )
        })
    };
    call().map(drop).step(|| format!("restrict mount {}", target.display()))
}

/// Makes the tree at `root` the process's root and lets go of the old one.
pub fn pivot_into(root: &Path) -> Result<(), StepError> {
    let call = || -> io::Result<()> {
        std::env::set_current_dir(root)?;
        // Both arguments are ".": the old root lands on top of the new one and is detached from there.
        // SAFETY: NUL-terminated constants.
        unsafe {
            let here = c".".as_ptr();
            check(libc::syscall(libc::SYS_pivot_root, here, here))?;
            check(libc::c_long::from(libc::umount2(here, libc::MNT_DETACH)))?;
        }
        std::env::set_current_dir("/")
    };
    call().step(|| "pivot into the new root".to_owned())
}

/// Leaves the namespaces that `flags` name.
pub fn unshare(flags: libc::c_int, what: &str) -> Result<(), StepError> {
    // SAFETY: takes a number; the process is single-threaded.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop).step(|| format!("unshare {what} namespace"))
}

/// `prctl` with one argument.
pub fn prctl(option: libc::c_int, argument: libc::c_ulong, what: &str) -> Result<(), StepError> {
    // SAFETY: every option used here takes plain numbers.
    let result = unsafe { libc::prctl(option, argument, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) };
    check(libc::c_long::from(result)).map(drop).step(|| what.to_owned())
}

/// The name that process listings show.
pub fn name_process(name: &CStr) {
    // SAFETY: a NUL-terminated string, which the kernel copies. A refusal changes nothing.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// A child made by [`clone3`], by number and by handle.
pub struct Child {
    pub pid: libc::pid_t,
    pub pidfd: OwnedFd,
}

/// From `linux/sched.h`; it does not fit the type that the libc crate gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Clones this process into new namespaces; `None` in the child.
///
/// The child is in its own address space and has the caller's stack, as after `fork`.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<Child>, StepError> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero clone_args is a valid one.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has a copy of everything; the process is
    // single-threaded, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match check(pid).step(|| "clone into new namespaces".to_owned())? {
        0 => Ok(None),
        // SAFETY: the kernel wrote a new descriptor, which nobody else owns.
        pid => Ok(Some(Child { pid: pid as libc::pid_t, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// Kills by handle; dead already is fine.
pub fn kill(pidfd: BorrowedFd<'_>) {
    // SAFETY: takes numbers and a null pointer for the default signal information.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        );
    }
}

/// Waits until a child has ended, not merely stopped; answers its status.
pub fn wait_for_end(pid: libc::pid_t) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: the status is written to a local.
        let result = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if result == pid && (libc::WIFEXITED(status) || libc::WIFSIGNALED(status)) {
            return Ok(status);
        }
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: libc::c_uint) -> Result<(), StepError> {
    // SAFETY: only called where nothing above is in use any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })
        .map(drop)
        .step(|| "close inherited descriptors".to_owned())
}

/// Brings the loopback interface of the present network namespace up.
pub fn raise_loopback() -> Result<(), StepError> {
    let call = || -> io::Result<()> {
        // SAFETY: the descriptor is new; the request structure is zeroed, names the interface
        // with a NUL-terminated name and outlives both calls.
        unsafe {
            let socket =
                check(libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)))?;
            let socket = OwnedFd::from_raw_fd(socket as libc::c_int);
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[0] = b'l' as libc::c_char;
            request.ifr_name[1] = b'o' as libc::c_char;
            check(libc::c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request)))?;
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
            check(libc::c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request)))?;
        }
        Ok(())
    };
    call().step(|| "bring the loopback interface up".to_owned())
}

/// Sets both values of a resource limit.
pub fn set_limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), StepError> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure outlives the call.
    check(libc::c_long::from(unsafe { libc::setrlimit(resource, &raw const limit) }))
        .map(drop)
        .step(|| format!("set resource limit {resource}"))
}
