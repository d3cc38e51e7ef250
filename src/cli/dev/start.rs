//! How a cluster's server is started and stopped.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::binaries::Binaries;
use super::place::Place;
use super::postmaster::{self, End, Postmaster, wait_until};

/// A `sun_path` holds 107 bytes beside its end (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_LOG_BYTES: u64 = 8 << 20;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    Disk,
    /// The kernel's cache.
    Cache,
}

impl Durability {
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::Disk => "fsync=on",
            Self::Cache => "fsync=off",
        }
    }
}

impl Place {
    pub(super) fn start(&self, binaries: &Binaries, durability: Durability) -> Result<Postmaster> {
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
            None => Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()),
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
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
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
            ready =
                Postmaster::of(&self.data()).filter(|postmaster| postmaster.is_ready && postmaster.pid == child.id());
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
        bail!("PostgreSQL did not start on port {port}; {} says:\n{}", path.display(), tail.trim())
    }

    pub(super) fn stop(&self, end: End) -> Result<()> {
        match Postmaster::of(&self.data()) {
            Some(postmaster) => postmaster.stop(&self.data(), end),
            None => Ok(()),
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
