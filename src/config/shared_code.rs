//! Files that the code of a job type imports.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// All of them together, and how many.
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 1_000;

/// Made by Python and by people's tools; nothing that code imports.
const LEFT_OUT: [&str; 3] = ["__pycache__", ".git", ".DS_Store"];

/// Files on the module path of the user's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SharedCode {
    /// A file or a folder of this host; relative to the file that names it.
    Path(PathBuf),
    /// Text by file name.
    Files(BTreeMap<String, String>),
}

impl SharedCode {
    /// The files as a tar archive in which nothing but names and bytes counts: the same files are
    /// the same bytes.
    ///
    /// # Errors
    /// In words, what cannot be shared and why.
    pub fn archive(&self) -> Result<Vec<u8>, String> {
        let mut files = BTreeMap::new();
        match self {
            Self::Files(texts) => {
                files.extend(texts.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes())));
            }
            Self::Path(path) => gather(path, &mut files)?,
        }
        check(&files)?;
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, &name, bytes.as_slice()).map_err(|error| format!("{name:?}: {error}"))?;
        }
        archive.into_inner().map_err(|error| error.to_string())
    }

    /// What is wrong with files that are given by name, if so.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Path(path) => (!path.exists()).then(|| format!("{} does not exist", path.display())),
            Self::Files(texts) => {
                check(&texts.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes())).collect()).err()
            }
        }
    }
}

fn gather(path: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let unreadable = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let kind = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    if kind.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return read(path, name, files);
    }
    let mut folders = vec![(path.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| unreadable(&folder, error))? {
            let entry = entry.map_err(|error| unreadable(&folder, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), error))?;
            let inside = format!("{prefix}{name}");
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => folders.push((entry.path(), format!("{inside}/"))),
                (_, true) => read(&entry.path(), inside, files)?,
                // A link could lead anywhere on this host.
                _ => return Err(format!("{inside:?} is neither a file nor a folder: put the file itself there")),
            }
            if files.len() + folders.len() > 2 * MAX_FILES {
                return Err(format!("holds more than {MAX_FILES} files"));
            }
        }
    }
    Ok(())
}

fn read(path: &Path, name: String, files: &mut BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("{name:?}: {error}");
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_BYTES {
        return Err(format!("{name:?} is larger than {} MiB", MAX_BYTES >> 20));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    files.insert(name, bytes);
    Ok(())
}

fn check(files: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    if files.is_empty() {
        return Err("holds no file".to_owned());
    }
    if files.len() > MAX_FILES {
        return Err(format!("holds more than {MAX_FILES} files"));
    }
    if let Some(name) = files.keys().find(|name| !is_file_name(name)) {
        let shown: String = name.chars().take(60).collect();
        return Err(format!(
            "{shown:?} is not a file name: write a relative path of letters, digits, dots, dashes and underscores"
        ));
    }
    let total: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
    if total > MAX_BYTES {
        return Err(format!("has {total} bytes, more than {} MiB", MAX_BYTES >> 20));
    }
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    name.len() <= 255 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> SharedCode {
        SharedCode::Files(names.iter().map(|name| ((*name).to_owned(), "x = 1\n".to_owned())).collect())
    }

    #[test]
    fn the_same_files_are_the_same_archive_wherever_they_come_from() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("pkg/__pycache__")).unwrap();
        fs::write(folder.path().join("pkg/__init__.py"), "x = 1\n").unwrap();
        fs::write(folder.path().join("pkg/__pycache__/x.pyc"), "no").unwrap();
        fs::write(folder.path().join("a.py"), "x = 1\n").unwrap();
        let of_folder = SharedCode::Path(folder.path().to_owned()).archive().unwrap();
        assert_eq!(of_folder, files(&["a.py", "pkg/__init__.py"]).archive().unwrap());
        assert_ne!(of_folder, files(&["b.py", "pkg/__init__.py"]).archive().unwrap());
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("secrets.py")).unwrap();
        let refused = SharedCode::Path(folder.path().to_owned()).archive().unwrap_err();
        assert!(refused.contains("put the file itself there"), "{refused}");
    }

    #[test]
    fn a_file_name_cannot_leave_its_folder_or_carry_a_command() {
        for name in ["../x.py", "/etc/x", "a//b", "a/./b", "", "a\nRUN id", "a b", "a;b", "$(id)", "a\0", "x\\y"] {
            assert!(files(&[name]).archive().is_err(), "{name:?}");
        }
        assert!(files(&["pkg/ünïcode_1.py"]).archive().is_ok());
        assert!(files(&[]).archive().is_err());
    }
}
