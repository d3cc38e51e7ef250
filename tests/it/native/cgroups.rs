//! Limits as the kernel keeps them. `tests/cgroup2/run.sh` runs these on cgroup v2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tako_vm::engine::Engine;
use tako_vm::engine::native::{Limit, NativeConfig, NativeEngine};

use super::remains::cgroups;
use super::{Fixture, LIMITS};

/// The cell's only directory, on v2.
fn group(fixture: &Fixture) -> PathBuf {
    let [group] = cgroups(fixture.runtime_dir.path()).try_into().unwrap();
    group
}

fn is_v2(fixture: &Fixture) -> bool {
    let is_v2 = fixture.engine.capabilities().cgroup_version == Some(2);
    if !is_v2 {
        eprintln!("SKIPPED: this user has no cgroup v2");
    }
    is_v2
}

fn text(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_cgroups_are_those_that_this_host_should_have() {
    let Ok(expected) = std::env::var("TAKO_VM_TEST_CGROUP") else {
        eprintln!("SKIPPED: TAKO_VM_TEST_CGROUP does not say what to expect");
        return;
    };
    let fixture = Fixture::new(1).await;
    let capabilities = fixture.engine.capabilities();
    match expected.as_str() {
        "none" => assert_eq!((capabilities.cgroup_version, capabilities.missing_limits.len()), (None, 3)),
        version => {
            assert_eq!(capabilities.cgroup_version, Some(version.parse().unwrap()));
            assert_eq!(capabilities.missing_limits, []);
        }
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn the_kernels_own_files_hold_a_sandboxs_limits_and_the_next_ones() {
    let fixture = Fixture::new(1).await;
    if !is_v2(&fixture) {
        return;
    }
    for memory_bytes in [64 << 20, 128 << 20, 128 << 20] {
        let mut spec = fixture.spec();
        spec.limits = tako_vm::engine::SandboxLimits { memory_bytes, cpu_millis: 500, ..LIMITS };
        let sandbox = fixture.engine.start(&spec).await.unwrap();
        let group = group(&fixture);
        assert_eq!(text(&group, "memory.max"), memory_bytes.to_string());
        if group.join("memory.swap.max").exists() {
            assert_eq!(text(&group, "memory.swap.max"), "0");
        }
        assert_eq!(text(&group, "memory.oom.group"), "0");
        if fixture.limits(Limit::Pids) {
            assert_eq!(text(&group, "pids.max"), (LIMITS.pids + 2).to_string());
        }
        if fixture.limits(Limit::Cpu) {
            assert_eq!(text(&group, "cpu.max"), "50000 100000");
        }
        // The guest and the interpreter, and not the launcher.
        assert_eq!(text(&group, "cgroup.procs").lines().count(), 2);
        sandbox.destroy().await;
        assert_eq!(text(&group, "cgroup.procs"), "");
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn a_sandbox_takes_its_own_group_for_the_top() {
    let fixture = Fixture::new(1).await;
    if !is_v2(&fixture) {
        return;
    }
    for _ in 0..2 {
        assert_eq!(fixture.print("print(open('/proc/self/cgroup').read().strip())").await, "0::/");
    }
    fixture.engine.shutdown().await;
}

#[tokio::test]
async fn what_runs_in_the_group_of_an_ended_server_is_killed() {
    let runtime_dir = tempfile::tempdir().unwrap();
    let config = NativeConfig { runtime_dir: Some(runtime_dir.path().to_owned()), ..NativeConfig::default() };
    let engine = NativeEngine::new(config.clone()).unwrap();
    let image = engine.resolve_image("host").await.unwrap();
    let fixture = Fixture { engine, image, runtime_dir: tempfile::tempdir().unwrap() };
    fixture.print("print(1)").await;
    let groups = cgroups(runtime_dir.path());
    fixture.engine.shutdown().await;
    assert_eq!(cgroups(runtime_dir.path()), Vec::<PathBuf>::new());
    if groups.is_empty() {
        eprintln!("SKIPPED: this user has no cgroup");
        return;
    }

    // As if that server had been killed and one process of its sandbox would not go.
    let mut stray = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    for group in &groups {
        fs::create_dir_all(group).unwrap();
        fs::write(group.join("cgroup.procs"), stray.id().to_string()).unwrap();
    }
    let next = NativeEngine::new(config).unwrap();
    assert_eq!(cgroups(runtime_dir.path()), Vec::<PathBuf>::new());
    assert!(!stray.wait().unwrap().success());
    next.shutdown().await;
}
