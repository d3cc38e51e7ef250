//! The Docker daemon goes away while jobs run, and comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dockerd::Dockerd;
use super::life::Life;
use super::{demand_invariants, stop};
use crate::{db, world};

const SETTINGS: &str = "engine: docker
max_workers: 2
server: {http_workers: 1, shutdown_grace: 5}
pool: {min_idle: 1, max_idle: 1}
queue: {poll_interval: 0.2}
leases: {heartbeat: 0.5, dead_after: 3}
retry: {max_attempts: 3, base_delay: 0.1, max_delay: 0.5}
blobs: {store: postgres}
rate_limit: {requests_per_minute: 0}
";

/// Jobs that run when the daemon goes away, and those that wait.
const RUN: usize = 2;
const WAIT: usize = 4;

/// The health, once it is as wanted.
async fn health(life: &mut Life, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, health) = life.get("/health").await.unwrap();
        if is_so(&health) {
            return health;
        }
        assert!(Instant::now() < deadline, "not {what}: {health:#}\n{}", life.node.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn survive(name: &str, signal: &str) {
    let mut daemon = match Dockerd::start().await {
        Ok(daemon) => daemon,
        Err(reason) => {
            eprintln!("skipped: {name}: {reason}");
            return;
        }
    };
    let settings = format!("{SETTINGS}docker: {{host: \"{}\"}}\n", daemon.url());
    let mut life = Life::new(db::fresh().await, &settings);
    life.node.start();
    life.node.url().await;
    let mut jobs = Vec::new();
    for number in 0..RUN + WAIT {
        let seconds = if number < RUN { 8 } else { 0 };
        let body = json!({"code": format!("import time; time.sleep({seconds}); print({number})"), "timeout": 60});
        jobs.push(life.job(&format!("job-{number}"), body).await.unwrap());
        if number < RUN {
            life.becomes(jobs[number], &["running"]).await.unwrap();
        }
    }

    daemon.end(signal);
    let seen = health(&mut life, "open", |health| health["circuit_breaker"]["state"] == "open").await;
    assert_eq!((&seen["status"], &seen["engine_available"]), (&json!("degraded"), &json!(false)), "{seen:#}");
    let ready = reqwest::get(format!("{}/readyz", life.node.known_url().unwrap())).await.unwrap();
    assert_eq!(ready.status(), 503);
    // What is submitted meanwhile is taken, and waits.
    jobs.push(life.job("meanwhile", json!({"code": "print('meanwhile')"})).await.unwrap());
    let taken = life.count("JobDequeued").await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        assert_eq!(life.count("JobDequeued").await, taken, "an attempt was begun without an engine");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    daemon.run();
    health(&mut life, "healthy", |health| health["status"] == "healthy").await;
    for (number, id) in jobs.iter().enumerate() {
        let record = life.ended(*id).await.unwrap();
        let attempts = if number < RUN { 2 } else { 1 };
        let told = (&record["status"], &record["attempt"]);
        assert_eq!(told, (&json!("succeeded"), &json!(attempts)), "{record:#}\n{}", life.node.log());
    }
    stop(&mut life.node).await;
    assert_eq!(daemon.docker(&["ps", "--all", "--quiet"]).unwrap(), "", "containers were left");
    let count = jobs.len() as i64;
    for (event, times) in [("JobSubmitted", count), ("ExecutionSucceeded", count), ("JobDequeued", count + RUN as i64)]
    {
        assert_eq!(life.count(event).await, times, "{event}");
    }
    demand_invariants(&life.db.options.url, true);
    world::check_log(&life.db.options, true, Arc::default()).await;
    daemon.end("TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_daemon_that_is_killed_loses_no_job() {
    survive("a_docker_daemon_that_is_killed_loses_no_job", "KILL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_daemon_that_is_stopped_loses_no_job() {
    survive("a_docker_daemon_that_is_stopped_loses_no_job", "TERM").await;
}
