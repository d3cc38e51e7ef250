//! One sandbox: from the launcher's clone to PID 1 of the guest.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::packet;
use super::root;
use super::seccomp;
use super::sys::{self, Child, Context, StepError};
use super::wire::{Identity, Spawn};

/// New for every sandbox. The network namespace comes from the launcher, which made it ahead
/// and owns it, so that not even the sandbox's root may configure it.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Files below `/proc` that tell about the host and that jobs have no use for.
const MASKED_FILES: [&str; 8] = [
    "/proc/cmdline",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
];
const MASKED_DIRECTORIES: [&str; 4] = ["/proc/acpi", "/proc/asound", "/proc/bus", "/proc/scsi"];

/// What the guest needs as root of the sandbox: to own and hand over files, to become the
/// user and to end the user's processes. Everything else is gone before it runs.
const GUEST_CAPABILITIES: [u32; 8] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP
    19, // CAP_SYS_PTRACE: to see the user's processes in a /proc that hides others' from each
];

/// Files of `/code`, `/input` and `/secrets`, each. The host writes them, within limits of its own; as an
/// ordinary user the code may too.
const INTAKE_INODES: u32 = 4096;

/// What stays the same for all sandboxes of a cell.
pub struct Mould {
    pub identity: Identity,
    /// The host's `/proc`, as the root has only one that cannot be written.
    pub proc: OwnedFd,
    pub filter: Vec<libc::sock_filter>,
}

/// A sandbox that is set up and waits for its frame stream, with nothing of a job in it.
pub struct Prepared {
    pub spawn: Spawn,
    child: Child,
    pair: OwnedFd,
}

impl Prepared {
    /// Makes a sandbox; returns when it is set up.
    ///
    /// # Errors
    /// The step that failed, in either process. The child is dead and reaped then.
    pub fn new(mould: &Mould, spawn: Spawn, cgroup: Option<OwnedFd>) -> Result<Self, StepError> {
        let (ours, theirs) = packet::pair().step(|| "make a socket pair".to_owned())?;
        // A cgroup namespace made while cloning has the launcher's cgroup as its root. That is the
        // cell's own on v1; a child that was cloned into another one must make it by itself.
        let namespaces = match cgroup {
            Some(_) => NAMESPACES,
            None => NAMESPACES | libc::CLONE_NEWCGROUP,
        };
        let Some(child) = sys::clone3(namespaces as u64, cgroup.as_ref().map(AsFd::as_fd))? else {
            drop(ours);
            enter(mould, &spawn, theirs, cgroup.is_some());
        };
        drop((theirs, cgroup));
        let prepared = Self { spawn, child, pair: ours };
        match map_ids(mould, prepared.child.pid).and_then(|()| prepared.await_setup()) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.discard();
                Err(error)
            }
        }
    }

    /// Whether it still waits; it may have been killed for memory or by hand.
    pub fn is_alive(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.child.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, which outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
    }

    /// Gives it the frame stream, with which the guest begins.
    pub fn start(self, frames: &OwnedFd) -> Result<Child, StepError> {
        match packet::send(self.pair.as_fd(), FRAMES, &[frames.as_fd()]) {
            Ok(()) => Ok(self.child),
            Err(source) => {
                self.discard();
                Err(source).step(|| "hand over the frame stream".to_owned())
            }
        }
    }

    /// Ends it unused.
    pub fn discard(self) {
        sys::kill(self.child.pidfd.as_fd());
        // It can only be a child that was reaped already.
        let _ = sys::wait_for_end(self.child.pid);
    }

    /// Lets the child go on and waits for its word.
    fn await_setup(&self) -> Result<(), StepError> {
        packet::send(self.pair.as_fd(), GO, &[]).step(|| "release the sandbox".to_owned())?;
        let word = packet::receive(self.pair.as_fd()).step(|| "wait for the sandbox".to_owned())?;
        match parse_failure(&word.map(|(word, _)| word).unwrap_or_default()) {
            None => Ok(()),
            Some((step, errno)) => Err(StepError { step, source: io::Error::from_raw_os_error(errno) }),
        }
    }
}

// What goes over the pair: to the child, then back, then to the child with the stream.
const GO: &[u8] = b"go";
const SET_UP: &[u8] = b"ok";
const FRAMES: &[u8] = b"frames";

fn map_ids(mould: &Mould, pid: libc::pid_t) -> Result<(), StepError> {
    let (users, groups) = match mould.identity {
        Identity::Pair { guest, user } => {
            let map = format!("0 {guest} 1\n1000 {user} 1\n");
            (map.clone(), map)
        }
        // The launcher's own namespace maps its user to 0.
        Identity::Single { .. } => ("1000 0 1\n".to_owned(), "1000 0 1\n".to_owned()),
    };
    write_proc(mould, pid, "uid_map", &users)?;
    write_proc(mould, pid, "gid_map", &groups)?;
    // When memory runs out a sandbox goes first, before the launcher and the rest of the host.
    write_proc(mould, pid, "oom_score_adj", "1000")
}

fn write_proc(mould: &Mould, pid: libc::pid_t, name: &str, text: &str) -> Result<(), StepError> {
    let path = format!("/proc/self/fd/{}/{pid}/{name}", mould.proc.as_raw_fd());
    File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .step(|| format!("write {name} of the sandbox"))
}

fn parse_failure(word: &[u8]) -> Option<(String, i32)> {
    if word == SET_UP {
        return None;
    }
    let text = String::from_utf8_lossy(word);
    match text.split_once(' ') {
        Some((errno, step)) => Some((step.to_owned(), errno.parse().unwrap_or(libc::EINVAL))),
        None => Some(("set up the sandbox: it died".to_owned(), libc::ECHILD)),
    }
}

/// The child's descriptor of the pair.
const PAIR_FD: RawFd = 3;

fn enter(mould: &Mould, spawn: &Spawn, pair: OwnedFd, cgroup: bool) -> ! {
    let outcome = set_up(mould, spawn, pair, cgroup).and_then(|()| take_frames());
    match outcome {
        Ok((input, output)) => super::guest(input, output),
        Err(error) => {
            let word = format!("{} {}", error.errno(), error.step);
            let _ = packet::send(pair_fd(), word.as_bytes(), &[]);
            // SAFETY: ends the process.
            unsafe { libc::_exit(1) }
        }
    }
}

fn pair_fd() -> BorrowedFd<'static> {
    // SAFETY: set_up leaves the pair at this number, and nothing closes it before the guest begins.
    unsafe { BorrowedFd::borrow_raw(PAIR_FD) }
}

fn set_up(mould: &Mould, spawn: &Spawn, pair: OwnedFd, cgroup: bool) -> Result<(), StepError> {
    sys::name_process(c"tako-guest");
    arrange_descriptors(pair)?;
    await_word(GO)?;
    if let Identity::Pair { .. } = mould.identity {
        become_root()?;
    }
    // After the change of user, which clears it; before the look at the launcher, which may
    // have died in between.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, "die with the launcher")?;
    check_launcher()?;
    if cgroup {
        sys::unshare(libc::CLONE_NEWCGROUP, "cgroup")?;
    }
    mount_volatile(spawn)?;
    mount_proc()?;
    set_names_and_limits(spawn)?;
    drop_capabilities()?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "set no_new_privs")?;
    seccomp::install(&mould.filter).step(|| "install the system call filter".to_owned())
}

/// Nothing on the standard streams, the pair on 3, and nothing else.
fn arrange_descriptors(pair: OwnedFd) -> Result<(), StepError> {
    let call = || -> io::Result<()> {
        let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
        // Numbers above those to be taken, so that none is overwritten before it was copied.
        let [pair, null] = [move_up(pair)?, move_up(null)?];
        for number in 0..PAIR_FD {
            place(&null, number)?;
        }
        place(&pair, PAIR_FD)
    };
    call().step(|| "arrange descriptors".to_owned())?;
    sys::close_from(PAIR_FD as libc::c_uint + 1)
}

fn move_up(fd: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: copies an open descriptor; the new one belongs to nobody else.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PAIR_FD + 1) } {
        -1 => Err(io::Error::last_os_error()),
        moved => Ok(unsafe { OwnedFd::from_raw_fd(moved) }),
    }
}

fn place(fd: &OwnedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: what the number was before is of no use in this copy of the launcher.
    match unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn await_word(expected: &[u8]) -> Result<Vec<OwnedFd>, StepError> {
    match packet::receive(pair_fd()) {
        Ok(Some((word, fds))) if word == expected => Ok(fds),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::ECHILD)),
        Err(error) => Err(error),
    }
    .step(|| "hear the launcher".to_owned())
}

/// Tells that all is set up, and waits for the stream: input and output, on 0 and 1 as on
/// every engine.
fn take_frames() -> Result<(OwnedFd, OwnedFd), StepError> {
    packet::send(pair_fd(), SET_UP, &[]).step(|| "tell the launcher".to_owned())?;
    let fds = await_word(FRAMES)?;
    let call = || -> io::Result<()> {
        let frames = fds.first().ok_or(io::ErrorKind::InvalidData)?;
        place(frames, 0)?;
        place(frames, 1)
    };
    call().step(|| "take the frame stream".to_owned())?;
    drop(fds);
    sys::close_from(PAIR_FD as libc::c_uint)?;
    // SAFETY: both numbers were placed above, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(0), OwnedFd::from_raw_fd(1)) })
}

fn check_launcher() -> Result<(), StepError> {
    let mut poll = libc::pollfd { fd: PAIR_FD, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, which outlives the call.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ECHILD)).step(|| "find the launcher alive".to_owned()),
    }
}

/// Until here the process is the host's root, whom this user namespace does not know.
fn become_root() -> Result<(), StepError> {
    // SAFETY: system calls that take numbers and an empty list; the process is single-threaded.
    let results = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()),
            libc::syscall(libc::SYS_setresgid, 0, 0, 0),
            libc::syscall(libc::SYS_setresuid, 0, 0, 0),
        ]
    };
    if results == [0; 3] {
        return Ok(());
    }
    Err(io::Error::last_os_error()).step(|| "become root of the sandbox".to_owned())
}

fn mount_volatile(spawn: &Spawn) -> Result<(), StepError> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    for path in root::VOLATILE {
        let (bytes, inodes, mode) = match path {
            "/output" => (spawn.output_bytes, spawn.inodes, "1777"),
            "/code" | "/input" | "/secrets" => (spawn.intake_bytes, INTAKE_INODES, "755"),
            _ => (spawn.tmp_bytes, spawn.inodes, "1777"),
        };
        let options = format!("size={bytes},nr_inodes={inodes},mode={mode}");
        sys::mount(Path::new("tmpfs"), Path::new(path), "tmpfs", flags, &options)?;
    }
    Ok(())
}

fn mount_proc() -> Result<(), StepError> {
    sys::mount(Path::new("proc"), Path::new("/proc"), "proc", root::PROC_FLAGS, "hidepid=2")?;
    for (paths, cover) in [(&MASKED_FILES[..], "/dev/null"), (&MASKED_DIRECTORIES[..], "/sys")] {
        for path in paths {
            match sys::bind(Path::new(cover), Path::new(path)) {
                // A kernel without it has nothing to hide.
                Err(error) if error.errno() == libc::ENOENT => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn set_names_and_limits(spawn: &Spawn) -> Result<(), StepError> {
    const NAME: &str = "sandbox";
    // SAFETY: a pointer and its length.
    let named = unsafe { libc::sethostname(NAME.as_ptr().cast(), NAME.len()) };
    if named != 0 {
        return Err(io::Error::last_os_error()).step(|| "name the sandbox".to_owned());
    }
    // One byte is no core file and, unlike none, keeps the kernel from starting the host's
    // core handler too (core(5)).
    sys::set_limit(libc::RLIMIT_CORE, 1)?;
    // Locked memory and queued messages are not charged to everyone's cgroup alike.
    sys::set_limit(libc::RLIMIT_MEMLOCK, 64 * 1024)?;
    sys::set_limit(libc::RLIMIT_MSGQUEUE, 64 * 1024)?;
    if let Some(bytes) = spawn.address_space_bytes {
        sys::set_limit(libc::RLIMIT_AS, bytes)?;
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), StepError> {
    for capability in 0..64 {
        if GUEST_CAPABILITIES.contains(&capability) {
            continue;
        }
        // The first number the kernel does not know ends the list.
        match sys::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), "drop capabilities") {
            Err(error) if error.errno() == libc::EINVAL => break,
            other => other?,
        }
    }
    let kept = GUEST_CAPABILITIES.iter().fold(0u32, |mask, capability| mask | 1 << capability);
    // The kernel's third version of this call: a header and two halves of three masks.
    let header = [0x2008_0522u32, 0];
    let data = [kept, kept, 0, 0, 0, 0];
    // SAFETY: both arrays have the layout of the call and outlive it.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).step(|| "keep the guest's capabilities".to_owned()),
    }
}
