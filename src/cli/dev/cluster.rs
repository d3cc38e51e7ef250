//! A private PostgreSQL cluster, made from the installed server programs.
//!
//! ```text
//! <folder>/            ours: lock, port, password (0600), log
//! <folder>/cluster/    the database user's alone: data/, and the unix socket
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::binaries::Binaries;
use super::owner::User;
use super::postmaster::{self, End, Postmaster, wait_until};
use crate::config::DatabaseUrl;

/// The role that owns everything in the cluster.
const ROLE: &str = "tako";
/// The database that exists from the start.
pub const DATABASE: &str = "tako_vm";

/// A `sun_path` holds 107 bytes beside its end (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_LOG_BYTES: u64 = 8 << 20;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    postmaster: Postmaster,
    password: String,
    is_new: bool,
    /// Ends the cluster when this process ends, however that happens.
    guard: Option<Child>,
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Disk,
    /// The kernel's cache.
    Cache,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Absent,
    Stopped,
    Running(Postmaster),
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
        Ok(Self {
            folder: place.folder,
            postmaster,
            password,
            is_new,
            guard: None,
        })
    }

    /// Like [`Cluster::up`], but the cluster ends with the returned value, and also when this
    /// process is killed. For tests, in a folder of their own: nothing waits for the disk
    /// (`fsync` is off), so what was committed survives any process but not the machine.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut cluster = Self::bring_up(folder, Durability::Cache)?;
        cluster.guard = Some(guard(cluster.postmaster.pid)?);
        Ok(cluster)
    }

    /// What a folder holds now.
    pub fn state(folder: &Path) -> Result<State> {
        let place = Place::of(folder)?;
        place.check_access()?;
        Ok(
            match (Postmaster::of(&place.data()), place.cluster().exists()) {
                (Some(postmaster), _) => State::Running(postmaster),
                (None, true) => State::Stopped,
                (None, false) => State::Absent,
            },
        )
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
            fs::remove_dir_all(&place.folder)
                .with_context(|| format!("cannot delete {}", place.folder.display()))?;
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
        let Self {
            password,
            postmaster: Postmaster { port, .. },
            ..
        } = self;
        DatabaseUrl::new(format!(
            "postgres://{ROLE}:{password}@127.0.0.1:{port}/{database}"
        ))
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
        command
            .arg(format!("--username={ROLE}"))
            .arg(format!("--port={}", self.postmaster.port));
        command
            .arg(format!("--template={}", template.unwrap_or("template0")))
            .arg("--")
            .arg(name);
        clean_environment(&mut command).env("PGPASSWORD", &self.password);
        finish(&mut command, "createdb")?;
        Ok(self.url(name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else {
            return;
        };
        let stopped = Place::of(&self.folder).and_then(|place| place.stop(End::Now));
        if stopped.is_ok() {
            // Its number may soon be another process's: the guard must not use it.
            let _ = guard.kill();
        }
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
}

impl Durability {
    fn setting(self) -> &'static str {
        match self {
            Self::Disk => "fsync=on",
            Self::Cache => "fsync=off",
        }
    }
}

/// A folder, and who the database in it runs as.
struct Place {
    folder: PathBuf,
    user: Option<User>,
}

/// Where the cluster asked for in `folder` stands. That is the folder itself, unless this process
/// is root and the database's user cannot get there: then it is a folder of its own name below
/// `/var/lib/tako-vm/dev`.
pub fn place(folder: &Path) -> Result<PathBuf> {
    Ok(Place::of(folder)?.folder)
}

impl Place {
    fn of(folder: &Path) -> Result<Self> {
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

    fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    fn data(&self) -> PathBuf {
        self.cluster().join("data")
    }

    /// The version that made the data.
    fn major(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

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

    /// Makes the folders. The upper ones can be entered by everybody, so that the database's
    /// user can; what they hold is closed.
    fn prepare(&self) -> Result<()> {
        let make =
            |path: &Path, mode| match DirBuilder::new().recursive(true).mode(mode).create(path) {
                Ok(()) => Ok(()),
                Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
            };
        let missing: Vec<_> = self
            .folder
            .ancestors()
            .take_while(|folder| !folder.exists())
            .collect();
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

    fn check_access(&self) -> Result<()> {
        let cluster = self.cluster();
        match fs::read_dir(&cluster) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| {
                    format!(
                        "{} belongs to another user; be that user, or root",
                        cluster.display()
                    )
                })
            }
            _ => Ok(()),
        }
    }

    fn give(&self, path: &Path) -> Result<()> {
        let Some(User { uid, gid }) = self.user else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to user {uid}", path.display()))
    }

    /// Held while the cluster is made, started or stopped.
    fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let open = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let file = open.with_context(|| format!("cannot open {}", path.display()))?;
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    fn password(&self) -> Result<String> {
        let path = self.folder.join("password");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Makes the data folder with its database. It gets its name only when it is whole.
    fn initialize(&self, binaries: &Binaries, durability: Durability) -> Result<()> {
        let unfinished = self.cluster().join("data.new");
        let password_file = self.cluster().join("password.new");
        remove_if_there(&password_file)?;
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let password = hex::encode(rand::random::<[u8; 16]>());
        write_private(&password_file, &password)?;
        self.give(&password_file)?;

        let mut initdb = self.command(&binaries.folder.join("initdb"));
        initdb
            .arg("-D")
            .arg(&unfinished)
            .arg("--pwfile")
            .arg(&password_file);
        initdb.args([
            "-U",
            ROLE,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        initdb.args(["--data-checksums", "--no-instructions"]);
        if durability == Durability::Cache {
            initdb.arg("--no-sync");
        }
        let made = finish(&mut initdb, "initdb");
        remove_if_there(&password_file)?;
        made?;

        let mut conf = OpenOptions::new()
            .append(true)
            .open(unfinished.join("postgresql.conf"))?;
        conf.write_all(b"\ninclude_if_exists = 'tako_vm.conf'\n")?;
        conf.sync_all()?;
        self.create_first_database(binaries, &unfinished, durability)?;
        write_private(&self.folder.join("password"), &password)?;
        fs::rename(&unfinished, self.data())?;
        Ok(())
    }

    /// In the server's single-user mode, so that a folder that got its name has its database.
    fn create_first_database(
        &self,
        binaries: &Binaries,
        data: &Path,
        durability: Durability,
    ) -> Result<()> {
        let mut command = self.command(&binaries.folder.join("postgres"));
        command
            .args(["--single", "-D"])
            .arg(data)
            .args(["-c", "exit_on_error=true"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run postgres")?;
        if let Some(mut stdin) = child.stdin.take() {
            writeln!(stdin, "CREATE DATABASE {DATABASE}")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "cannot create the database: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    fn start(&self, binaries: &Binaries, durability: Durability) -> Result<Postmaster> {
        let mut last = None;
        // Somebody may take the free port before the server does.
        for _ in 0..5 {
            postmaster::clear_stale(&self.data())?;
            let port = self.choose_port()?;
            self.write_settings(port, durability)?;
            match self.start_on(binaries, port) {
                Ok(postmaster) => {
                    fs::write(self.folder.join("port"), port.to_string())?;
                    return Ok(postmaster);
                }
                Err(error) if is_free(port) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no port to listen on")))
    }

    /// The port of last time if it is free, so that URLs stay as they are.
    fn choose_port(&self) -> Result<u16> {
        let remembered = fs::read_to_string(self.folder.join("port")).ok();
        let remembered = remembered.and_then(|text| text.trim().parse().ok());
        match remembered.filter(|port| is_free(*port)) {
            Some(port) => Ok(port),
            None => Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port()),
        }
    }

    fn write_settings(&self, port: u16, durability: Durability) -> Result<()> {
        let cluster = self.cluster();
        let socket = cluster.join(format!(".s.PGSQL.{port}"));
        let fits = socket.as_os_str().len() <= LONGEST_SOCKET_PATH;
        let sockets = match cluster.to_str() {
            Some(path) if fits && !path.contains([',', '"', '\n']) => path.replace('\'', "''"),
            _ => String::new(),
        };
        let fsync = durability.setting();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = '{sockets}'\n\
             unix_socket_permissions = 0700\n\
             max_connections = 300\n\
             {fsync}\n\
             timezone = 'UTC'\n\
             log_timezone = 'UTC'\n"
        );
        let path = self.data().join("tako_vm.conf");
        fs::write(&path, settings).with_context(|| format!("cannot write {}", path.display()))?;
        self.give(&path)
    }

    fn start_on(&self, binaries: &Binaries, port: u16) -> Result<Postmaster> {
        let path = self.folder.join("log");
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > LONGEST_LOG_BYTES) {
            fs::remove_file(&path)?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let begin = log.metadata()?.len();
        let mut command = self.command(&binaries.folder.join("postgres"));
        command.arg("-D").arg(self.data());
        command.stdout(log.try_clone()?).stderr(log);
        // A group of its own keeps it out of the terminal's Ctrl-C.
        command.process_group(0);
        let mut child = command.spawn().context("cannot run postgres")?;

        let mut ended = None;
        let mut ready = None;
        wait_until(START_TIMEOUT, || {
            ended = child.try_wait().ok().flatten();
            ready = Postmaster::of(&self.data())
                .filter(|postmaster| postmaster.is_ready && postmaster.pid == child.id());
            ended.is_some() || ready.is_some()
        });
        if let (Some(postmaster), None) = (ready, ended) {
            return Ok(postmaster);
        }
        // One that neither ended nor became ready would hold the data.
        let _ = child.kill();
        let _ = child.wait();
        let text = fs::read(&path).unwrap_or_default();
        let tail = String::from_utf8_lossy(text.get(begin as usize..).unwrap_or_default());
        bail!(
            "PostgreSQL did not start on port {port}; {} says:\n{}",
            path.display(),
            tail.trim()
        )
    }

    fn stop(&self, end: End) -> Result<()> {
        match Postmaster::of(&self.data()) {
            Some(postmaster) => postmaster.stop(&self.data(), end),
            None => Ok(()),
        }
    }

    /// A server program that runs as the database's user, in the cluster's folder, without what
    /// the caller's environment would tell it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        clean_environment(&mut command)
            .current_dir(self.cluster())
            .stdin(Stdio::null());
        if let Some(user) = self.user {
            user.run_as(&mut command);
        }
        command
    }
}

fn clean_environment(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
}

fn finish(command: &mut Command, name: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    bail!("{name} failed ({}): {}", output.status, text.trim())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    remove_if_there(path)?;
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn nearest_existing(folder: &Path) -> &Path {
    folder
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"))
}

/// A process that waits for this one to end, in whatever way, and then ends the server: at the
/// end of its standard input, which nobody else holds.
fn guard(pid: u32) -> Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        "read -r _; kill -QUIT \"$1\" 2>/dev/null; :",
        "guard",
        &pid.to_string(),
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Out of the terminal's Ctrl-C, which would end it before its work.
    command
        .process_group(0)
        .spawn()
        .context("cannot run /bin/sh")
}
