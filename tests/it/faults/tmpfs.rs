//! A disk so small that a test can fill it.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::is_root;

/// Goes with the value, or with this process.
pub struct Tmpfs {
    folder: TempDir,
    /// Unmounts it when this process closes its pipe.
    guardian: Child,
}

impl Tmpfs {
    /// Of so many mebibytes, for a test that is told to be skipped where it cannot be.
    pub fn mount(test: &str, mebibytes: u32) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: {test}: only root can mount a disk");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("tako-disk-").tempdir().unwrap();
        let options = format!("size={mebibytes}m,mode=1777");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tako-test"]).arg(folder.path()).status();
        assert!(mounted.unwrap().success());
        // Whoever still works there ends soon.
        let end = "trap '' INT HUP TERM; read _; tries=0; \
             until umount \"$0\" 2>/dev/null || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.1; done; \
             [ $tries -lt 100 ] || umount -l \"$0\"";
        let mut guardian = Command::new("sh");
        guardian.args(["-c", end]).arg(folder.path()).current_dir("/").stdin(Stdio::piped());
        Some(Self { guardian: guardian.spawn().unwrap(), folder })
    }

    /// A new folder on it.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// Takes what room there is.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        // Down to the last page.
        for length in [1 << 20, 4096] {
            let zeros = vec![0; length];
            loop {
                match file.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Gives back what was taken.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}
