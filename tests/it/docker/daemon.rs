//! A daemon that refuses, falters or is not there.

use std::time::{Duration, Instant};

use tako_vm::engine::docker::breaker::{self, StateName};
use tako_vm::engine::docker::{DockerConfig, DockerEngine};
use tako_vm::engine::{Engine, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Bench, job, text};

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
