//! Jobs and how they end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tako_guest::protocol::End;
use tako_vm::engine::docker::{DockerConfig, DockerEngine, RuntimeChoice, SecurityMode};
use tako_vm::engine::{Engine, Error};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Bench, MIB, job, text};

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
    let bomb = bench.run(job("x = []\nwhile True: x.append(bytearray(1 << 20))\n")).await;
    if bench.is_gvisor() {
        // Its kernel is a process of the cgroup, so the whole sandbox goes.
        assert!(matches!(bomb, Err(Error::Lost { oom_killed: true, .. })), "{bomb:?}");
    } else {
        let report = bomb.unwrap().report;
        assert_eq!(report.end, End::Signaled { signal: libc::SIGKILL });
        assert_eq!(report.oom_killed, Some(true));
    }
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
    bench.end().await;
}
