//! The seccomp profile, as the daemon at hand wants to be given it.
//!
//! Docker takes the profile itself. Podman's Docker-compatible API takes a path and opens it where it
//! runs, so there the profile is laid into a file, which only helps a Podman on this host.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;

use super::daemon::{Daemon, unavailable};
use crate::domain::Digest;
use crate::engine::Error;
use crate::engine::runtime_dir::runtime_dir;

/// Docker's own default, tightened. See the comments in the file.
pub(super) const PROFILE: &str = include_str!("../../../docker/seccomp.json");

/// What follows `seccomp=` in a request to this daemon.
///
/// # Errors
/// `Unavailable` for a Podman that is not reached through a socket of this host, or when the file
/// cannot be written.
pub(super) fn option_for(daemon: &Daemon, podman: bool) -> Result<String, Error> {
    if !podman {
        return Ok(PROFILE.to_owned());
    }
    if !daemon.is_local() {
        let reason = "Podman reads the seccomp profile from its own disk; reach it through a unix socket of this host";
        return Err(unavailable(format!("{}: {reason}", daemon.address)));
    }
    let path = lay_down().map_err(|error| unavailable(format!("cannot write the seccomp profile: {error}")))?;
    Ok(path.display().to_string())
}

/// Writes the profile under a name that tells its content.
fn lay_down() -> io::Result<PathBuf> {
    let hash = Digest::of(PROFILE.as_bytes()).to_string();
    let directory = runtime_dir();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory)?;
    let path = directory.join(format!("seccomp-{}.json", &hash[..12]));
    // Under another name first: a container that starts meanwhile must not read half of it.
    let draft = directory.join(format!("seccomp-{}.{}", &hash[..12], std::process::id()));
    fs::write(&draft, PROFILE)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
    fs::rename(&draft, &path)?;
    Ok(path)
}
