//! The Docker engine against a real daemon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tako_guest::protocol::{ArtifactLimits, End};
use tako_vm::engine::docker::breaker::{self, StateName};
use tako_vm::engine::docker::{DockerConfig, DockerEngine, RuntimeChoice, SecurityMode};
use tako_vm::engine::{Engine, Error, Image, Job, Run, SandboxLabels, SandboxLimits, SandboxSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// An engine and an installation of a test's own.
struct Bench {
    engine: DockerEngine,
    spec: SandboxSpec,
}

impl Bench {
    async fn new() -> Self {
        Self::with(DockerConfig::default()).await
    }

    async fn with(config: DockerConfig) -> Self {
        let engine = DockerEngine::connect(config).await.expect("these tests need a Docker Engine");
        static IMAGE: OnceCell<Image> = OnceCell::const_new();
        let image = IMAGE
            .get_or_init(async || engine.resolve_image("tako-vm/executor:3.11").await.unwrap())
            .await
            .clone();
        Self { engine, spec: spec(image) }
    }

    async fn run(&self, job: Job) -> Result<Run, Error> {
        let sandbox = self.engine.start(&self.spec).await?;
        let (output, _) = mpsc::channel(64);
        sandbox.run(job, output, CancellationToken::new()).await
    }

    async fn left(&self) -> Vec<(String, SandboxLabels)> {
        self.engine.list(&self.spec.labels.installation).await.unwrap()
    }

    /// Every test ends with it.
    async fn end(self) {
        self.engine.shutdown().await;
        assert_eq!(self.left().await, vec![], "sandboxes were left behind");
    }
}

fn spec(image: Image) -> SandboxSpec {
    SandboxSpec {
        image,
        limits: SandboxLimits {
            memory_bytes: 256 * MIB,
            cpu_millis: 1000,
            pids: 64,
            open_files: 256,
            file_bytes: 16 * MIB,
            tmp_bytes: 32 * MIB,
            output_bytes: 32 * MIB,
            inodes: 1000,
        },
        environment: BTreeMap::new(),
        preload: Vec::new(),
        startup_timeout: Duration::from_secs(60),
        labels: SandboxLabels {
            installation: format!("test-{}", Uuid::new_v4().simple()),
            node_id: "node-a".to_owned(),
            execution_id: None,
            lease: None,
        },
    }
}

fn job(code: &str) -> Job {
    Job {
        code: Bytes::copy_from_slice(code.as_bytes()),
        input: Bytes::from_static(b"{\"n\": 20}"),
        files: Vec::new(),
        execution_timeout: Duration::from_secs(30),
        stdout_limit_bytes: 65536,
        stderr_limit_bytes: 65536,
        artifacts: ArtifactLimits {
            max_count: 10,
            max_file_bytes: MIB,
            max_total_bytes: 4 * MIB,
        },
    }
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_job_reads_its_input_and_leaves_a_result() {
    let bench = Bench::new().await;
    let code = "import json\n\
                n = json.load(open('/input/data.json'))['n']\n\
                print('twice', n)\n\
                json.dump({'twice': 2 * n}, open('/output/result.json', 'w'))\n";
    let run = bench.run(job(code)).await.unwrap();
    assert_eq!(run.report.end, End::Exited { code: 0 }, "{}", text(&run.stderr));
    assert_eq!(text(&run.stdout), "twice 20\n");
    assert_eq!(run.artifacts.len(), 1);
    let (name, bytes) = &run.artifacts[0];
    assert_eq!((name.as_str(), text(bytes)), ("result.json", "{\"twice\": 40}"));
    assert_eq!(run.report.oom_killed, Some(false));
    assert!(run.report.peak_memory_bytes > MIB);
    bench.end().await;
}

#[tokio::test]
async fn a_failure_names_its_class_and_shows_the_users_lines() {
    let bench = Bench::new().await;
    let run = bench.run(job("x = 1\nraise ValueError('no such thing')\n")).await.unwrap();
    assert_eq!(run.report.end, End::Exited { code: 1 });
    assert_eq!(run.report.exception.unwrap().class, "ValueError");
    assert!(text(&run.stderr).contains("line 2"), "{}", text(&run.stderr));
    bench.end().await;
}

#[tokio::test]
async fn a_job_ends_at_its_time_limit() {
    let bench = Bench::new().await;
    let mut endless = job("import time\nprint('begun', flush=True)\ntime.sleep(600)\n");
    endless.execution_timeout = Duration::from_millis(700);
    let begun = Instant::now();
    let run = bench.run(endless).await.unwrap();
    assert_eq!(run.report.end, End::TimedOut);
    assert_eq!(text(&run.stdout), "begun\n");
    assert!(begun.elapsed() < Duration::from_secs(20));
    bench.end().await;
}

#[tokio::test]
async fn a_memory_bomb_is_reported_as_killed_for_memory() {
    let mut bench = Bench::new().await;
    bench.spec.limits.memory_bytes = 64 * MIB;
    let run = bench.run(job("x = []\nwhile True: x.append(bytearray(1 << 20))\n")).await.unwrap();
    assert_eq!(run.report.end, End::Signaled { signal: libc::SIGKILL });
    assert_eq!(run.report.oom_killed, Some(true));
    bench.end().await;
}

#[tokio::test]
async fn exit_status_137_is_no_memory_kill() {
    let bench = Bench::new().await;
    let run = bench.run(job("import sys\nsys.exit(137)\n")).await.unwrap();
    assert_eq!(run.report.end, End::Exited { code: 137 });
    assert_eq!(run.report.oom_killed, Some(false));
    bench.end().await;
}

#[tokio::test]
async fn user_code_has_no_privilege() {
    let bench = Bench::new().await;
    let code = "import os\n\
                print(os.getuid(), os.getgid(), os.getgroups())\n\
                for line in open('/proc/self/status'):\n\
                \x20   if line.startswith(('Cap', 'NoNewPrivs', 'Seccomp:')): print(line.split())\n";
    let run = bench.run(job(code)).await.unwrap();
    let stdout = text(&run.stdout);
    assert!(stdout.starts_with("1000 1000 []\n"), "{stdout}");
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert!(stdout.contains(&format!("['{name}', '0000000000000000']")), "{stdout}");
    }
    assert!(stdout.contains("['NoNewPrivs:', '1']"), "{stdout}");
    assert!(stdout.contains("['Seccomp:', '2']"), "{stdout}");
    bench.end().await;
}

#[tokio::test]
async fn calls_beyond_the_process_are_denied() {
    let bench = Bench::new().await;
    // Each by its number on x86_64 or aarch64, with arguments that would work for root.
    let code = "import ctypes, errno, platform\n\
                arm = platform.machine() == 'aarch64'\n\
                libc = ctypes.CDLL(None, use_errno=True)\n\
                calls = {'ptrace': (101, 117), 'mount': (165, 40), 'unshare': (272, 97),\n\
                \x20        'keyctl': (250, 219), 'bpf': (321, 280), 'userfaultfd': (323, 282),\n\
                \x20        'io_uring_setup': (425, 425), 'clone3': (435, 435), 'setns': (308, 268)}\n\
                for name, numbers in calls.items():\n\
                \x20   ctypes.set_errno(0)\n\
                \x20   answer = libc.syscall(numbers[arm], 0, 0, 0, 0, 0)\n\
                \x20   print(name, answer, errno.errorcode.get(ctypes.get_errno()))\n\
                ctypes.set_errno(0)\n\
                answer = libc.syscall(220 if arm else 56, 0x10000000, 0, 0, 0, 0)\n\
                print('clone newuser', answer, errno.errorcode.get(ctypes.get_errno()))\n";
    let run = bench.run(job(code)).await.unwrap();
    let stdout = text(&run.stdout);
    let denied = ["ptrace", "mount", "unshare", "keyctl", "bpf", "userfaultfd", "setns", "clone newuser"];
    for name in denied {
        assert!(stdout.contains(&format!("{name} -1 EPERM\n")), "{name}: {stdout}");
    }
    for name in ["io_uring_setup", "clone3"] {
        assert!(stdout.contains(&format!("{name} -1 ENOSYS\n")), "{name}: {stdout}");
    }
    bench.end().await;
}

#[tokio::test]
async fn only_the_tmpfs_mounts_can_be_written() {
    let bench = Bench::new().await;
    let code = "import os\n\
                for path in ['/x', '/etc/x', '/code/x', '/input/x', '/tako/x', '/usr/x',\n\
                \x20            '/tmp/x', '/output/x', '/dev/shm/x']:\n\
                \x20   try: open(path, 'w').close(); print(path, 'yes')\n\
                \x20   except OSError as error: print(path, type(error).__name__, error.errno)\n\
                print(sum(1 for _ in open('/proc/mounts') if '/run/secrets' in _))\n";
    let run = bench.run(job(code)).await.unwrap();
    let stdout = text(&run.stdout);
    let written: Vec<&str> =
        stdout.lines().filter_map(|line| line.strip_suffix(" yes")).collect();
    assert_eq!(written, ["/tmp/x", "/output/x", "/dev/shm/x"], "{stdout}");
    bench.end().await;
}

#[tokio::test]
async fn there_is_no_network_but_the_own_loopback() {
    let bench = Bench::new().await;
    let code = "import socket\n\
                print([name for _, name in socket.if_nameindex()])\n\
                try: socket.create_connection(('169.254.169.254', 80), 2); print('connected')\n\
                except OSError as error: print(error.errno)\n\
                own = socket.create_server(('127.0.0.1', 0))\n\
                socket.create_connection(own.getsockname(), 2)\n\
                print('own loopback')\n";
    let run = bench.run(job(code)).await.unwrap();
    let expected = format!("['lo']\n{}\nown loopback\n", libc::ENETUNREACH);
    assert_eq!(text(&run.stdout), expected, "{}", text(&run.stderr));
    bench.end().await;
}

#[tokio::test]
async fn inodes_and_bytes_of_a_tmpfs_are_limited() {
    let mut bench = Bench::new().await;
    bench.spec.limits.inodes = 50;
    bench.spec.limits.tmp_bytes = MIB;
    let code = "def fill(path):\n\
                \x20   try:\n\
                \x20       for n in range(1000): open(f'{path}/{n}', 'w').close()\n\
                \x20   except OSError as error: return n < 60, error.errno\n\
                print(fill('/tmp'), fill('/output'), fill('/dev/shm'))\n";
    let run = bench.run(job(code)).await.unwrap();
    let full = format!("(True, {})", libc::ENOSPC);
    assert_eq!(text(&run.stdout), format!("{full} {full} {full}\n"));
    bench.end().await;
}

#[tokio::test]
async fn an_artifact_its_owner_cannot_read_is_collected() {
    let bench = Bench::new().await;
    let code = "import os\n\
                os.mkdir('/output/d')\n\
                open('/output/d/f', 'w').write('x')\n\
                os.chmod('/output/d/f', 0)\n\
                os.chmod('/output/d', 0)\n";
    let run = bench.run(job(code)).await.unwrap();
    assert_eq!(run.artifacts, vec![("d/f".to_owned(), Bytes::from_static(b"x"))], "{run:?}");
    bench.end().await;
}

#[tokio::test]
async fn twenty_jobs_leave_nothing() {
    let bench = Bench::new().await;
    let bench = std::sync::Arc::new(bench);
    let jobs = (0..4).map(|_| {
        let bench = std::sync::Arc::clone(&bench);
        tokio::spawn(async move {
            for _ in 0..5 {
                let run = bench.run(job("print(1)")).await.unwrap();
                assert_eq!(text(&run.stdout), "1\n");
            }
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        job.await.unwrap();
    }
    std::sync::Arc::into_inner(bench).unwrap().end().await;
}

#[tokio::test]
async fn a_dropped_start_leaves_nothing() {
    let bench = Bench::new().await;
    let begun = Instant::now();
    drop(bench.engine.start(&bench.spec).await.unwrap());
    let whole = begun.elapsed();
    // Dropped before the first byte, in each call of the start, and after it.
    for part in 0..12 {
        let start = bench.engine.start(&bench.spec);
        let _ = tokio::time::timeout(whole * part / 10, start).await;
    }
    bench.end().await;
}

#[tokio::test]
async fn a_dropped_run_leaves_nothing() {
    let bench = Bench::new().await;
    let run = bench.run(job("while True: pass"));
    assert!(tokio::time::timeout(Duration::from_secs(3), run).await.is_err());
    bench.end().await;
}

#[tokio::test]
async fn a_cancelled_job_says_so() {
    let bench = Bench::new().await;
    let sandbox = bench.engine.start(&bench.spec).await.unwrap();
    let (output, mut chunks) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let code = "print('begun', flush=True)\nwhile True: pass\n";
    let run = tokio::spawn(sandbox.run(job(code), output, cancel.clone()));
    let first = chunks.recv().await.unwrap();
    assert_eq!(text(&first.bytes), "begun\n");
    cancel.cancel();
    assert_eq!(run.await.unwrap().unwrap().report.end, End::Cancelled);
    bench.end().await;
}

#[tokio::test]
async fn an_unused_sandbox_is_destroyed() {
    let bench = Bench::new().await;
    let sandbox = bench.engine.start(&bench.spec).await.unwrap();
    assert!(sandbox.startup() > Duration::ZERO);
    sandbox.destroy().await;
    assert_eq!(bench.left().await, vec![]);
    bench.end().await;
}

#[tokio::test]
async fn orphans_are_listed_by_their_labels_and_removed() {
    let mut bench = Bench::new().await;
    bench.spec.labels.execution_id = Some("0190-abc".to_owned());
    bench.spec.labels.lease = Some(42);
    let sandbox = bench.engine.start(&bench.spec).await.unwrap();
    let other = Bench::new().await;
    assert_eq!(other.left().await, vec![], "another installation sees them not");
    let found = bench.left().await;
    assert_eq!(found, vec![(sandbox.id().to_owned(), bench.spec.labels.clone())]);
    // From outside, as a reaper on another node does it.
    other.engine.remove(sandbox.id()).await.unwrap();
    assert_eq!(bench.left().await, vec![]);
    other.engine.remove(sandbox.id()).await.unwrap();
    let (output, _) = mpsc::channel(1);
    let lost = sandbox.run(job("print(1)"), output, CancellationToken::new()).await;
    assert!(matches!(lost, Err(Error::Lost { oom_killed: false, .. })), "{lost:?}");
    bench.end().await;
}

#[tokio::test]
async fn a_pinned_image_is_the_same_image() {
    let bench = Bench::new().await;
    let digest = &bench.spec.image.digest;
    assert_eq!(&bench.engine.resolve_image(digest).await.unwrap().digest, digest);
    let again = bench.engine.resolve_image("tako-vm/executor:3.11").await.unwrap();
    assert_eq!(&again.digest, digest);
    let gone = format!("sha256:{}", "0".repeat(64));
    assert!(matches!(bench.engine.resolve_image(&gone).await, Err(Error::Image { .. })));
    bench.end().await;
}

#[tokio::test]
async fn an_image_that_nobody_has_is_refused_by_name() {
    let bench = Bench::new().await;
    for reference in ["tako-vm/no-such-image:1", "tako-vm/executor:latest", "", "Not A Name"] {
        let refused = bench.engine.resolve_image(reference).await;
        assert!(matches!(refused, Err(Error::Image { .. })), "{reference:?}: {refused:?}");
    }
    bench.end().await;
}

#[tokio::test]
async fn many_who_ask_for_an_image_get_the_same() {
    let bench = Bench::new().await;
    let asked = (0..8).map(|_| bench.engine.resolve_image("tako-vm/executor:3.11"));
    for image in futures::future::join_all(asked).await {
        assert_eq!(image.unwrap(), bench.spec.image);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_sandbox_of_a_missing_image_does_not_start() {
    let mut bench = Bench::new().await;
    bench.spec.image.digest = format!("sha256:{}", "0".repeat(64));
    let started = bench.engine.start(&bench.spec).await.map(|_| ());
    assert!(matches!(started, Err(Error::Image { .. })), "{started:?}");
    bench.end().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unavailable_at_once() {
    for host in ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "ssh://nobody"] {
        let begun = Instant::now();
        let config = DockerConfig { host: Some(host.to_owned()), ..DockerConfig::default() };
        let connected = DockerEngine::connect(config).await.map(|_| ());
        assert!(matches!(connected, Err(Error::Unavailable { .. })), "{host}: {connected:?}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{host}");
    }
}

#[tokio::test]
async fn a_daemon_that_never_answers_is_unavailable_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("tcp://{}", listener.local_addr().unwrap());
    let config = DockerConfig { host: Some(host), ..DockerConfig::default() };
    let begun = Instant::now();
    let connected = DockerEngine::connect(config).await.map(|_| ());
    assert!(matches!(connected, Err(Error::Unavailable { .. })), "{connected:?}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn the_engine_is_healthy_while_the_daemon_answers() {
    let bench = Bench::new().await;
    bench.engine.health().await.unwrap();
    let status = bench.engine.status();
    assert_eq!(status.breaker.failure_count, 0);
    assert!(status.breaker.success_count > 0);
    bench.end().await;
}

#[tokio::test]
async fn gvisor_runs_a_job_like_runc() {
    let config = DockerConfig {
        runtime: RuntimeChoice::Named("runsc".to_owned()),
        security_mode: SecurityMode::Strict,
        ..DockerConfig::default()
    };
    let default = Bench::new().await;
    if !default.engine.status().gvisor_available {
        let refused = DockerEngine::connect(config).await.map(|_| ());
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
        eprintln!("skipped: docker/runsc, which the daemon has not registered");
        return;
    }
    let bench = Bench::with(config).await;
    assert_eq!(bench.engine.runtime(), "runsc");
    let code = "import os\nprint(os.getuid())\nopen('/output/a', 'w').write('b')\n";
    let run = bench.run(job(code)).await.unwrap();
    assert_eq!(run.report.end, End::Exited { code: 0 }, "{}", text(&run.stderr));
    assert_eq!(text(&run.stdout), "1000\n");
    assert_eq!(run.artifacts, vec![("a".to_owned(), Bytes::from_static(b"b"))]);
    let mut endless = job("while True: pass");
    endless.execution_timeout = Duration::from_millis(500);
    assert_eq!(bench.run(endless).await.unwrap().report.end, End::TimedOut);

    // gVisor's kernel is a process of the cgroup, so the whole sandbox goes.
    let mut small = bench;
    small.spec.limits.memory_bytes = 96 * MIB;
    let bomb = small.run(job("x = []\nwhile True: x.append(bytearray(1 << 20))\n")).await;
    match bomb {
        Ok(run) => assert_eq!(run.report.oom_killed, Some(true), "{run:?}"),
        Err(error) => assert!(matches!(error, Error::Lost { oom_killed: true, .. }), "{error:?}"),
    }
    small.end().await;
}

#[tokio::test]
async fn a_limit_the_daemon_refuses_is_no_outage() {
    let mut bench = Bench::new().await;
    bench.spec.limits.memory_bytes = 4096;
    let refused = bench.engine.start(&bench.spec).await.map(|_| ());
    assert!(matches!(refused, Err(Error::System { .. })), "{refused:?}");
    assert_eq!(bench.engine.status().breaker.failure_count, 0);
    bench.end().await;
}

#[tokio::test]
async fn more_processors_than_the_host_has_is_no_limit() {
    let mut bench = Bench::new().await;
    bench.spec.limits.cpu_millis = 1_000_000;
    bench.run(job("print(1)")).await.unwrap();
    bench.end().await;
}

/// A way to the daemon that can be cut and mended.
struct Way {
    address: String,
    state: watch::Sender<WayState>,
}

#[derive(Clone, Copy, PartialEq)]
enum WayState {
    Open,
    Cut,
    /// Containers are created and nobody is told.
    LosesCreations,
}

impl Way {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let (state, seen) = watch::channel(WayState::Open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, seen.clone()));
            }
        });
        Self { address, state }
    }

    fn config(&self) -> DockerConfig {
        DockerConfig {
            host: Some(self.address.clone()),
            breaker: breaker::Settings { threshold: 3, reset_after: Duration::from_millis(300) },
            ..DockerConfig::default()
        }
    }
}

async fn carry(mut near: TcpStream, mut state: watch::Receiver<WayState>) {
    if *state.borrow() == WayState::Cut {
        return;
    }
    let mut far = UnixStream::connect("/var/run/docker.sock").await.unwrap();
    if *state.borrow() == WayState::LosesCreations {
        let mut request = vec![0; 65536];
        let mut length = near.read(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        if text.starts_with("POST") && text.contains("/containers/create") {
            while !request[..length].ends_with(b"}") {
                length += near.read(&mut request[length..]).await.unwrap();
            }
            far.write_all(&request[..length]).await.unwrap();
            let answer = far.read(&mut request).await.unwrap();
            assert!(request[..answer].starts_with(b"HTTP/1.1 201"), "the container was created");
            return;
        }
        far.write_all(&request[..length]).await.unwrap();
    }
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = state.wait_for(|state| *state == WayState::Cut) => {}
    }
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_leaves_nothing() {
    let way = Way::new().await;
    let bench = Bench::with(way.config()).await;
    way.state.send_replace(WayState::LosesCreations);
    let lost = bench.engine.start(&bench.spec).await.map(|_| ());
    assert!(matches!(lost, Err(Error::Unavailable { .. })), "{lost:?}");
    bench.end().await;
}

#[tokio::test]
async fn the_circuit_opens_with_the_daemon_gone_and_closes_when_it_is_back() {
    let way = Way::new().await;
    let bench = Bench::with(way.config()).await;
    bench.run(job("print(1)")).await.unwrap();
    bench.engine.shutdown().await;

    way.state.send_replace(WayState::Cut);
    for _ in 0..3 {
        let refused = bench.engine.start(&bench.spec).await.map(|_| ());
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    }
    assert_eq!(bench.engine.status().breaker.state, StateName::Open);
    assert!(bench.engine.status().breaker.last_failure.is_some());
    assert!(bench.engine.health().await.is_err());

    way.state.send_replace(WayState::Open);
    bench.engine.health().await.unwrap();
    assert_eq!(bench.engine.status().breaker.state, StateName::Closed);
    bench.run(job("print(1)")).await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_job_whose_daemon_goes_away_is_lost_and_its_container_removed_later() {
    let way = Way::new().await;
    let bench = Bench::with(way.config()).await;
    let sandbox = bench.engine.start(&bench.spec).await.unwrap();
    let (output, mut chunks) = mpsc::channel(64);
    let code = "print('begun', flush=True)\nwhile True: pass\n";
    let run = tokio::spawn(sandbox.run(job(code), output, CancellationToken::new()));
    assert_eq!(text(&chunks.recv().await.unwrap().bytes), "begun\n");
    way.state.send_replace(WayState::Cut);
    // Until the first attempt at removal has failed.
    while bench.engine.status().breaker.state != StateName::Open {
        let _ = bench.engine.health().await;
    }
    way.state.send_replace(WayState::Open);
    let lost = run.await.unwrap();
    assert!(matches!(lost, Err(Error::Lost { oom_killed: false, .. })), "{lost:?}");
    bench.end().await;
}
