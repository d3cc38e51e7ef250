//! A cluster's folders, and who may do what in them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::owner::User;

/// A folder, and who the database in it runs as.
pub(super) struct Place {
    pub folder: PathBuf,
    user: Option<User>,
}

impl Place {
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder)?;
        let user = User::for_folder(&folder.join("cluster"));
        let is_open = user.is_none_or(|user| user.can_enter(nearest_existing(&folder)));
        if is_open {
            return Ok(Self { folder, user });
        }
        let name = hex::encode(&Sha256::digest(folder.as_os_str().as_encoded_bytes())[..8]);
        let folder = Path::new("/var/lib/tako-vm/dev").join(name);
        let user = User::for_folder(&folder.join("cluster"));
        Ok(Self { folder, user })
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.cluster().join("data")
    }

    /// The version that made the data.
    pub(super) fn major(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Makes the folders. The upper ones can be entered by everybody, so that the database's
    /// user can; what they hold is closed.
    pub(super) fn prepare(&self) -> Result<()> {
        let make = |path: &Path, mode| match DirBuilder::new().recursive(true).mode(mode).create(path) {
            Ok(()) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
        };
        let missing: Vec<_> = self.folder.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            make(folder, 0o711)?;
            // The process's umask may have taken it away.
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        }
        let cluster = self.cluster();
        if !cluster.exists() {
            make(&cluster, 0o700)?;
            self.give(&cluster)?;
        }
        self.check_access()
    }

    pub(super) fn check_access(&self) -> Result<()> {
        let cluster = self.cluster();
        match fs::read_dir(&cluster) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
                .with_context(|| format!("{} belongs to another user; be that user, or root", cluster.display())),
            _ => Ok(()),
        }
    }

    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let Some(User { uid, gid }) = self.user else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} to user {uid}", path.display()))
    }

    /// Held while the cluster is made, started or stopped.
    pub(super) fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    pub(super) fn password(&self) -> Result<String> {
        let path = self.folder.join("password");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// A server program that runs as the database's user, in the cluster's folder, without what
    /// the caller's environment would tell it.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        clean_environment(&mut command).current_dir(self.cluster()).stdin(Stdio::null());
        if let Some(user) = self.user {
            user.run_as(&mut command);
        }
        command
    }
}

pub(super) fn clean_environment(command: &mut Command) -> &mut Command {
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C")
}

pub(super) fn finish(command: &mut Command, name: &str) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    bail!("{name} failed ({}): {}", output.status, text.trim())
}

pub(super) fn write_private(path: &Path, text: &str) -> Result<()> {
    remove_if_there(path)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn nearest_existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"))
}
