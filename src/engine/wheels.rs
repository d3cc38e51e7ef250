//! Wheels kept for later builds, each by the hash of its bytes.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// A folder with a folder for each wheel, named by its SHA-256.
#[derive(Debug, Clone)]
pub(super) struct Wheels(PathBuf);

/// One kept wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wheel {
    pub path: PathBuf,
    /// Normalised (PEP 503).
    name: String,
    version: String,
    sha256: String,
}

impl Wheel {
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What pip installs with `--require-hashes`, one package per line, in the order of their names.
pub(super) fn lock(wheels: &[Wheel]) -> String {
    let mut lines: Vec<_> = wheels
        .iter()
        .map(|wheel| format!("{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256))
        .collect();
    lines.sort();
    lines.concat()
}

impl Wheels {
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Copies a wheel here.
    ///
    /// # Errors
    /// A file that is not called like a wheel, and what the file system says.
    pub fn keep(&self, source: &Path, file_name: &str) -> io::Result<Wheel> {
        let not_a_wheel = || io::Error::new(io::ErrorKind::InvalidData, format!("{file_name:?} is not a wheel"));
        let (name, version) = parts(file_name).ok_or_else(not_a_wheel)?;
        let sha256 = hash(source)?;
        let folder = self.0.join(&sha256);
        let path = folder.join(file_name);
        if !path.is_file() {
            fs::create_dir_all(&folder)?;
            let partial = folder.join(format!(".{}", uuid::Uuid::new_v4().simple()));
            fs::copy(source, &partial)?;
            fs::rename(&partial, &path)?;
        }
        Ok(Wheel { path, name, version, sha256 })
    }

    /// All wheels of a lock, if they are here and still what they were.
    pub fn find(&self, lock: &str) -> Option<Vec<Wheel>> {
        let hash_of = |line: &str| line.rsplit_once("--hash=sha256:").map(|(_, hash)| hash.trim().to_owned());
        lock.lines().filter(|line| !line.trim().is_empty()).map(|line| self.by_hash(&hash_of(line)?)).collect()
    }

    fn by_hash(&self, sha256: &str) -> Option<Wheel> {
        let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let folder = is_hash.then(|| self.0.join(sha256))?;
        let entries = fs::read_dir(&folder).ok()?.flatten();
        let file_name = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let file_name = file_name.into_iter().find(|name| parts(name).is_some())?;
        let path = folder.join(&file_name);
        if hash(&path).ok()? != sha256 {
            return None;
        }
        let (name, version) = parts(&file_name)?;
        // So that the oldest are those that nobody used for long.
        if let Ok(file) = fs::File::open(&path) {
            // SAFETY: the descriptor is open, and no times means now.
            unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) };
        }
        Some(Wheel { path, name, version, sha256: sha256.to_owned() })
    }

    /// Removes those that were not used for longest until the rest has no more than so many bytes.
    pub fn shrink(&self, limit_bytes: u64) {
        let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for folder in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                if let Ok(facts) = file.metadata() {
                    kept.push((facts.modified().unwrap_or(SystemTime::UNIX_EPOCH), facts.len(), folder.path()));
                }
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, folder) in kept {
            if total <= limit_bytes {
                return;
            }
            if fs::remove_dir_all(&folder).is_ok() {
                total -= bytes;
            }
        }
    }
}

/// Name and version of `{name}-{version}(-{build})?-{python}-{abi}-{platform}.whl`.
fn parts(file_name: &str) -> Option<(String, String)> {
    let stem = file_name.strip_suffix(".whl")?;
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '!');
    if file_name.len() > 255 || file_name.starts_with('.') || !stem.chars().all(is_safe) {
        return None;
    }
    let fields: Vec<&str> = stem.split('-').collect();
    if !(5..=6).contains(&fields.len()) || fields.iter().any(|field| field.is_empty()) {
        return None;
    }
    let mut name = String::new();
    for character in fields[0].chars() {
        match character {
            '-' | '_' | '.' if name.ends_with('-') => {}
            '-' | '_' | '.' => name.push('-'),
            other => name.push(other.to_ascii_lowercase()),
        }
    }
    Some((name, fields[1].replace('_', "-")))
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(wheels: &Wheels, name: &str, bytes: &[u8]) -> Wheel {
        let source = tempfile::NamedTempFile::new().unwrap();
        fs::write(source.path(), bytes).unwrap();
        wheels.keep(source.path(), name).unwrap()
    }

    #[test]
    fn a_lock_finds_its_wheels_again_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let wheels = Wheels::at(folder.path());
        let two = kept(&wheels, "Two_Words.x-1.0+cpu-1-cp311-cp311-linux_x86_64.whl", b"two");
        let one = kept(&wheels, "one-2!1.0.post1-py3-none-any.whl", b"one");
        let lock = lock(&[two.clone(), one.clone()]);
        assert_eq!(
            lock,
            format!(
                "one==2!1.0.post1 --hash=sha256:{}\ntwo-words-x==1.0+cpu --hash=sha256:{}\n",
                one.sha256, two.sha256
            )
        );
        assert_eq!(wheels.find(&lock), Some(vec![one.clone(), two]));
        assert_eq!(wheels.find(&lock.replace(&one.sha256, &"0".repeat(64))), None);
        fs::write(&one.path, b"other").unwrap();
        assert_eq!(wheels.find(&lock), None, "bytes that changed are not what was locked");
    }

    #[test]
    fn what_is_not_called_like_a_wheel_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let source = tempfile::NamedTempFile::new().unwrap();
        for name in ["x.tar.gz", "../a-1-py3-none-any.whl", "a-1.whl", "a-1-py3-none-any\n.whl", "-1-py3-none-any.whl"]
        {
            assert!(Wheels::at(folder.path()).keep(source.path(), name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_wheels_that_nobody_used_for_longest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let wheels = Wheels::at(folder.path());
        let old = kept(&wheels, "old-1-py3-none-any.whl", &[1; 100]);
        let new = kept(&wheels, "new-1-py3-none-any.whl", &[2; 100]);
        fs::File::open(&old.path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        wheels.shrink(200);
        assert!(old.path.exists() && new.path.exists());
        wheels.shrink(150);
        assert!(!old.path.exists() && new.path.exists());
    }
}
