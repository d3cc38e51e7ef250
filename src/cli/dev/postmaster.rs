//! The database's main process, known by the file it keeps in its data folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(10);

/// A running database server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postmaster {
    pub pid: u32,
    pub port: u16,
    pub is_ready: bool,
}

/// How a server is ended. What was committed is kept either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Sessions are cut and everything is written to its place.
    Clean,
    /// At once; the next start recovers from the write-ahead log.
    Now,
}

impl Postmaster {
    /// The server that runs on a data folder now; `None` too for a file that a killed one left.
    pub(super) fn of(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let postmaster = parse(&text)?;
        // A number alone may by now be anybody's: a server stands in its data folder.
        stands_in(postmaster.pid, data).then_some(postmaster)
    }

    /// Ends it and waits until it is gone; a clean end that takes more than a minute is cut short.
    pub(super) fn stop(self, data: &Path, end: End) -> Result<()> {
        let signals: &[(i32, u64)] = match end {
            End::Clean => &[(libc::SIGINT, 60), (libc::SIGQUIT, 10)],
            End::Now => &[(libc::SIGQUIT, 10), (libc::SIGKILL, 10)],
        };
        for &(signal, patience) in signals {
            self.signal(signal, data)?;
            if wait_until(Duration::from_secs(patience), || !stands_in(self.pid, data)) {
                return Ok(());
            }
        }
        bail!("the database (process {}) does not stop", self.pid)
    }

    fn signal(self, signal: i32, data: &Path) -> Result<()> {
        if !stands_in(self.pid, data) {
            return Ok(());
        }
        let pid = i32::try_from(self.pid).context("process number")?;
        // SAFETY: kill has no memory preconditions; the process was just seen to be ours.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => {
                let error = std::io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ESRCH) => Ok(()),
                    _ => Err(error).with_context(|| format!("cannot stop process {pid}")),
                }
            }
        }
    }
}

/// Removes what a killed server left in its data folder and in the folder above, where its
/// sockets are, once its last children are gone: while one of them lives, a new server would
/// share the data with it.
///
/// The server itself only asks whether the number in such a file is in use, which it is when
/// nobody has reaped the killed one yet, or when somebody else got it.
pub(super) fn clear_stale(data: &Path) -> Result<()> {
    if Postmaster::of(data).is_some() {
        return Ok(());
    }
    let mut left = vec![data.join("postmaster.pid")];
    for entry in data.parent().and_then(|above| fs::read_dir(above).ok()).into_iter().flatten() {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".s.PGSQL.")) {
            left.push(path);
        }
    }
    left.retain(|path| path.symlink_metadata().is_ok());
    if left.is_empty() {
        return Ok(());
    }
    if !wait_until(Duration::from_secs(20), || !anybody_stands_in(data)) {
        bail!("processes of a killed database still run in {}", data.display());
    }
    for path in left {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Polls until something holds; false when it did not in time.
pub(super) fn wait_until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// The file's lines: pid, data folder, start time, port, socket folder, listen address,
/// shared memory key, status (since PostgreSQL 10).
fn parse(text: &str) -> Option<Postmaster> {
    let lines: Vec<&str> = text.lines().collect();
    Some(Postmaster {
        pid: lines.first()?.trim().parse().ok()?,
        port: lines.get(3).and_then(|port| port.trim().parse().ok()).unwrap_or(0),
        is_ready: lines.get(7).is_some_and(|status| status.trim() == "ready"),
    })
}

fn stands_in(pid: u32, folder: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder) else {
        return false;
    };
    // A process that has ended but is not yet reaped stands nowhere.
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

fn anybody_stands_in(folder: &Path) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let folder: PathBuf = folder.to_path_buf();
    pids.into_iter().any(|pid| stands_in(pid, &folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_its_file_says_so() {
        let text = "12\n/data\n1700000000\n5433\n/run\n127.0.0.1\n  5 6\nready   \n";
        let ready = Postmaster { pid: 12, port: 5433, is_ready: true };
        assert_eq!(parse(text), Some(ready));
        let starting = parse(&text.replace("ready   ", "starting")).unwrap();
        assert!(!starting.is_ready);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_file_with_somebody_elses_pid_names_no_server() {
        let above = tempfile::tempdir().unwrap();
        let data = above.path().join("data");
        fs::create_dir(&data).unwrap();
        let text = format!("{}\n/data\n0\n5433\n\n\n\nready\n", std::process::id());
        fs::write(data.join("postmaster.pid"), text).unwrap();
        fs::write(above.path().join(".s.PGSQL.5433.lock"), "").unwrap();
        assert_eq!(Postmaster::of(&data), None);
        clear_stale(&data).unwrap();
        assert!(!data.join("postmaster.pid").exists());
        assert!(!above.path().join(".s.PGSQL.5433.lock").exists());
    }
}
