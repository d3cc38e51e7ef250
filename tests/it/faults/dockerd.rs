//! A Docker daemon of a test's own, to be stopped, killed and started again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{has, is_root};
use crate::docker::images::docker;

/// Ends with the value, or with this process: it and all that it starts live below the first process of a
/// namespace of process ids, and the kernel ends those with that.
///
/// Networks and mounts are its own as well: in the host's network namespace a daemon without a bridge removes
/// that of the host's daemon.
pub struct Dockerd {
    folder: TempDir,
    host: Child,
    orders: Option<ChildStdin>,
    done: BufReader<ChildStdout>,
}

/// Takes one order a line, and says when it is carried out.
const HOST: &str = r#"
trap '' INT HUP TERM
mount --make-rprivate /
while read -r order; do
    case $order in
    start)
        rm -f "$0/docker.pid"
        dockerd --config-file "$0/daemon.json" --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/docker.pid" -H "unix://$0/docker.sock" \
            --storage-driver "$1" --cgroup-parent "$2" --bridge=none --iptables=false --ip-forward=false \
            --ip-masq=false </dev/null >>"$0/log" 2>&1 &
        pid=$!
        ;;
    KILL | TERM)
        kill -s "$order" "$pid"
        wait "$pid" 2>/dev/null
        ;;
    esac
    echo done
done
"#;

impl Dockerd {
    /// With the base image that executor images stand on. Why not, where it cannot be.
    pub async fn start() -> Result<Self, String> {
        if !is_root() {
            return Err("only root can run a daemon".to_owned());
        }
        if let Some(missing) = ["dockerd", "docker", "unshare"].into_iter().find(|program| !has(program)) {
            return Err(format!("{missing} is not installed"));
        }
        let base = base().await?;
        let folder = tempfile::Builder::new().prefix("tako-dockerd-").tempdir().unwrap();
        // What stores images on the host stores them here.
        let driver = docker(&["info", "--format", "{{.Driver}}"])?;
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        // Not the host's settings.
        std::fs::write(folder.path().join("daemon.json"), "{}").unwrap();
        let mut host = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", HOST])
            .arg(folder.path())
            .args([&driver, &format!("/{name}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = host.stdin.take();
        let done = BufReader::new(host.stdout.take().unwrap());
        let mut daemon = Self { folder, host, orders, done };
        daemon.run();
        daemon.load(&base);
        Ok(daemon)
    }

    /// Runs it, and returns once it answers.
    pub fn run(&mut self) {
        self.order("start");
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.docker(&["version"]).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it by a signal, `KILL` or `TERM`, and returns once it is gone.
    pub fn end(&mut self, signal: &str) {
        self.order(signal);
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let mut line = String::new();
        self.done.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{}", self.log());
    }

    fn load(&self, image: &str) {
        let file = self.folder.path().join("image.tar");
        docker(&["save", "-o", file.to_str().unwrap(), image]).unwrap();
        self.docker(&["load", "-i", file.to_str().unwrap()]).unwrap();
        std::fs::remove_file(file).unwrap();
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// What the client says to it.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        docker(&[&["--host", &self.url()], arguments].concat())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // The end of its orders is the end of the first process, and so of all.
        drop(self.orders.take());
        let _ = self.host.wait();
        let name = self.folder.path().file_name().unwrap().to_owned();
        let controllers = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for place in controllers.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_groups(&place.join(&name));
        }
    }
}

/// Removes a control group and those below it, from which all processes have gone.
fn remove_groups(group: &std::path::Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

/// The name of a base image that the host's daemon has, made if it has none.
async fn base() -> Result<String, String> {
    static BASE: OnceCell<Result<String, String>> = OnceCell::const_new();
    let find = || {
        let names = ["python:3.11-slim", "tako-vm/python:3.11"];
        names.into_iter().find(|name| docker(&["image", "inspect", name]).is_ok()).map(str::to_owned)
    };
    let made = BASE.get_or_init(async || {
        docker(&["version"])?;
        if find().is_none() {
            let engine = crate::docker::engine().await;
            use tako_vm::engine::Engine as _;
            engine.resolve_image("tako-vm/executor:3.11").await.map_err(|error| error.to_string())?;
        }
        find().ok_or_else(|| "the host's daemon has no base image".to_owned())
    });
    made.await.clone()
}
