//! The server in the background, started by `dev up --with-server`.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::postmaster::wait_until;
use crate::cli::status;
use crate::config::Config;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A server that `up` started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Server {
    pub pid: u32,
    /// In clock ticks since boot, so that a later process of the same number is another one.
    started: u64,
    pub url: String,
}

/// The server that runs now, if `up` started it.
pub(crate) fn running(config: &Config) -> Option<Server> {
    let text = fs::read(file(config)).ok()?;
    let server: Server = serde_json::from_slice(&text).ok()?;
    (start_of(server.pid) == Some(server.started)).then_some(server)
}

/// Starts the server and waits until it answers; answers with its URL.
pub(super) fn up(config: &Config, file_named: Option<&Path>, port: Option<u16>) -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(file) = file_named {
        command.arg("--config").arg(file);
    }
    command.arg("server");
    up_with(command, config, port)
}

fn up_with(mut command: Command, config: &Config, port: Option<u16>) -> Result<String> {
    if let Some(server) = running(config) {
        return Ok(server.url);
    }
    let host = config.server.host.0;
    let port = match port.unwrap_or(config.server.port) {
        0 => TcpListener::bind((host, 0))?.local_addr()?.port(),
        port => port,
    };
    if let Err(error) = TcpListener::bind((host, port)) {
        bail!("cannot listen on {host}:{port}: {error}; choose another with --port");
    }
    fs::create_dir_all(&config.data_dir)?;
    let log_path = config.data_dir.join("server.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path)?;
    let begin = log.metadata()?.len();
    command.args(["--port", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn().context("cannot start the server")?;

    let url = url_of(host, port);
    let mut ended = None;
    let mut answers = false;
    wait_until(START_TIMEOUT, || {
        ended = child.try_wait().ok().flatten();
        answers = ended.is_none() && status::health(&url, Duration::from_secs(1)).is_ok();
        answers || ended.is_some()
    });
    let started = start_of(child.id());
    let (true, Some(started)) = (answers, started) else {
        let _ = child.kill();
        let _ = child.wait();
        let text = fs::read(&log_path).unwrap_or_default();
        let tail = String::from_utf8_lossy(text.get(begin as usize..).unwrap_or_default());
        bail!("the server did not start; {} says:\n{}", log_path.display(), tail.trim());
    };
    let server = Server { pid: child.id(), started, url };
    fs::write(file(config), serde_json::to_vec(&server)?)?;
    Ok(server.url)
}

/// Stops the server that `up` started and waits until it is gone; false if none runs.
pub(super) fn down(config: &Config) -> Result<bool> {
    let Some(server) = running(config) else {
        return Ok(false);
    };
    let pid = i32::try_from(server.pid).context("process number")?;
    let grace = config.server.shutdown_grace + Duration::from_secs(10);
    for (signal, patience) in [(libc::SIGTERM, grace), (libc::SIGKILL, Duration::from_secs(10))] {
        // SAFETY: kill has no memory preconditions; the process was just seen to be the server.
        unsafe { libc::kill(pid, signal) };
        if wait_until(patience, || start_of(server.pid) != Some(server.started)) {
            let _ = fs::remove_file(file(config));
            return Ok(true);
        }
    }
    bail!("the server (process {pid}) does not stop")
}

fn file(config: &Config) -> PathBuf {
    config.data_dir.join("server.json")
}

/// Where a server that listens on an address is reached; one that listens everywhere is reached
/// at loopback.
pub(super) fn url_of(host: IpAddr, port: u16) -> String {
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    format!("http://{}", SocketAddr::new(host, port))
}

/// When a process started, in clock ticks since boot; `None` once it has ended, reaped or not.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; state is the first field after it, and the
    // start time the twentieth (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers `/health` on the port that it is given behind `--port`.
    const STAND_IN: &str = r#"
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "healthy"}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Health).serve_forever()
"#;

    fn config(folder: &Path) -> Config {
        Config { data_dir: folder.to_path_buf(), ..Config::default() }
    }

    #[test]
    fn a_server_is_started_once_and_stopped_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let stand_in = || {
            let mut command = Command::new("python3");
            command.args(["-c", STAND_IN]);
            command
        };
        assert_eq!(running(&config), None);
        let url = up_with(stand_in(), &config, Some(0)).unwrap();
        let first = running(&config).unwrap();
        assert_eq!(first.url, url);
        assert_eq!(up_with(stand_in(), &config, Some(0)).unwrap(), url);
        assert_eq!(running(&config).unwrap(), first);
        assert!(down(&config).unwrap());
        assert!(!down(&config).unwrap());
        assert_eq!(running(&config), None);
    }

    #[test]
    fn a_server_that_does_not_start_is_answered_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no database >&2; exit 3"]);
        let error = up_with(command, &config(folder.path()), Some(0)).unwrap_err();
        assert!(error.to_string().ends_with("no database"), "{error}");
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let pid = std::process::id();
        let server = Server { pid, started: start_of(pid).unwrap() + 1, url: String::new() };
        fs::write(file(&config), serde_json::to_vec(&server).unwrap()).unwrap();
        assert_eq!(running(&config), None);
        assert!(!down(&config).unwrap());
    }

    #[test]
    fn this_process_has_a_start_and_an_ended_one_has_none() {
        assert!(start_of(std::process::id()).is_some());
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(wait_until(Duration::from_secs(10), || start_of(pid).is_none()));
        child.wait().unwrap();
    }
}
