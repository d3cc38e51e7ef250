//! After many jobs through the whole service nothing is left of them but what the log says.
//!
//! `TAKO_VM_TEST_JOBS=1000` (and more) runs as many instead of the few that every test run does.
//! Each test runs in a process of its own, so that what it counts is its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tako_vm::cli::server::{Chosen, choose};
use tako_vm::config::{Config, EngineChoice};
use tako_vm::engine::Engine;
use tako_vm::engine::docker::{DockerConfig, DockerEngine};
use tako_vm::engine::native::{NativeConfig, NativeEngine};

use crate::native::remains::{cgroups, descendants, eventually, in_own_process, sandbox_mounts};
use crate::world::{Choice, World, scripted};

const IN_FLIGHT: usize = 4;

/// Leaves a process, a file and an artifact behind, as far as it can.
const CODE: &str = "import subprocess\n\
                    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n\
                    open('/tmp/x', 'w').write('x' * 10000)\n\
                    open('/output/y.txt', 'w').write('y')";

fn jobs(default: usize) -> usize {
    std::env::var("TAKO_VM_TEST_JOBS").map_or(default, |count| count.parse().unwrap())
}

/// Runs so many jobs, a few at a time; each must succeed.
async fn run(world: &World, code: &'static str, count: usize, in_flight: usize) {
    let clients = (0..in_flight).map(|client| {
        let (http, url) = (world.http.clone(), format!("{}/execute", world.url));
        tokio::spawn(async move {
            for _ in (client..count).step_by(in_flight) {
                let answer = http.post(&url).json(&json!({ "code": code })).send().await.unwrap();
                let answer: serde_json::Value = answer.json().await.unwrap();
                assert_eq!(answer["success"], true, "{answer}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

fn settings(config: &mut Config) {
    config.max_workers = IN_FLIGHT as u32;
    config.pool.min_idle = 2;
}

/// Names of this process's descendants that an engine can have started, the dead among them.
fn engine_processes() -> BTreeSet<String> {
    let stat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ours = |stat: &String| {
        ["(tako-", "(python", "(sleep)"].iter().any(|name| stat.contains(name)) || stat.contains(") Z ")
    };
    descendants().into_iter().map(stat).filter(ours).collect()
}

#[test]
fn native_jobs_leave_nothing() {
    in_own_process("leftovers::native_jobs_inside");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by native_jobs_leave_nothing"]
async fn native_jobs_inside() {
    let runtime = tempfile::tempdir().unwrap();
    let config = NativeConfig { runtime_dir: Some(runtime.path().to_owned()), ..NativeConfig::default() };
    let choice: Choice = Arc::new(move |_| Chosen::Native(Arc::new(NativeEngine::new(config.clone()).unwrap())));
    let db = crate::db::fresh().await;
    let temp_before = fs::read_dir(std::env::temp_dir()).unwrap().count();
    let mounts_before = sandbox_mounts();
    let world = World::start_on(db, settings, choice);
    run(&world, CODE, jobs(100), IN_FLIGHT).await;
    assert!(!engine_processes().is_empty() && !cgroups(runtime.path()).is_empty(), "this test looks at nothing");
    drop(world);
    eventually("processes are left", || engine_processes().is_empty());
    assert_eq!(cgroups(runtime.path()), Vec::<PathBuf>::new());
    assert_eq!(sandbox_mounts(), mounts_before);
    assert_eq!(fs::read_dir(std::env::temp_dir()).unwrap().count(), temp_before);
}

#[test]
fn docker_jobs_leave_nothing() {
    in_own_process("leftovers::docker_jobs_inside");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by docker_jobs_leave_nothing"]
async fn docker_jobs_inside() {
    let choice: Choice = Arc::new(|config| {
        let config = Config { engine: EngineChoice::Docker, ..config.clone() };
        tokio::runtime::Handle::current().block_on(choose(&config)).unwrap()
    });
    let db = crate::db::fresh().await;
    let installation = db.store.installation().await.unwrap();
    let temp_before = fs::read_dir(std::env::temp_dir()).unwrap().count();
    let docker = DockerEngine::connect(DockerConfig::default()).await.expect("these tests need a Docker Engine");
    let world = World::start_on(db, settings, choice);
    run(&world, CODE, jobs(20), IN_FLIGHT).await;
    assert!(!docker.list(&installation).await.unwrap().is_empty(), "the pool keeps some: this test looks at nothing");
    drop(world);
    assert_eq!(docker.list(&installation).await.unwrap(), []);
    assert_eq!(engine_processes(), BTreeSet::new());
    assert_eq!(fs::read_dir(std::env::temp_dir()).unwrap().count(), temp_before);
    docker.shutdown().await;
}

#[test]
fn memory_does_not_grow_with_jobs() {
    in_own_process("leftovers::memory_inside");
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The server and its clients, in one process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by memory_does_not_grow_with_jobs"]
async fn memory_inside() {
    const MOST: usize = 6 << 20;
    let count = jobs(500);
    let world = World::start_with(|config| config.max_workers = 16, scripted()).await;
    // Caches, connections and the allocator reach their size.
    run(&world, "print 10000", count / 2, 32).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = resident_bytes();
    run(&world, "print 10000", count, 32).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = resident_bytes();
    println!("resident: {} KiB, {} KiB after {count} more jobs", before >> 10, after >> 10);
    assert!(after < before + MOST, "{before} bytes became {after} in {count} jobs");
}
