//! What identifies the host's Python, as an image digest identifies a container's.
//!
//! Hashing every file of the installation at each start would cost seconds, so the digest
//! covers: the bytes of the interpreter, what package managers know of the standard library
//! (Debian's checksums of it) or else the size and time of each of its files, the C library,
//! and the name of every installed distribution. It changes with each upgrade; a file edited
//! by hand under a package manager's nose does not change it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The digest of an interpreter and of what it imports: `sha256:<64 hex>`.
///
/// # Errors
/// When the interpreter cannot be read.
pub fn of_python(python: &Path) -> io::Result<String> {
    let executable = python.canonicalize()?;
    let mut hash = Sha256::new();
    hash.update(b"python\0");
    hash.update(fs::read(&executable)?);
    let name = executable.file_name().map(|name| name.to_string_lossy().into_owned());
    let version = name.unwrap_or_default();
    let sums = debian_checksums(&executable, &version);
    if sums.is_empty() {
        let library = executable.ancestors().nth(2).unwrap_or(Path::new("/")).join("lib");
        for directory in entries(&library) {
            if is_python_library(&directory) {
                add_tree(&mut hash, &directory);
            }
        }
    }
    for path in sums {
        hash.update(fs::read(path)?);
    }
    for library in ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"] {
        add_facts(&mut hash, Path::new(library));
    }
    for directory in ["/usr/lib/python3/dist-packages".into(), format!("/usr/local/lib/{version}/dist-packages")] {
        for path in entries(Path::new(&directory)) {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(b"\0");
        }
    }
    Ok(format!("sha256:{}", hex::encode(hash.finalize())))
}

/// The digest of an unpacked image: names, sizes, modes and times of all its files.
pub fn of_directory(directory: &Path) -> String {
    let mut hash = Sha256::new();
    hash.update(b"directory\0");
    add_tree(&mut hash, directory);
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// dpkg's lists of checksums for the packages of this interpreter's standard library.
fn debian_checksums(executable: &Path, version: &str) -> Vec<PathBuf> {
    if executable.parent() != Some(Path::new("/usr/bin")) || version.is_empty() {
        return Vec::new();
    }
    entries(Path::new("/var/lib/dpkg/info"))
        .into_iter()
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.contains(version) && name.ends_with(".md5sums"))
        })
        .collect()
}

fn is_python_library(path: &Path) -> bool {
    path.is_dir() && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"python3"))
}

fn add_tree(hash: &mut Sha256, directory: &Path) {
    for path in entries(directory) {
        // Compiled files appear by use and say nothing that their source does not.
        if path.file_name().is_some_and(|name| name == "__pycache__") {
            continue;
        }
        hash.update(path.strip_prefix(directory).unwrap_or(&path).as_os_str().as_encoded_bytes());
        hash.update(b"\0");
        match fs::symlink_metadata(&path) {
            Ok(kind) if kind.is_dir() => add_tree(hash, &path),
            _ => add_facts(hash, &path),
        }
    }
}

fn add_facts(hash: &mut Sha256, path: &Path) {
    if let Ok(facts) = fs::metadata(path) {
        for number in [facts.size(), u64::from(facts.mode()), facts.mtime() as u64] {
            hash.update(number.to_le_bytes());
        }
    }
}

/// The paths in a directory, sorted; none where it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_python_has_the_same_digest() {
        let digest = of_python(Path::new("/usr/bin/python3")).unwrap();
        assert_eq!(digest, of_python(Path::new("/usr/bin/python3")).unwrap());
        assert!(digest.starts_with("sha256:") && digest.len() == 71);
    }

    #[test]
    fn a_changed_file_changes_the_directorys_digest() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "one").unwrap();
        let before = of_directory(directory.path());
        fs::write(directory.path().join("a"), "three").unwrap();
        assert_ne!(before, of_directory(directory.path()));
    }
}
