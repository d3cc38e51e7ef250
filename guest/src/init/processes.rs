//! Reaping and ending every process of the sandbox.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::signals::Signals;
use super::sys;

/// How long killed processes may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// Ended children looked at in one go, so that a storm of them cannot hold up a deadline.
const REAPED_AT_ONCE: usize = 256;

/// A child that ended: its process id and wait status.
pub type Ended = (libc::pid_t, libc::c_int);

/// What one look for ended children found.
pub enum Reaped {
    /// These ended; others live on.
    Some(Vec<Ended>),
    /// These ended and no child is left.
    All(Vec<Ended>),
}

/// Whether a look stopped early and another should follow at once.
pub fn is_full(ended: &[Ended]) -> bool {
    ended.len() == REAPED_AT_ONCE
}

/// Takes the ended children, without waiting.
///
/// A child that asked to be traced by its parent is reported as stopped; only an exit or a
/// deadly signal counts as an end.
pub fn reap() -> Reaped {
    let mut ended = Vec::new();
    while ended.len() < REAPED_AT_ONCE {
        let mut status = 0;
        // SAFETY: status outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
        match pid {
            0 => break,
            pid if pid > 0 => {
                if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                    ended.push((pid, status));
                }
            }
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Reaped::All(ended),
        }
    }
    Reaped::Some(ended)
}

/// Kills every other process of the sandbox and waits until all are gone; the children that
/// ended meanwhile.
///
/// # Errors
/// `TimedOut` when a process outlives SIGKILL for 10 s, as one stuck in the kernel may.
pub fn end_all(is_init: bool, signals: &Signals) -> io::Result<Vec<Ended>> {
    let give_up = Instant::now() + DEATH_LIMIT;
    let mut all = Vec::new();
    loop {
        if is_init {
            // SAFETY: as PID 1 of its namespace this reaches the sandbox and nothing else.
            unsafe { libc::kill(-1, libc::SIGKILL) };
        } else {
            kill_descendants();
        }
        loop {
            match reap() {
                Reaped::All(ended) => {
                    all.extend(ended);
                    return Ok(all);
                }
                Reaped::Some(ended) => {
                    let again = is_full(&ended);
                    all.extend(ended);
                    if !again {
                        break;
                    }
                }
            }
        }
        if Instant::now() >= give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds = [libc::pollfd { fd: signals.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        sys::poll(&mut fds, Some(Duration::from_millis(5)))?;
        signals.take();
    }
}

/// Sends SIGKILL to all descendants that `/proc` shows now. Orphans come to the guest, the
/// subreaper, so that repeating this reaches all of them.
fn kill_descendants() {
    let mut children: HashMap<libc::pid_t, Vec<libc::pid_t>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    // SAFETY: getpid cannot fail.
    let mut todo = vec![unsafe { libc::getpid() }];
    while let Some(parent) = todo.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            // SAFETY: the process is a descendant of ours, which cannot be replaced by another
            // before we reap it or its parent does; the window of the latter is accepted
            // outside a PID namespace, where the guest runs in tests only.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            todo.push(pid);
        }
    }
}

/// Each process with its parent.
fn processes() -> Vec<(libc::pid_t, libc::pid_t)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in parentheses may hold anything, so fields count from its end.
            let after_name = stat.rsplit_once(')')?.1;
            let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}
