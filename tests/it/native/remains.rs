use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tako_vm::engine::Engine;
use tako_vm::engine::native::{NativeConfig, NativeEngine};

use super::{Fixture, job, labels};

/// Every process with its parent.
fn processes() -> Vec<(i32, i32)> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

fn children(of: i32) -> Vec<i32> {
    processes().into_iter().filter(|&(_, parent)| parent == of).map(|(pid, _)| pid).collect()
}

/// The launchers of this process and what runs in their sandboxes.
pub fn descendants() -> BTreeSet<i32> {
    let processes = processes();
    let mut found = BTreeSet::new();
    let mut todo = vec![std::process::id() as i32];
    while let Some(of) = todo.pop() {
        let children = processes.iter().filter(|&&(_, parent)| parent == of).map(|&(pid, _)| pid);
        todo.extend(children.filter(|&pid| found.insert(pid)));
    }
    found
}

/// Cgroup directories of cells of one runtime directory.
pub fn cgroups(runtime_dir: &Path) -> Vec<PathBuf> {
    let prefix = tako_vm::engine::native::cell_prefix(runtime_dir).unwrap();
    let mut found = Vec::new();
    let mut todo = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_str().unwrap().starts_with(&prefix) {
                found.push(entry.path());
            } else if depth < 4 {
                todo.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Mounts where a sandbox has its own; others on this machine come and go by other hands.
pub fn sandbox_mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_ours = |line: &&str| {
        let place = line.split(' ').nth(4).unwrap();
        ["/tmp", "/output", "/code", "/input", "/dev/shm", "/proc/"].iter().any(|start| place.starts_with(start))
    };
    text.lines().filter(is_ours).map(str::to_owned).collect()
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

// In a process of its own, so that its children are its own and no other test's.
#[tokio::test]
async fn fifty_jobs_leave_nothing_behind() {
    in_own_process("native::remains::fifty_jobs_inside");
}

#[tokio::test]
#[ignore = "run by fifty_jobs_leave_nothing_behind"]
async fn fifty_jobs_inside() {
    let temp_before = fs::read_dir(std::env::temp_dir()).unwrap().count();
    let mounts_before = sandbox_mounts();
    let fixture = Fixture::new(2).await;
    let code = "import os, subprocess\n\
                subprocess.Popen(['sleep', '1000'], start_new_session=True)\n\
                open('/tmp/x', 'w').write('x' * 100000)";
    for _ in 0..25 {
        tokio::join!(fixture.run(code), fixture.run(code));
    }
    // SAFETY: takes a number.
    let group_of = |pid: i32| unsafe { libc::getpgid(pid) };
    // Two launchers, which have a spare sandbox each where that can be made ahead.
    let quiet = if fixture.engine.capabilities().cgroup_version == Some(2) { 2 } else { 4 };
    eventually("other processes than launchers and spare sandboxes", || descendants().len() == quiet);
    let launchers: Vec<i32> = children(std::process::id() as i32);
    assert_eq!(launchers.len(), 2);
    assert!(launchers.iter().all(|&pid| group_of(pid) == pid), "a terminal's signals reach a launcher");
    let listed = fixture.engine.list("tests").await.unwrap();
    assert_eq!(listed, []);
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    tokio::join!(fixture.run(code), fixture.run(code));
    assert_eq!(fs::read_dir("/proc/self/fd").unwrap().count(), descriptors);
    fixture.engine.shutdown().await;
    assert_eq!(descendants(), BTreeSet::new());
    assert_eq!(cgroups(fixture.runtime_dir.path()), Vec::<PathBuf>::new());
    drop(fixture);
    assert_eq!(sandbox_mounts(), mounts_before);
    assert_eq!(fs::read_dir(std::env::temp_dir()).unwrap().count(), temp_before);
}

pub fn in_own_process(test: &str) {
    let temp = tempfile::tempdir().unwrap();
    // A database of that process is another user's, who removes its folder.
    fs::set_permissions(temp.path(), Permissions::from_mode(0o1777)).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("TMPDIR", temp.path())
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
}

#[tokio::test]
async fn a_sandbox_that_is_dropped_ends_and_its_cell_serves_the_next() {
    let fixture = Fixture::new(1).await;
    drop(fixture.start().await);
    assert_eq!(fixture.print("print(1)").await, "1");
    // A start that is given up half way.
    for micros in [0, 500, 2000, 8000] {
        let starting = fixture.engine.start(&fixture.spec()).await;
        drop(starting);
        let spec = fixture.spec();
        let _ = tokio::time::timeout(Duration::from_micros(micros), fixture.engine.start(&spec)).await;
        assert_eq!(fixture.print("print(2)").await, "2");
    }
    fixture.engine.shutdown().await;
    assert_eq!(cgroups(fixture.runtime_dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_sandbox_is_listed_with_its_labels_and_removed_by_its_id() {
    let fixture = Fixture::new(2).await;
    let sandbox = fixture.start().await;
    let id = sandbox.id().to_owned();
    assert_eq!(fixture.engine.list("tests").await.unwrap(), [(id.clone(), labels())]);
    assert_eq!(fixture.engine.list("others").await.unwrap(), []);
    // Another engine, as after a restart or of a second server, sees and removes it too.
    let config = NativeConfig { runtime_dir: Some(fixture.runtime_dir.path().to_owned()), ..NativeConfig::default() };
    let other = NativeEngine::new(config).unwrap();
    assert_eq!(other.list("tests").await.unwrap().len(), 1);
    other.remove(&id).await.unwrap();
    let outcome = sandbox.run(job("print(1)"), tokio::sync::mpsc::channel(1).0, Default::default()).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(fixture.engine.list("tests").await.unwrap(), []);
    other.remove(&id).await.unwrap();
    assert_eq!(fixture.print("print(1)").await, "1");
    fixture.engine.shutdown().await;
}

/// A server that is about to die: it tells its sandbox's processes and waits.
#[tokio::test]
#[ignore = "run by a_killed_server_leaves_no_sandbox"]
async fn a_server_with_a_running_job() {
    let runtime_dir = PathBuf::from(std::env::var_os("TAKO_TEST_RUNTIME_DIR").unwrap());
    let config = NativeConfig { runtime_dir: Some(runtime_dir), ..NativeConfig::default() };
    let engine = NativeEngine::new(config).unwrap();
    let image = engine.resolve_image("host").await.unwrap();
    let fixture = Fixture { engine, image, runtime_dir: tempfile::tempdir().unwrap() };
    let sandbox = fixture.start().await;
    let (output, mut chunks) = tokio::sync::mpsc::channel(1);
    let code = "print('running', flush=True)\nwhile True: pass";
    let running = sandbox.run(job(code), output, Default::default());
    let telling = async {
        chunks.recv().await.unwrap();
        println!("PROCESSES {:?}", descendants());
    };
    let (outcome, ()) = tokio::join!(running, telling);
    unreachable!("{outcome:?}");
}

#[tokio::test]
async fn a_killed_server_leaves_no_sandbox() {
    let runtime_dir = tempfile::tempdir().unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "native::remains::a_server_with_a_running_job", "--ignored", "--nocapture"])
        .env("TAKO_TEST_RUNTIME_DIR", runtime_dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let told =
        lines.map_while(Result::ok).find_map(|line| line.split_once("PROCESSES ").map(|(_, pids)| pids.to_owned()));
    let pids: Vec<i32> = told.unwrap().trim_matches(['{', '}']).split(", ").map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3, "launcher, guest and interpreter: {pids:?}");
    server.kill().unwrap();
    server.wait().unwrap();
    // Orphans are reaped by whoever adopted them, and nobody may be in a hurry.
    let is_over = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
    };
    eventually("sandbox outlived its server", || pids.iter().all(is_over));

    // The next server clears away what this one could not.
    let config = NativeConfig { runtime_dir: Some(runtime_dir.path().to_owned()), ..NativeConfig::default() };
    let next = NativeEngine::new(config).unwrap();
    assert_eq!(cgroups(runtime_dir.path()), Vec::<PathBuf>::new());
    next.shutdown().await;
}

#[tokio::test]
async fn a_launcher_that_dies_is_replaced() {
    in_own_process("native::remains::a_launcher_that_dies_inside");
}

#[tokio::test]
#[ignore = "run by a_launcher_that_dies_is_replaced"]
async fn a_launcher_that_dies_inside() {
    let fixture = Fixture::new(1).await;
    assert_eq!(fixture.print("print(1)").await, "1");
    for pid in descendants() {
        // SAFETY: a child of this process, which runs nothing but this test.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    assert_eq!(fixture.print("print(2)").await, "2");
    let sandbox = fixture.start().await;
    for pid in descendants() {
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let outcome = sandbox.run(job("print(1)"), tokio::sync::mpsc::channel(1).0, Default::default()).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(fixture.print("print(3)").await, "3");
    fixture.engine.shutdown().await;
    assert_eq!(descendants(), BTreeSet::new());
}
