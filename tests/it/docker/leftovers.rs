//! Nothing is left behind.

use std::time::{Duration, Instant};

use tako_vm::engine::{Engine, Error};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Bench, job, text};

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
