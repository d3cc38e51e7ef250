//! A private PostgreSQL cluster, made from the installed server programs.
//!
//! ```text
//! <folder>/            ours: lock, port, password (0600), log
//! <folder>/cluster/    the database user's alone: data/, and the unix socket
//! ```

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::binaries::Binaries;
use super::place::{Place, clean_environment, finish};
use super::postmaster::{End, Postmaster};
use super::start::Durability;
use crate::config::DatabaseUrl;

/// The role that owns everything in the cluster.
pub(super) const ROLE: &str = "tako";
/// The database that exists from the start.
pub const DATABASE: &str = "tako_vm";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    postmaster: Postmaster,
    password: String,
    is_new: bool,
    /// Ends the cluster when this process ends, however that happens.
    guard: Option<Guard>,
}

/// What ends with a throwaway cluster.
#[derive(Debug)]
struct Guard {
    process: Child,
    /// The cluster's folder, where it is not the caller's own, who would delete it.
    elsewhere: Option<PathBuf>,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Absent,
    Stopped,
    Running(Postmaster),
}

/// Where the cluster asked for in `folder` stands. That is the folder itself, unless this process
/// is root and the database's user cannot get there: then it is a folder of its own name below
/// `/var/lib/tako-vm/dev`.
pub fn place(folder: &Path) -> Result<PathBuf> {
    Ok(Place::of(folder)?.folder)
}

impl Cluster {
    /// Makes and starts the cluster of a folder, if that has not been done; it outlives this
    /// process. Several callers at once get the same cluster.
    ///
    /// # Errors
    /// Says what is missing: the programs, access to the folder, or what the server logged.
    pub fn up(folder: &Path) -> Result<Self> {
        Self::bring_up(folder, Durability::Disk)
    }

    fn bring_up(folder: &Path, durability: Durability) -> Result<Self> {
        let place = Place::of(folder)?;
        // The common case asks nobody: it is running.
        if let Some(cluster) = place.running()? {
            return Ok(cluster);
        }
        place.prepare()?;
        let _lock = place.lock()?;
        if let Some(cluster) = place.running()? {
            return Ok(cluster);
        }
        let is_new = !place.data().exists();
        let binaries = Binaries::find(place.major())?;
        if is_new {
            place.initialize(&binaries, durability)?;
        }
        let postmaster = place.start(&binaries, durability)?;
        let password = place.password()?;
        Ok(Self { folder: place.folder, postmaster, password, is_new, guard: None })
    }

    /// Like [`Cluster::up`], but the cluster ends with the returned value, and also when this
    /// process is killed. For tests, in a folder of their own: nothing waits for the disk
    /// (`fsync` is off), so what was committed survives any process but not the machine.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut cluster = Self::bring_up(folder, Durability::Cache)?;
        let process = guard(cluster.postmaster.pid)?;
        let elsewhere = (cluster.folder != std::path::absolute(folder)?).then(|| cluster.folder.clone());
        cluster.guard = Some(Guard { process, elsewhere });
        Ok(cluster)
    }

    /// What a folder holds now.
    pub fn state(folder: &Path) -> Result<State> {
        let place = Place::of(folder)?;
        place.check_access()?;
        Ok(match (Postmaster::of(&place.data()), place.cluster().exists()) {
            (Some(postmaster), _) => State::Running(postmaster),
            (None, true) => State::Stopped,
            (None, false) => State::Absent,
        })
    }

    /// Stops the cluster of a folder if it runs, and deletes its data if asked to. Answers with
    /// what there was before.
    pub fn down(folder: &Path, destroy: bool) -> Result<State> {
        let before = Self::state(folder)?;
        if before == State::Absent {
            return Ok(before);
        }
        let place = Place::of(folder)?;
        let _lock = place.lock()?;
        place.stop(if destroy { End::Now } else { End::Clean })?;
        if destroy {
            // The password goes with the data it belongs to.
            fs::remove_dir_all(&place.folder).with_context(|| format!("cannot delete {}", place.folder.display()))?;
        }
        Ok(before)
    }

    /// Where the cluster stands; not always the folder that was asked for (see [`place`]).
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether this call made it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub fn postmaster(&self) -> Postmaster {
        self.postmaster
    }

    /// URL of one of its databases, with the password.
    pub fn url(&self, database: &str) -> DatabaseUrl {
        let Self { password, postmaster: Postmaster { port, .. }, .. } = self;
        DatabaseUrl::new(format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/{database}"))
    }

    /// The version of the server programs that fit it.
    pub fn binaries(&self) -> Result<Binaries> {
        Binaries::find(Place::of(&self.folder)?.major())
    }

    /// Creates a database: empty, or a copy of `template`, to which nobody may be connected.
    /// Durable when it returns.
    pub fn create_database(&self, name: &str, template: Option<&str>) -> Result<DatabaseUrl> {
        let mut command = Command::new(self.binaries()?.folder.join("createdb"));
        command.args(["--host=127.0.0.1", "--no-password"]);
        command.arg(format!("--username={ROLE}")).arg(format!("--port={}", self.postmaster.port));
        command.arg(format!("--template={}", template.unwrap_or("template0"))).arg("--").arg(name);
        clean_environment(&mut command).env("PGPASSWORD", &self.password);
        finish(&mut command, "createdb")?;
        Ok(self.url(name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(Guard { mut process, elsewhere }) = self.guard.take() else {
            return;
        };
        let stopped = Place::of(&self.folder).and_then(|place| place.stop(End::Now));
        if stopped.is_ok() {
            // Its number may soon be another process's: the guard must not use it.
            let _ = process.kill();
            if let Some(folder) = elsewhere {
                let _ = fs::remove_dir_all(folder);
            }
        }
        drop(process.stdin.take());
        let _ = process.wait();
    }
}

impl Place {
    fn running(&self) -> Result<Option<Cluster>> {
        match Postmaster::of(&self.data()).filter(|postmaster| postmaster.is_ready) {
            Some(postmaster) => Ok(Some(Cluster {
                folder: self.folder.clone(),
                postmaster,
                password: self.password()?,
                is_new: false,
                guard: None,
            })),
            None => Ok(None),
        }
    }
}

/// A process that waits for this one to end, in whatever way, and then ends the server: at the
/// end of its standard input, which nobody else holds.
fn guard(pid: u32) -> Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read -r _; kill -QUIT \"$1\" 2>/dev/null; :", "guard", &pid.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Out of the terminal's Ctrl-C, which would end it before its work.
    command.process_group(0).spawn().context("cannot run /bin/sh")
}
