//! Several servers as processes of their own on one database, and what must hold of them.

mod builds;
mod chaos;
mod drain;
mod frozen;
mod proxy;
mod rolling;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tako_vm::store::{ObjectOptions, ObjectPlace, Objects};

use self::proxy::Proxy;
use crate::db::{self, Db};

/// Nodes of one installation, which end with the value.
pub struct Fleet {
    pub db: Db,
    pub nodes: Vec<Node>,
    /// Which all nodes share, for large blobs.
    blobs: tempfile::TempDir,
}

/// One server: a process that may be killed, frozen, cut off, and started again.
pub struct Node {
    folder: tempfile::TempDir,
    proxy: Proxy,
    process: Option<Child>,
    role: &'static str,
}

/// Nodes are taken for dead after this much silence.
pub const DEAD_AFTER: Duration = Duration::from_secs(2);

const SETTINGS: &str = "engine: native
max_workers: 3
server: {http_workers: 1, shutdown_grace: 5}
pool: {min_idle: 1, max_idle: 2}
queue: {poll_interval: 0.2}
leases: {heartbeat: 0.5, dead_after: 2}
retry: {max_attempts: 50, base_delay: 0.1, max_delay: 1}
";

impl Fleet {
    /// A node for each role.
    pub async fn start(roles: &[&'static str]) -> Self {
        Self::start_with(roles, "").await
    }

    /// With more lines of configuration.
    pub async fn start_with(roles: &[&'static str], more: &str) -> Self {
        let db = db::fresh().await;
        let blobs = tempfile::Builder::new().prefix("tako-blobs-").tempdir().unwrap();
        let mut fleet = Self { db, nodes: Vec::new(), blobs };
        let folder = fleet.blobs.path().display().to_string();
        let settings = format!("{SETTINGS}blobs: {{store: local, inline: 1k, folder: {folder}}}\n{more}");
        for role in roles {
            let mut node = Node::new(&fleet.db.options.url, &settings);
            node.role = role;
            fleet.nodes.push(node);
        }
        for node in &mut fleet.nodes {
            node.start();
        }
        for node in &fleet.nodes {
            node.url().await;
        }
        fleet
    }

    /// Where large blobs are.
    pub fn objects(&self) -> Arc<Objects> {
        let (into, folder) = (ObjectPlace::Folder, Some(self.blobs.path().to_owned()));
        Arc::new(Objects::open(&ObjectOptions { into, folder, ..ObjectOptions::default() }).unwrap())
    }
}

impl Node {
    /// One on a database whose server listens in a folder, with these settings beside its own.
    pub fn new(url: &str, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tako-node-").tempdir().unwrap();
        let (server, socket) = url.split_once("?host=").unwrap();
        let proxy = Proxy::before(&PathBuf::from(socket));
        let config = format!(
            "database_url: \"{server}?host={}\"\ndata_dir: {}\n{settings}",
            proxy.folder().display(),
            folder.path().join("data").display(),
        );
        std::fs::write(folder.path().join("config.yaml"), config).unwrap();
        Self { folder, proxy, process: None, role: "all" }
    }

    /// A file of its own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with more in its environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.process.is_none());
        // A reader must not take the address of the process before.
        let _ = std::fs::remove_file(self.path("address"));
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TAKO_VM_") || name == "DATABASE_URL" {
                command.env_remove(name);
            }
        }
        let process = command
            .envs(environment.iter().copied())
            .arg("server")
            .arg("--config")
            .arg(self.path("config.yaml"))
            .args(["--role", self.role, "--port", "0", "--address-file"])
            .arg(self.path("address"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Where it answers, once it does. Ends the test when it does not within a minute.
    pub async fn url(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(url) = self.address() {
                return url;
            }
            assert!(Instant::now() < deadline, "a node does not start:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where it takes jobs, if it does and has said so.
    pub fn known_url(&self) -> Option<String> {
        if self.role == "worker" { None } else { self.address() }
    }

    fn address(&self) -> Option<String> {
        let address = std::fs::read_to_string(self.path("address")).ok()?;
        (!address.is_empty()).then(|| format!("http://{address}"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    pub fn signal(&self, signal: libc::c_int) {
        let process = self.process.as_ref().unwrap();
        // SAFETY: a child that was not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(process.id().cast_signed(), signal) }, 0);
    }

    /// How it ended, once it has, if it does within the limit.
    pub async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.as_mut()?.try_wait().unwrap() {
                self.process = None;
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn cut_off(&self) {
        self.proxy.cut();
    }

    pub fn mend(&self) {
        self.proxy.mend();
    }

    /// SIGTERM, and its end. Answers with its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        let mut process = self.process.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match process.try_wait().unwrap() {
                Some(status) => return status.code(),
                None if Instant::now() > deadline => {
                    process.kill().unwrap();
                    panic!("a node does not stop:\n{}", self.log());
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
