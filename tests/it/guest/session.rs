//! The protocol's other ways: faults, early ends, and a guest that lies.

use std::collections::BTreeMap;
use std::time::Duration;

use tako_guest::frame::{self, HEADER_BYTES, Kind};
use tako_guest::protocol::{End, FaultKind, Phase};
use tako_vm::engine::session::{GRACE, Session};
use tako_vm::engine::{Error, Run};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sandbox::{Place, boot, job, ready, start, text};

async fn start_fails(boot: &tako_guest::protocol::Boot) -> tako_guest::protocol::Fault {
    match ready(Place::Init, boot).await {
        Err(Error::Startup(fault)) => fault,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test]
async fn the_interpreter_tells_its_version_and_preloads() {
    let mut boot = boot();
    boot.preload = vec!["json".to_owned(), "xml.dom.minidom".to_owned()];
    boot.environment = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let (_sandbox, session, ready) = ready(Place::Init, &boot).await.unwrap();
    assert!(ready.python_version.starts_with("3."), "{ready:?}");
    let (output, _) = mpsc::channel(1);
    let code = "import sys, os; print('json' in sys.modules, 'xml.dom.minidom' in sys.modules, os.environ['GREETING'])";
    let run = session.run(job(code), output, CancellationToken::new(), GRACE).await.unwrap();
    assert_eq!(text(&run.stdout), "True True hello\n");
}

#[tokio::test]
async fn a_module_that_cannot_be_preloaded_fails_the_start_and_is_named() {
    let mut boot = boot();
    boot.preload = vec!["no_such_module".to_owned()];
    let fault = start_fails(&boot).await;
    assert_eq!((fault.phase, fault.kind), (Phase::Startup, FaultKind::StartupFailed));
    assert!(fault.message.contains("No module named 'no_such_module'"), "{}", fault.message);
}

#[tokio::test]
async fn an_interpreter_that_is_missing_fails_the_start() {
    let mut boot = boot();
    boot.python = Some("/usr/bin/no-python".to_owned());
    let fault = start_fails(&boot).await;
    assert_eq!(fault.kind, FaultKind::StartupFailed);
    assert!(fault.message.contains("cannot start /usr/bin/no-python"), "{}", fault.message);
}

#[tokio::test]
async fn an_interpreter_that_is_not_ready_in_time_is_a_startup_timeout() {
    let mut boot = boot();
    boot.startup_timeout_ms = 1;
    assert_eq!(start_fails(&boot).await.kind, FaultKind::StartupTimeout);
}

#[tokio::test]
async fn another_protocol_version_is_refused() {
    let mut boot = boot();
    boot.protocol += 1;
    assert_eq!(start_fails(&boot).await.kind, FaultKind::Protocol);
}

#[tokio::test]
async fn an_interpreter_that_dies_while_it_waits_is_a_startup_failure() {
    let (sandbox, session, _) = ready(Place::Init, &boot()).await.unwrap();
    // SAFETY: the process is the sandbox's interpreter, held by `sandbox`.
    assert_eq!(unsafe { libc::kill(sandbox.interpreter_pid(), libc::SIGKILL) }, 0);
    let (output, _) = mpsc::channel(1);
    match session.run(job("print(1)"), output, CancellationToken::new(), GRACE).await {
        Err(Error::Guest(fault)) => {
            assert_eq!((fault.phase, fault.kind), (Phase::Startup, FaultKind::StartupFailed));
            assert!(fault.message.contains("by signal 9"), "{}", fault.message);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_waiting_guest_is_small() {
    let (sandbox, _session, _) = ready(Place::Init, &boot()).await.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.guest_pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 4096, "{kib} KiB");
}

#[tokio::test]
async fn files_outside_their_folders_are_refused() {
    let (_sandbox, session, _) = ready(Place::Init, &boot()).await.unwrap();
    let mut job = job("print(1)");
    job.files = vec![("../etc/passwd".to_owned(), "x".into())];
    let (output, _) = mpsc::channel(1);
    match session.run(job, output, CancellationToken::new(), GRACE).await {
        Err(Error::Guest(fault)) => assert_eq!(fault.kind, FaultKind::Protocol),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_job_cancelled_before_it_started_never_prints() {
    let (_sandbox, session, _) = ready(Place::Init, &boot()).await.unwrap();
    let (output, _) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let run = session.run(job("import time; time.sleep(30)"), output, cancel, GRACE).await.unwrap();
    assert_eq!(run.report.end, End::Cancelled);
}

#[tokio::test]
async fn a_sandbox_ends_when_the_host_loses_interest() {
    // Kept to the end, because dropping it kills what should end by itself.
    let (_sandbox, mut reader, mut writer) = start(Place::Init);
    let mut bytes = Vec::new();
    frame::write(&mut bytes, Kind::Boot, &serde_json::to_vec(&boot()).unwrap()).unwrap();
    writer.write_all(&bytes).await.unwrap();
    writer.flush().await.unwrap();
    let mut head = [0; HEADER_BYTES];
    reader.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], Kind::Ready as u8);
    drop(writer);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
}

/// A guest whose every byte the test decides.
async fn lie(frames: &[(Kind, &[u8])]) -> Result<Run, Error> {
    let (host, mut guest) = tokio::io::duplex(1 << 20);
    say(&mut guest, Kind::Ready, br#"{"protocol":2,"python_version":"3","startup_ms":1}"#).await;
    let (reader, writer) = tokio::io::split(host);
    let (session, _) = Session::boot(Box::new(reader), Box::new(writer), &boot(), Duration::from_secs(5)).await?;
    for (kind, payload) in frames {
        say(&mut guest, *kind, payload).await;
    }
    let mut job = job("");
    job.stdout_limit_bytes = 4;
    job.artifacts.max_count = 1;
    job.artifacts.max_file_bytes = 4;
    job.execution_timeout = Duration::from_millis(50);
    let (output, _) = mpsc::channel(1);
    session.run(job, output, CancellationToken::new(), Duration::from_millis(50)).await
}

async fn say(guest: &mut DuplexStream, kind: Kind, payload: &[u8]) {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, kind, payload).unwrap();
    guest.write_all(&bytes).await.unwrap();
}

const REPORT: &[u8] = br#"{"end":{"how":"exited","code":0},"exception":null,"wall_ms":1,"cpu_ms":1,"peak_memory_bytes":1,"oom_killed":null,"stdout_truncated":false,"stderr_truncated":false,"stdout_total_bytes":0,"stderr_total_bytes":0,"refused_artifacts":[]}"#;
const STARTED: (Kind, &[u8]) = (Kind::Started, b"");

#[tokio::test]
async fn a_true_report_is_believed() {
    let header = br#"{"path":"a/b","bytes":4}"#;
    let frames = [
        STARTED,
        (Kind::Stdout, b"1234"),
        (Kind::Artifact, header),
        (Kind::ArtifactData, b"abcd"),
        (Kind::Exited, REPORT),
    ];
    let run = lie(&frames).await.unwrap();
    assert_eq!(run.stdout, "1234");
    assert_eq!(run.artifacts, [("a/b".to_owned(), "abcd".into())]);
}

#[tokio::test]
async fn a_guest_that_breaks_a_promise_is_lost() {
    let artifact = |text: &'static str| (Kind::Artifact, text.as_bytes());
    let lies: &[&[(Kind, &[u8])]] = &[
        &[(Kind::Stdout, b"early")],
        &[STARTED, STARTED],
        &[STARTED, (Kind::Stdout, b"12345")],
        &[STARTED, (Kind::ArtifactData, b"x")],
        &[STARTED, artifact(r#"{"path":"../x","bytes":1}"#)],
        &[STARTED, artifact(r#"{"path":"/x","bytes":1}"#)],
        &[STARTED, artifact(r#"{"path":"a//x","bytes":1}"#)],
        &[STARTED, artifact(r#"{"path":"","bytes":1}"#)],
        &[STARTED, artifact(r#"{"path":"a\nb","bytes":1}"#)],
        &[STARTED, artifact(r#"{"path":"x","bytes":5}"#)],
        &[STARTED, artifact(r#"{"path":"x","bytes":18446744073709551615}"#)],
        &[STARTED, artifact(r#"{"path":"x","bytes":0}"#), artifact(r#"{"path":"y","bytes":0}"#)],
        &[STARTED, artifact(r#"{"path":"x","bytes":1}"#), (Kind::ArtifactData, b"xy")],
        &[STARTED, artifact(r#"{"path":"x","bytes":1}"#), (Kind::ArtifactData, b"")],
        &[STARTED, artifact(r#"{"path":"x","bytes":1}"#), (Kind::Exited, REPORT)],
        &[STARTED, artifact(r#"{"path":"x","bytes":0}"#), (Kind::Stdout, b"late")],
        &[STARTED, (Kind::Exited, b"{}")],
        &[STARTED, (Kind::Run, b"{}")],
        &[(Kind::Ready, b"{}")],
    ];
    for lie_told in lies {
        match lie(lie_told).await {
            Err(Error::Lost { .. }) => {}
            other => panic!("{lie_told:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_guest_that_falls_silent_is_unresponsive() {
    for silence in [&[][..], &[STARTED]] {
        assert!(matches!(lie(silence).await, Err(Error::Unresponsive(_))));
    }
}

#[tokio::test]
async fn a_guest_that_says_nothing_at_all_is_a_startup_timeout() {
    let (host, _guest) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(host);
    match Session::boot(Box::new(reader), Box::new(writer), &boot(), Duration::from_millis(20)).await {
        Err(Error::Startup(fault)) => assert_eq!(fault.kind, FaultKind::StartupTimeout),
        _ => panic!("not a startup timeout"),
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_is_a_lost_sandbox() {
    let (host, guest) = tokio::io::duplex(1 << 20);
    drop(guest);
    let (reader, writer) = tokio::io::split(host);
    let answer = Session::boot(Box::new(reader), Box::new(writer), &boot(), Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(Error::Lost { .. })));
}
