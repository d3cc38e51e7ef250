//! What a child gives up before it becomes the user's interpreter.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::sys::check;
use crate::protocol::Rlimits;

/// Drops every privilege for good: capabilities (of the bounding set too, where allowed),
/// groups but those of the devices, user, and the right to gain any by executing a file.
///
/// Without root the user stays who it is. Runs in the forked child.
///
/// # Errors
/// When root cannot become the user, who must then not start.
pub fn drop_all(uid: libc::uid_t, gid: libc::gid_t, devices: &[String]) -> io::Result<()> {
    let groups = groups_of(devices)?;
    // SAFETY: system calls on this process alone, with plain values.
    unsafe {
        for capability in 0..64 {
            // Needs CAP_SETPCAP, and ends with EINVAL past the last capability. Whoever lacks
            // the right has no way to regain a capability after no_new_privs either.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if libc::geteuid() == 0 && uid != 0 {
            let has_none = || groups.is_empty() && libc::getgroups(0, std::ptr::null_mut()) == 0;
            if libc::setgroups(groups.len(), groups.as_ptr()) != 0 && !has_none() {
                return Err(io::Error::last_os_error());
            }
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    }
    clear_capabilities()
}

/// The groups of device nodes. A group of root's own is no device's and is not given.
fn groups_of(devices: &[String]) -> io::Result<Vec<libc::gid_t>> {
    let mut groups = Vec::new();
    for device in devices {
        let node = std::fs::metadata(device)?;
        if !node.file_type().is_char_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device node"));
        }
        if node.gid() != 0 && !groups.contains(&node.gid()) {
            groups.push(node.gid());
        }
    }
    Ok(groups)
}

/// `struct __user_cap_header_struct` and two of `struct __user_cap_data_struct`, which the
/// libc crate does not have; from `linux/capability.h`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_KILL: u32 = 5;

fn clear_capabilities() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let none = [CapabilityData::default(); 2];
    // SAFETY: both structures have the layout that version 3 asks for and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    check(result as libc::c_int).map(drop)
}

/// Whether this process can signal processes of `uid`, which it must to end them.
pub fn can_kill(uid: libc::uid_t) -> bool {
    // SAFETY: geteuid cannot fail.
    let own = unsafe { libc::geteuid() };
    if own != 0 || uid == 0 {
        return true;
    }
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: as above; the kernel writes both halves.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    result == 0 && data[0].effective & (1 << CAP_KILL) != 0
}

/// Sets the limits of one process and, by inheritance, of all it starts. A limit above the
/// present hard one becomes the hard one. No core files.
pub fn limit(limits: &Rlimits) -> io::Result<()> {
    // One byte is no core file and, unlike none, keeps the kernel from starting the host's core
    // handler too (core(5)).
    set_limit(libc::RLIMIT_CORE, 1)?;
    set_limit(libc::RLIMIT_NOFILE, limits.open_files)?;
    set_limit(libc::RLIMIT_FSIZE, limits.file_bytes)?;
    if limits.processes != 0 {
        set_limit(libc::RLIMIT_NPROC, limits.processes)?;
    }
    Ok(())
}

fn set_limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives both calls.
    unsafe {
        check(libc::getrlimit(resource, &raw mut now))?;
        let value = value.min(now.rlim_max);
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        check(libc::setrlimit(resource, &raw const limit)).map(drop)
    }
}
