//! Finds and opens what the job left in `/output`.
//!
//! Everything of the job is dead by now, but what it left may still be a trap for the reader:
//! links that lead out, FIFOs that block, names that lie. Each entry is opened beneath a
//! handle of its folder, never by a path.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::sys;
use crate::protocol::{ArtifactLimits, MAX_PATH_BYTES, MAX_REFUSED_ARTIFACTS, Refusal, RefusedArtifact};

/// Folders below `/output` that a file may lie in, itself counted.
const MAX_DEPTH: usize = 8;
/// Entries looked at before the rest is refused as one.
const MAX_ENTRIES: usize = 10_000;
/// Collected before all others, so that a flood of files cannot push it out.
const RESULT: &CStr = c"result.json";

/// A file to send: opened, checked, within the limits.
pub struct Artifact {
    /// Relative to `/output`.
    pub path: String,
    pub file: OwnedFd,
    pub bytes: u64,
}

/// Walks `/output`, hands each collectable file to `take`, and returns the refused entries.
///
/// # Errors
/// What `take` answers, and a missing or unreadable `/output`.
pub fn collect<E: From<io::Error>>(
    root: &CStr,
    limits: ArtifactLimits,
    take: impl FnMut(Artifact) -> Result<(), E>,
) -> Result<Vec<RefusedArtifact>, E> {
    // SAFETY: the string outlives the call.
    let fd = sys::check(unsafe { libc::open(root.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) })
        .map_err(E::from)?;
    // SAFETY: the kernel just gave this descriptor to us.
    let root = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut walk = Walk {
        limits,
        device: stat(root.as_fd()).map_err(E::from)?.st_dev,
        count: 0,
        total: 0,
        looked_at: 0,
        refused: Vec::new(),
        take,
    };
    if exists(root.as_fd(), RESULT) {
        walk.entry(root.as_fd(), RESULT, "", 1)?;
    }
    walk.folder(root.as_fd(), "", 1)?;
    Ok(walk.refused)
}

struct Walk<F> {
    limits: ArtifactLimits,
    device: libc::dev_t,
    count: u32,
    total: u64,
    looked_at: usize,
    refused: Vec<RefusedArtifact>,
    take: F,
}

impl<F, E> Walk<F>
where
    F: FnMut(Artifact) -> Result<(), E>,
{
    /// Visits the entries of a folder in the order of their names.
    fn folder(&mut self, folder: BorrowedFd<'_>, path: &str, depth: usize) -> Result<(), E> {
        let budget = MAX_ENTRIES.saturating_sub(self.looked_at);
        let (mut names, more) = match entries(folder, budget) {
            Ok(entries) => entries,
            Err(_) => {
                self.refuse(path.as_bytes(), Refusal::Unreadable);
                return Ok(());
            }
        };
        self.looked_at += names.len();
        names.sort_unstable();
        for name in &names {
            if depth > 1 || name.as_c_str() != RESULT {
                self.entry(folder, name, path, depth)?;
            }
        }
        if more {
            self.refuse(join(path, b"...").as_slice(), Refusal::TooMany);
        }
        Ok(())
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CStr, parent: &str, depth: usize) -> Result<(), E> {
        let raw_path = join(parent, name.to_bytes());
        let Some(path) = acceptable(&raw_path) else {
            self.refuse(&raw_path, Refusal::BadName);
            return Ok(());
        };
        match self.open(folder, name) {
            Ok(Opened::Folder(_)) if depth >= MAX_DEPTH => {
                self.refuse(&raw_path, Refusal::TooDeep);
                Ok(())
            }
            Ok(Opened::Folder(inner)) => self.folder(inner.as_fd(), path, depth + 1),
            Ok(Opened::File(file, bytes)) => {
                self.count += 1;
                self.total += bytes;
                (self.take)(Artifact { path: path.to_owned(), file, bytes })
            }
            Err(refusal) => {
                self.refuse(&raw_path, refusal);
                Ok(())
            }
        }
    }

    fn open(&self, folder: BorrowedFd<'_>, name: &CStr) -> Result<Opened, Refusal> {
        let unreadable = |_| Refusal::Unreadable;
        // Looked at before it is opened, because to open a FIFO or a device is to act on it.
        let seen = stat_at(folder, name).map_err(unreadable)?;
        let kind = seen.st_mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != libc::S_IFDIR {
            return Err(Refusal::NotARegularFile);
        }
        if seen.st_dev != self.device {
            return Err(Refusal::NotARegularFile);
        }
        if kind == libc::S_IFREG {
            self.check_file(&seen)?;
        }
        let fd = open_readable(folder, name, kind == libc::S_IFDIR).map_err(unreadable)?;
        let opened = stat(fd.as_fd()).map_err(unreadable)?;
        if (opened.st_dev, opened.st_ino, opened.st_mode & libc::S_IFMT) != (seen.st_dev, seen.st_ino, kind) {
            return Err(Refusal::Unreadable);
        }
        if kind == libc::S_IFDIR {
            return Ok(Opened::Folder(fd));
        }
        Ok(Opened::File(fd, self.check_file(&opened)?))
    }

    /// The file's size in bytes, if it may be collected. A sparse file counts as long as it reads.
    fn check_file(&self, stat: &libc::stat) -> Result<u64, Refusal> {
        let bytes = u64::try_from(stat.st_size).map_err(|_| Refusal::Unreadable)?;
        if stat.st_nlink != 1 {
            Err(Refusal::HardLink)
        } else if bytes > self.limits.max_file_bytes {
            Err(Refusal::TooLarge)
        } else if self.count >= self.limits.max_count {
            Err(Refusal::TooMany)
        } else if bytes > self.limits.max_total_bytes - self.total {
            Err(Refusal::TotalTooLarge)
        } else {
            Ok(bytes)
        }
    }

    fn refuse(&mut self, path: &[u8], reason: Refusal) {
        if self.refused.len() < MAX_REFUSED_ARTIFACTS {
            self.refused.push(RefusedArtifact { name: printable(path), reason });
        }
    }
}

enum Opened {
    Folder(OwnedFd),
    File(OwnedFd, u64),
}

fn join(parent: &str, name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    if !parent.is_empty() {
        path.extend_from_slice(parent.as_bytes());
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn acceptable(path: &[u8]) -> Option<&str> {
    let path = std::str::from_utf8(path).ok()?;
    (path.len() <= MAX_PATH_BYTES && !path.chars().any(char::is_control)).then_some(path)
}

/// Lossy, escaped, and short: for a person to read.
fn printable(path: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(path).chars() {
        let before = text.len();
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
        if text.len() > MAX_PATH_BYTES {
            text.truncate(before);
            break;
        }
    }
    text
}

/// The names in a folder, at most `budget`, and whether there were more.
fn entries(folder: BorrowedFd<'_>, budget: usize) -> io::Result<(Vec<CString>, bool)> {
    // A descriptor of its own, because the stream closes it.
    let own = folder.try_clone_to_owned()?;
    // SAFETY: fdopendir takes the descriptor over when it succeeds; entries are read before
    // the next call, and the stream is closed on every way out.
    unsafe {
        let stream = libc::fdopendir(own.as_raw_fd());
        if stream.is_null() {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(own);
        let mut names = Vec::new();
        let mut more = false;
        loop {
            let entry = libc::readdir64(stream);
            if entry.is_null() {
                break;
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr());
            if name == c"." || name == c".." {
                continue;
            }
            if names.len() == budget {
                more = true;
                break;
            }
            names.push(name.to_owned());
        }
        libc::closedir(stream);
        Ok((names, more))
    }
}

/// Opens an entry for reading; without the right to, after taking it, which an owner may.
fn open_readable(folder: BorrowedFd<'_>, name: &CStr, is_folder: bool) -> io::Result<OwnedFd> {
    match open_beneath(folder, name, is_folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mode = if is_folder { 0o700 } else { 0o600 };
            // SAFETY: the string outlives the call. The entry is no link: it was looked at,
            // and nothing that could replace it lives.
            sys::check(unsafe { libc::fchmodat(folder.as_raw_fd(), name.as_ptr(), mode, 0) })?;
            open_beneath(folder, name, is_folder)
        }
        other => other,
    }
}

/// `struct open_how` of `linux/openat2.h`; the libc crate's own cannot be built literally.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const READ_FLAGS: libc::c_int = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

fn open_beneath(folder: BorrowedFd<'_>, name: &CStr, is_folder: bool) -> io::Result<OwnedFd> {
    let mut flags = READ_FLAGS;
    if is_folder {
        flags |= libc::O_DIRECTORY;
    }
    let how = OpenHow {
        flags: flags as u64,
        mode: 0,
        resolve: libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV,
    };
    // SAFETY: the string and the structure outlive the call, and the size is the structure's.
    let result = unsafe {
        libc::syscall(libc::SYS_openat2, folder.as_raw_fd(), name.as_ptr(), &raw const how, size_of::<OpenHow>())
    };
    let result = match sys::check(result as libc::c_int) {
        // Some kernels and gVisor lack it, some seccomp filters deny it as unknown. The name
        // is one component, so that O_NOFOLLOW alone keeps it beneath the folder too.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            open_plain(folder, name, flags)
        }
        other => other,
    };
    // SAFETY: the kernel just gave this descriptor to us.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open_plain(folder: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the string outlives the call.
    sys::check(unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) })
}

fn exists(folder: BorrowedFd<'_>, name: &CStr) -> bool {
    stat_at(folder, name).is_ok()
}

fn stat_at(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<libc::stat> {
    let mut stat = std::mem::MaybeUninit::uninit();
    // SAFETY: the kernel fills the structure when the call succeeds.
    unsafe {
        sys::check(libc::fstatat(folder.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW))?;
        Ok(stat.assume_init())
    }
}

fn stat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut stat = std::mem::MaybeUninit::uninit();
    // SAFETY: as above.
    unsafe {
        sys::check(libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()))?;
        Ok(stat.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn no_way_of_opening_follows_a_link() {
        let path = std::env::temp_dir().join(format!("tako-collect-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path.join("link")).unwrap();
        fs::write(path.join("plain"), "x").unwrap();
        let folder = File::open(&path).unwrap();
        let beneath = |name| open_beneath(folder.as_fd(), name, false).map(drop).map_err(|e| e.raw_os_error());
        let plain = |name| open_plain(folder.as_fd(), name, READ_FLAGS).map(|_| ()).map_err(|e| e.raw_os_error());
        let answers = [beneath(c"link"), plain(c"link"), beneath(c"plain"), plain(c"plain")];
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(answers, [Err(Some(libc::ELOOP)), Err(Some(libc::ELOOP)), Ok(()), Ok(())]);
    }

    #[test]
    fn a_name_is_shown_short_and_without_control_characters() {
        assert_eq!(printable(b"a\x1b[31m\n\xff"), "a\\u{1b}[31m\\n\u{fffd}");
        assert!(printable(&[b'a'; 400]).len() == MAX_PATH_BYTES);
        assert!(printable(&[7; 400]).len() <= MAX_PATH_BYTES);
    }
}
