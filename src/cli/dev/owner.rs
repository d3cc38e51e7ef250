//! Whom the database runs as: its programs refuse to run as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Numeric ids of an unprivileged user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
}

/// The effective user of this process.
pub(super) fn effective_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

impl User {
    /// Whom root hands a folder to: the one that has it already, else `postgres`, else `nobody`.
    /// `None` when this process is not root and so stays who it is.
    pub(super) fn for_folder(folder: &Path) -> Option<Self> {
        if effective_uid() != 0 {
            return None;
        }
        let owner = fs::metadata(folder).ok().filter(|meta| meta.uid() != 0);
        if let Some(meta) = owner {
            return Some(Self { uid: meta.uid(), gid: meta.gid() });
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let named = ["postgres", "nobody"].iter().find_map(|name| in_passwd(&passwd, name));
        Some(named.unwrap_or(Self { uid: 65_534, gid: 65_534 }))
    }

    /// Whether this user can enter a folder, found by entering it.
    pub(super) fn can_enter(self, folder: &Path) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ":"]).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.run_as(&mut command);
        command.status().is_ok_and(|status| status.success())
    }

    /// Makes a command run as this user, without root's groups.
    pub(super) fn run_as(self, command: &mut Command) {
        // The standard library drops the supplementary groups when root sets a uid, and
        // changes the folder only after that.
        command.uid(self.uid).gid(self.gid);
    }
}

fn in_passwd(passwd: &str, name: &str) -> Option<User> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
    Some(User { uid: entry.get(2)?.parse().ok()?, gid: entry.get(3)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7:::\npostgres:x:101:104:::\n";
        assert_eq!(in_passwd(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(in_passwd(passwd, "nobody"), None);
    }
}
