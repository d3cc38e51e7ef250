//! Starting launchers from the guest binary inside this program.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tako_guest::launch::packet;

use crate::engine::guest_binary::GUEST;

/// Starts a launcher; its process and the host's end of its socket.
///
/// # Errors
/// What the kernel answers to making or executing the file in memory.
pub fn start() -> io::Result<(Child, OwnedFd)> {
    let program = program()?;
    let (ours, theirs) = packet::pair()?;
    let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("tako-guest")
        .arg("launch")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, ours))
}

/// The guest binary as a file that has no path and that nobody can change any more.
fn program() -> io::Result<&'static OwnedFd> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let file = memory_file()?;
    (&file).write_all(GUEST)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: plain fcntl on an open descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PROGRAM.get_or_init(|| file.into()))
}

fn memory_file() -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let mut error = io::Error::last_os_error();
    // Since Linux 6.3 a host may demand that executable files say so; older ones do not know the flag.
    for flags in [flags | libc::MFD_EXEC, flags] {
        // SAFETY: a NUL-terminated name; the descriptor is new and belongs to nobody else.
        let fd = unsafe { libc::memfd_create(c"tako-guest".as_ptr(), flags) };
        if fd >= 0 {
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
        error = io::Error::last_os_error();
    }
    Err(error)
}
