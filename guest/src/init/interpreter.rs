//! The interpreter: one child that starts before the job arrives and then becomes it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{privileges, signals, sys};
use crate::protocol::{Boot, MAX_ENVIRONMENT_BYTES};
use crate::site;

const MAIN: &CStr = c"/code/main.py";

/// A pipe takes as much at once, whatever the page size.
const MODULE_NAMES_BYTES: usize = 32 << 10;

const DEFAULT_PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin";

/// Environment of the user's code where the host names no other value.
const DEFAULT_ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", DEFAULT_PATH),
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    // Nothing outlives the sandbox, so cached bytecode would be written in vain.
    ("PYTHONDONTWRITEBYTECODE", "1"),
    // The same code on the same input gives the same output, so that a replay can compare.
    ("PYTHONHASHSEED", "0"),
];

/// A started interpreter and the guest's ends of its pipes.
pub struct Interpreter {
    pub pid: libc::pid_t,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Carries `ready <version>` and a newline, then `!` when the go was taken.
    pub ready: OwnedFd,
    /// Took the modules to import first, a line of names; takes further variables, and the one byte that
    /// starts the code.
    pub go: OwnedFd,
    /// Carries the uncaught exception, if one is.
    pub exception: OwnedFd,
}

impl Interpreter {
    /// Forks and executes the interpreter.
    ///
    /// Failures after the fork show as a child that writes to its standard error and ends
    /// before it is ready.
    pub fn start(boot: &Boot, is_init: bool) -> io::Result<Self> {
        let mut environment = boot.environment.clone();
        for (name, value) in DEFAULT_ENVIRONMENT {
            environment.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let program = find_python(boot.python.as_deref(), path)?;

        // Its module path begins with the place of the module that waits, which takes it off again.
        let path = match environment.get("PYTHONPATH").map(String::as_str) {
            None | Some("") => site::DIRECTORY.to_owned(),
            Some(path) => format!("{}:{path}", site::DIRECTORY),
        };
        environment.insert("PYTHONPATH".to_owned(), path);

        let program = sys::c_string(program.as_os_str().as_bytes())?;
        let arguments = [program.clone(), MAIN.to_owned()];
        let environment = environment
            .iter()
            .map(|(name, value)| sys::c_string(format!("{name}={value}")))
            .collect::<io::Result<Vec<_>>>()?;

        let null = null_device()?;
        let (stdout, child_stdout) = sys::pipe()?;
        let (stderr, child_stderr) = sys::pipe()?;
        let (ready, child_ready) = sys::pipe()?;
        let (child_go, go) = sys::pipe()?;
        let (exception, child_exception) = sys::pipe()?;
        for fd in [&stdout, &stderr, &ready, &exception] {
            sys::set_nonblocking(fd.as_fd())?;
        }
        name_modules(go.as_fd(), &boot.preload)?;

        // SAFETY: the guest has one thread, so the child may run ordinary code until it
        // executes the interpreter.
        let pid = sys::check(unsafe { libc::fork() })?;
        if pid == 0 {
            let inherited = [null, child_stdout, child_stderr, child_ready, child_go, child_exception];
            become_interpreter(boot, is_init, inherited, &program, &arguments, &environment);
        }
        Ok(Self { pid, stdout, stderr, ready, go, exception })
    }

    /// Adds variables and starts the code, once the interpreter waits for it.
    ///
    /// # Errors
    /// `InvalidInput` for variables that a pipe might not take at once; otherwise what the pipe
    /// answers, which nobody may read any more.
    pub fn go(&self, environment: &BTreeMap<String, String>) -> io::Result<()> {
        let mut message = Vec::new();
        for (name, value) in environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            message.extend_from_slice(format!("{name}={value}\0").as_bytes());
        }
        if message.len() > MAX_ENVIRONMENT_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the environment is too large"));
        }
        if !message.is_empty() {
            // An empty variable ends the list.
            message.insert(0, b'e');
            message.push(0);
        }
        message.push(b'g');
        sys::write(self.go.as_fd(), &message).map(drop)
    }

    /// CPU time the process has used, in milliseconds; 0 where the kernel does not tell.
    pub fn cpu_ms(&self) -> u64 {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both results outlive their calls.
        unsafe {
            if libc::clock_getcpuclockid(self.pid, &raw mut clock) != 0
                || libc::clock_gettime(clock, &raw mut time) != 0
            {
                return 0;
            }
        }
        (time.tv_sec as u64) * 1000 + (time.tv_nsec as u64) / 1_000_000
    }
}

/// Leaves the line of names in the pipe, which nobody reads yet.
fn name_modules(go: BorrowedFd<'_>, names: &[String]) -> io::Result<()> {
    let line = format!("{}\n", names.join(" "));
    if line.len() > MODULE_NAMES_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many modules to import"));
    }
    sys::write(go, line.as_bytes()).map(drop)
}

/// The child's standard input: what `/dev/null` is, or a pipe that has already ended where
/// the sandbox has no such device.
fn null_device() -> io::Result<OwnedFd> {
    match std::fs::OpenOptions::new().read(true).open("/dev/null") {
        Ok(file) => Ok(file.into()),
        Err(_) => sys::pipe().map(|(reader, _)| reader),
    }
}

fn find_python(given: Option<&str>, path: &str) -> io::Result<PathBuf> {
    if let Some(python) = given {
        return Ok(python.into());
    }
    path.split(':')
        .map(|directory| Path::new(directory).join("python3"))
        .find(|candidate| {
            sys::c_string(candidate.as_os_str().as_bytes())
                // SAFETY: the string outlives the call.
                .is_ok_and(|name| unsafe { libc::access(name.as_ptr(), libc::X_OK) } == 0)
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no python3 on PATH"))
}

/// The child's side of the fork. Never returns.
fn become_interpreter(
    boot: &Boot,
    is_init: bool,
    inherited: [OwnedFd; 6],
    program: &CString,
    arguments: &[CString],
    environment: &[CString],
) -> ! {
    let error = prepare_and_execute(boot, is_init, inherited, program, arguments, environment);
    let message = format!("cannot start {}: {error}\n", program.to_string_lossy());
    // SAFETY: the message is valid for its length; ending without handlers is what a forked
    // child must do.
    unsafe {
        libc::write(2, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

/// Executes, or says why not.
fn prepare_and_execute(
    boot: &Boot,
    is_init: bool,
    inherited: [OwnedFd; 6],
    program: &CString,
    arguments: &[CString],
    environment: &[CString],
) -> io::Error {
    let step = || -> io::Result<()> {
        place_descriptors(inherited)?;
        signals::reset_in_child();
        prefer_for_oom_killer();
        // SAFETY: system calls on this process alone.
        unsafe {
            sys::check(libc::setsid())?;
            libc::umask(0o022);
        }
        std::env::set_current_dir("/output")?;
        privileges::limit(&boot.rlimits)?;
        privileges::drop_all(boot.uid, boot.gid, &boot.devices)?;
        if !is_init {
            // SAFETY: as above. As PID 1 the guest's end is everybody's end already.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        }
        Ok(())
    };
    if let Err(error) = step() {
        return error;
    }
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both arrays end in a null pointer and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Makes the given descriptors 0 to 5, inheritable, and closes all others.
fn place_descriptors(inherited: [OwnedFd; 6]) -> io::Result<()> {
    const COUNT: RawFd = 6;
    // First out of the way: a source may sit on a number that is another's place.
    let moved = inherited.map(|fd| sys::move_up(fd, COUNT));
    for (place, fd) in (0..COUNT).zip(moved) {
        // SAFETY: the source is ours; the place belongs to nobody in this child any more.
        sys::check(unsafe { libc::dup2(fd?.as_raw_fd(), place) })?;
    }
    // SAFETY: nothing in this child uses a descriptor above these.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, COUNT, libc::c_uint::MAX, 0) };
    if closed != 0 {
        close_one_by_one(COUNT)?;
    }
    Ok(())
}

/// For kernels without `close_range`: everything `/proc` shows, which is all there is.
fn close_one_by_one(lowest: RawFd) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= lowest)
        .collect();
    for fd in open {
        // SAFETY: as above; the directory's own descriptor is closed already, which is an
        // error that does not matter.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Makes the OOM killer choose the user's code before the guest. The file belongs to root
/// while the process is undumpable, as the guest is, so the child becomes dumpable first;
/// executing would make it so anyway.
fn prefer_for_oom_killer() {
    // SAFETY: a flag of this process alone.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    // Without /proc the order of death is the kernel's choice, which is no reason not to run.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}
