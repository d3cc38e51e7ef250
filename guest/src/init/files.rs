//! The job's files: written below `/code`, `/input` and `/secrets` as the host sends them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::protocol::FileHeader;

/// A file of which data is still to come.
pub struct IncomingFile {
    file: File,
    remaining: u64,
}

impl IncomingFile {
    /// Creates the file and its folders.
    ///
    /// # Errors
    /// `InvalidInput` for a path outside the two folders, `AlreadyExists` for a second file of
    /// the same path; otherwise what the kernel answers.
    pub fn create(header: &FileHeader) -> io::Result<Self> {
        if !is_allowed(&header.path) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = Path::new(&header.path);
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .mode(0o444)
            .open(path)?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        Ok(Self { file, remaining: header.bytes })
    }

    /// Whether all announced bytes have come.
    pub fn is_complete(&self) -> bool {
        self.remaining == 0
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// `InvalidInput` for more bytes than were announced.
    pub fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        self.remaining = self.remaining.checked_sub(piece.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        self.file.write_all(piece)
    }
}

/// Whether a path leads below one of the three folders by plain names alone.
fn is_allowed(path: &str) -> bool {
    let Some(below) = ["/code/", "/input/", "/secrets/"].iter().find_map(|folder| path.strip_prefix(folder)) else {
        return false;
    };
    path.len() <= 1024
        && below.split('/').all(|name| !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn files_land_below_the_three_folders_only() {
        for path in ["/code/main.py", "/input/data.json", "/input/a/b c/ü.csv", "/input/...", "/secrets/KEY"] {
            assert!(is_allowed(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/code",
            "/code/",
            "code/main.py",
            "/codes/x",
            "/code/../etc/passwd",
            "/secrets/../etc/passwd",
            "/input/./x",
            "/input//x",
            "/input/x/",
            "/etc/passwd",
            "/input/a\0b",
            "/output/x",
            "/input/..",
        ] {
            assert!(!is_allowed(path), "{path}");
        }
    }
}
