//! Which cells exist on this host, and which sandbox is in each.
//!
//! A cell has a number, a file of that number and a lock on it for as long as its server
//! lives: the kernel drops the lock with the process, however it ends. Whoever gets the lock
//! of a number owns what carries that number (a cgroup, two host users) and may clear away
//! what an earlier owner left. The file tells the sandbox that is in the cell now.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::SandboxLabels;
use crate::engine::runtime_dir::runtime_dir;

/// The most cells of one host: as many as there are pairs of users for them.
const MAX_CELLS: u32 = 4096;

/// The directory of cell files.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
    /// Tells the cgroups of one directory's cells from another's.
    prefix: String,
}

/// A sandbox as its cell's file tells it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    pub labels: SandboxLabels,
    pid: libc::pid_t,
    /// When PID 1 of the sandbox started, in the kernel's ticks since boot: with the pid, a
    /// name that is never given twice.
    started: u64,
}

/// How the cgroups of the cells of a runtime directory begin. Servers in containers that share the host's
/// cgroups may have directories of one path, and must not take each other's cells for abandoned.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn cell_prefix(directory: &Path) -> io::Result<String> {
    let directory = directory.canonicalize()?;
    let facts = fs::metadata(&directory)?;
    let hash = Sha256::new()
        .chain_update(directory.as_os_str().as_encoded_bytes())
        .chain_update(facts.dev().to_le_bytes())
        .chain_update(facts.ino().to_le_bytes())
        .finalize();
    Ok(hex::encode(&hash[..4]))
}

impl Registry {
    /// Opens the directory, making it where it is missing.
    ///
    /// # Errors
    /// `PermissionDenied` when it belongs to another user, who could forge entries.
    pub fn open(directory: Option<&Path>) -> io::Result<Self> {
        let directory = directory.map_or_else(runtime_dir, Path::to_owned);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let directory = directory.canonicalize()?;
        // SAFETY: geteuid cannot fail.
        if fs::metadata(&directory)?.uid() != unsafe { libc::geteuid() } {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { prefix: cell_prefix(&directory)?, directory })
    }

    /// Takes the lowest number that no living server holds.
    ///
    /// # Errors
    /// `ResourceBusy` when all are held.
    pub fn take(&self) -> io::Result<Slot> {
        for number in 0..MAX_CELLS {
            if let Some(slot) = self.try_take(number)? {
                return Ok(slot);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Takes every number whose owner is gone, so that its remains can be cleared away.
    pub fn abandoned(&self) -> io::Result<Vec<Slot>> {
        let numbers = self.files()?.into_iter().map(|(number, _)| number);
        numbers.filter_map(|number| self.try_take(number).transpose()).collect()
    }

    fn try_take(&self, number: u32) -> io::Result<Option<Slot>> {
        let path = self.directory.join(number.to_string());
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let slot = Slot { number, name: format!("{}-{number}", self.prefix), file: Arc::new(file) };
        slot.clear()?;
        Ok(Some(slot))
    }

    /// The sandboxes that exist now, whoever made them.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (_, path) in self.files()? {
            let Ok(mut file) = File::open(&path) else { continue };
            // Whoever gets the lock has found an owner that is gone, and its sandbox with it.
            if file.try_lock_shared().is_ok() {
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            // An entry that is being written does not parse yet; its sandbox is as new.
            if let Ok(entry) = serde_json::from_str(&text) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn files(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()).map(str::parse);
            if let Some(Ok(number)) = number {
                files.push((number, path));
            }
        }
        Ok(files)
    }
}

impl Entry {
    /// Kills the sandbox; gone already is fine.
    ///
    /// # Errors
    /// What the kernel answers, `PermissionDenied` say.
    pub fn kill(&self) -> io::Result<()> {
        // SAFETY: takes numbers; the descriptor is new.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if pidfd < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) };
        }
        // SAFETY: as above.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as libc::c_int) };
        // Looked at after the handle was had, which keeps the pid from being given again.
        if start_time(self.pid) == Some(self.started) {
            tako_guest::launch::sys::kill(pidfd.as_fd());
        }
        Ok(())
    }
}

/// A cell's number, held.
#[derive(Debug)]
pub struct Slot {
    pub number: u32,
    /// Unique on the host: what the cell's cgroup is called.
    pub name: String,
    file: Arc<File>,
}

impl Slot {
    /// Another handle on the same number, which stays held until both are dropped.
    pub fn share(&self) -> Self {
        Self { number: self.number, name: self.name.clone(), file: self.file.clone() }
    }

    /// Tells which sandbox is in the cell.
    pub fn enter(&self, id: &str, labels: &SandboxLabels, pid: libc::pid_t) -> io::Result<()> {
        let started = start_time(pid).unwrap_or(0);
        let entry = Entry { id: id.to_owned(), labels: labels.clone(), pid, started };
        let text = serde_json::to_vec(&entry)?;
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Tells that the cell is empty.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// Field 22 of `/proc/<pid>/stat`. The name in parentheses may hold anything, so fields count
/// from its end.
fn start_time(pid: libc::pid_t) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (tempfile::TempDir, Registry) {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(Some(directory.path())).unwrap();
        (directory, registry)
    }

    fn labels() -> SandboxLabels {
        SandboxLabels {
            installation: "here".into(),
            node_id: "n1".into(),
            execution_id: Some("e1".into()),
            lease: Some(7),
        }
    }

    #[test]
    fn a_number_is_held_by_one_owner_at_a_time() {
        let (_directory, registry) = registry();
        let first = registry.take().unwrap();
        let second = registry.take().unwrap();
        assert_ne!(first.number, second.number);
        let number = first.number;
        drop(first);
        assert_eq!(registry.take().unwrap().number, number);
    }

    #[test]
    fn a_sandbox_is_listed_while_its_owner_lives() {
        let (_directory, registry) = registry();
        let slot = registry.take().unwrap();
        slot.enter("s1", &labels(), std::process::id() as libc::pid_t).unwrap();
        let entries = registry.entries().unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].id, "s1");
        assert_eq!(entries[0].labels, labels());
        slot.clear().unwrap();
        assert!(registry.entries().unwrap().is_empty());
        slot.enter("s2", &labels(), 1).unwrap();
        drop(slot);
        assert!(registry.entries().unwrap().is_empty());
    }

    #[test]
    fn what_an_owner_left_is_found_and_what_one_holds_is_not() {
        let (_directory, registry) = registry();
        let held = registry.take().unwrap();
        let left = registry.take().unwrap();
        let number = left.number;
        drop(left);
        let abandoned: Vec<u32> = registry.abandoned().unwrap().iter().map(|slot| slot.number).collect();
        assert_eq!(abandoned, [number]);
        drop(held);
    }

    #[test]
    fn a_process_that_got_the_pid_of_a_dead_sandbox_is_not_killed() {
        let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = bystander.id() as libc::pid_t;
        let entry = Entry { id: "s".into(), labels: labels(), pid, started: 1 };
        entry.kill().unwrap();
        assert!(bystander.try_wait().unwrap().is_none());
        let entry = Entry { started: start_time(pid).unwrap(), ..entry };
        entry.kill().unwrap();
        assert!(!bystander.wait().unwrap().success());
    }
}
