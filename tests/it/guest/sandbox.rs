//! A throw-away sandbox made with `unshare(1)`: enough of one for the guest to be what it is
//! in production, without an engine. Works as root and as an ordinary user.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tako_guest::protocol::{ArtifactLimits, Boot, Ready, Rlimits, VERSION};
use tako_guest::site::SOURCE;
use tako_vm::engine::guest_binary::GUEST;
use tako_vm::engine::session::{GRACE, Reader, Session, Writer};
use tako_vm::engine::{Error, Job, Run};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SCRIPT: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
cp "$2/guest" guest
mkdir -p tako
cp -R "$2/python" tako/python
mkdir usr proc dev tmp code input output
[ -z "$MAIN" ] || cp "$MAIN" code/main.py
mount --rbind -o ro /usr usr
for name in bin sbin lib lib64; do
    if [ -L "/$name" ]; then cp -P "/$name" "$name"
    elif [ -d "/$name" ]; then mkdir "$name"; mount --rbind "/$name" "$name"
    fi
done
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777,size=64m tmpfs tmp
mount -t tmpfs -o mode=1777,size=64m tmpfs output
mkdir old
pivot_root . old
cd /
umount -l old
shift 2
exec "$@"
"#;

/// How the guest finds itself inside.
#[derive(Clone, Copy)]
pub enum Place {
    /// PID 1; root where the test is, else the user itself.
    Init,
    /// A child of a shell, as in no engine.
    NotInit,
}

/// The processes end when this is dropped.
pub struct Sandbox {
    child: Child,
    _directory: TempDir,
}

impl Sandbox {
    /// The guest's process id as the host sees it: the only child of `unshare`.
    pub fn guest_pid(&self) -> libc::pid_t {
        only_child(self.child.id().unwrap().cast_signed())
    }

    /// The interpreter's process id as the host sees it, while it waits.
    pub fn interpreter_pid(&self) -> libc::pid_t {
        only_child(self.guest_pid())
    }
}

fn only_child(pid: libc::pid_t) -> libc::pid_t {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Starts a guest that waits for its first frame.
pub fn start(place: Place) -> (Sandbox, Reader, Writer) {
    let (directory, mut command) = inside();
    match place {
        Place::Init => command.args(["/guest", "init"]),
        Place::NotInit => command.args(["sh", "-c", "/guest init; exit $?"]),
    };
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let reader = Box::new(child.stdout.take().unwrap());
    let writer = Box::new(child.stdin.take().unwrap());
    (Sandbox { child, _directory: directory }, reader, writer)
}

/// Python is another process than the first one, which signals treat otherwise.
const PLAIN: &str = "import subprocess, sys\n\
    end = subprocess.run(['python3', '/code/main.py']).returncode\n\
    sys.exit(end if end >= 0 else 128 - end)";

/// What `python3 /code/main.py` says, in the same place without a guest. A signal that ends it
/// shows as the exit code 128 and the signal's number.
pub async fn plain_python(code: &[u8]) -> std::process::Output {
    let (directory, mut command) = inside();
    let file = directory.path().join("main.py");
    std::fs::write(&file, code).unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    command
        .args(["sh", "-c", "cd /output; exec python3 -c \"$1\"", "sh", PLAIN])
        .env_clear()
        .env("MAIN", &file)
        .env("PATH", "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin")
        .env("HOME", "/tmp")
        .env("LANG", "C.UTF-8")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONHASHSEED", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap()
}

/// A command to which the program inside is still to be added, and the folder it needs.
fn inside() -> (TempDir, Command) {
    let directory = tempfile::tempdir().unwrap();
    let parts = directory.path().join("parts");
    std::fs::create_dir_all(parts.join("python")).unwrap();
    std::fs::write(parts.join("python/sitecustomize.py"), SOURCE).unwrap();
    let guest = parts.join("guest");
    std::fs::write(&guest, GUEST).unwrap();
    std::fs::set_permissions(&guest, PermissionsExt::from_mode(0o755)).unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();

    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["sh", "-c", SCRIPT, "sh"]).arg(&root).arg(&parts);
    if !is_root() {
        command.args(["unshare", "--user", "--map-user=1000", "--map-group=1000"]);
    }
    command.stderr(Stdio::inherit()).kill_on_drop(true);
    (directory, command)
}

pub fn boot() -> Boot {
    Boot {
        protocol: VERSION,
        python: None,
        preload: Vec::new(),
        environment: BTreeMap::new(),
        uid: 1000,
        gid: 1000,
        devices: Vec::new(),
        startup_timeout_ms: 20_000,
        rlimits: Rlimits { open_files: 256, file_bytes: 32 << 20, processes: 0 },
    }
}

pub fn job(code: &str) -> Job {
    Job {
        code: Bytes::copy_from_slice(code.as_bytes()),
        input: Bytes::from_static(b"{}"),
        files: Vec::new(),
        secrets: Vec::new(),
        egress: None,
        execution_timeout: Duration::from_secs(20),
        stdout_limit_bytes: 64 * 1024,
        stderr_limit_bytes: 64 * 1024,
        artifacts: ArtifactLimits { max_count: 20, max_file_bytes: 1 << 20, max_total_bytes: 4 << 20 },
    }
}

/// Starts a sandbox whose interpreter is ready.
pub async fn ready(place: Place, boot: &Boot) -> Result<(Sandbox, Session, Ready), Error> {
    let (sandbox, reader, writer) = start(place);
    let (session, ready) = Session::boot(reader, writer, boot, Duration::from_secs(30)).await?;
    Ok((sandbox, session, ready))
}

/// Runs a job in a sandbox of its own.
pub async fn run_job(place: Place, job: Job) -> Run {
    let (_sandbox, session, _) = ready(place, &boot()).await.unwrap();
    let (output, _) = mpsc::channel(1);
    session.run(job, output, CancellationToken::new(), GRACE).await.unwrap()
}

/// Runs code as PID 1's job with everything at its default.
pub async fn run(code: &str) -> Run {
    run_job(Place::Init, job(code)).await
}

pub fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
