//! The database stops, dies and has no connection left while jobs come, and the server goes on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::life::Life;
use super::server::Postgres;
use super::{demand_invariants, stop};
use crate::world;

pub const SETTINGS: &str = "engine: native
max_workers: 2
server: {http_workers: 1, shutdown_grace: 5}
pool: {min_idle: 1, max_idle: 2}
queue: {poll_interval: 0.2}
leases: {heartbeat: 0.5, dead_after: 3}
retry: {max_attempts: 20, base_delay: 0.1, max_delay: 0.5}
blobs: {store: postgres}
rate_limit: {requests_per_minute: 0}
";

/// What clients do and are told meanwhile.
#[derive(Default)]
pub struct Load {
    pub url: String,
    is_over: AtomicBool,
    /// How often "later" was said.
    later: AtomicUsize,
}

impl Load {
    pub fn later(&self) -> usize {
        self.later.load(Ordering::Relaxed)
    }
}

/// Submits until the load is over, each job until it is taken: how many were taken.
async fn submit(client: usize, load: Arc<Load>) -> usize {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    let mut taken = 0;
    while !load.is_over.load(Ordering::Relaxed) {
        let body = json!({"code": "print('done')", "idempotency_key": format!("load-{client}-{taken}")});
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = http.post(format!("{}/jobs", load.url)).json(&body).send().await.expect("a server answers");
            let status = answer.status().as_u16();
            let wait = answer.headers().get("retry-after").cloned();
            let text = answer.text().await.unwrap();
            if matches!(status, 200 | 202) {
                break;
            }
            assert!(status == 503 && wait.is_some(), "{status} {wait:?} {text}");
            load.later.fetch_add(1, Ordering::Relaxed);
            assert!(Instant::now() < deadline, "never again: {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        taken += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    taken
}

/// Waits for every job and demands that none was lost or made twice.
async fn demand_all(mut life: Life, taken: usize) {
    life.settled().await.expect("the server lives");
    let (_, health) = life.get("/health").await.unwrap();
    assert_eq!(health["status"], "healthy", "{health:#}");
    stop(&mut life.node).await;
    assert_eq!(life.count("JobSubmitted").await, taken as i64);
    assert_eq!(life.count("ExecutionSucceeded").await, taken as i64, "each once");
    demand_invariants(&life.db.options.url, true);
    world::check_log(&life.db.options, true, Arc::default()).await;
}

/// Under load, with the fault in its middle.
pub async fn endure(postgres: Postgres, fault: impl AsyncFnOnce(&Postgres, &Load)) {
    let mut life = Life::new(postgres.db().await, SETTINGS);
    life.node.start();
    let load = Arc::new(Load { url: life.node.url().await, ..Load::default() });
    let clients: Vec<_> = (0..3).map(|it| tokio::spawn(submit(it, Arc::clone(&load)))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fault(&postgres, &load).await;
    // Until it takes jobs again, and a little more.
    life.job("after", json!({"code": "print(1)"})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.is_over.store(true, Ordering::Relaxed);
    let mut taken = 1;
    for client in clients {
        taken += client.await.unwrap();
    }
    println!("{taken} jobs were taken, {} times \"later\" was said", load.later());
    assert!(load.later() > 0, "no client noticed");
    demand_all(life, taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_stopped_and_started_loses_nothing() {
    endure(Postgres::start(&[]), async |postgres, _| {
        for mode in ["fast", "immediate"] {
            assert!(postgres.stop(mode));
            tokio::time::sleep(Duration::from_millis(1500)).await;
            postgres.run();
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        // A smart stop waits for clients to leave, which the server does not; new ones are refused.
        assert!(!postgres.stop("smart"));
        assert!(postgres.stop("fast"));
        postgres.run();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_loses_nothing() {
    endure(Postgres::start(&[]), async |postgres, _| {
        postgres.kill();
        tokio::time::sleep(Duration::from_millis(1000)).await;
        postgres.run();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_connections_loses_nothing() {
    endure(Postgres::start(&["max_connections=24"]), async |postgres, _| {
        let taken = postgres.use_up().await;
        tokio::time::sleep(Duration::from_millis(1000)).await;
        drop(taken);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_taken_for_dead_because_the_database_was() {
    let postgres = Postgres::start(&[]);
    let mut life = Life::new(postgres.db().await, SETTINGS);
    let mut other = crate::fleet::Node::new(&life.db.options.url, SETTINGS);
    life.node.start();
    other.start();
    other.url().await;
    let mut jobs = Vec::new();
    for number in 0..4 {
        let body = json!({"code": "import time; time.sleep(8)"});
        jobs.push(life.job(&format!("long-{number}"), body).await.unwrap());
    }
    for id in &jobs {
        life.becomes(*id, &["running"]).await.unwrap();
    }
    assert!(postgres.stop("fast"));
    // Longer than any node may be silent.
    tokio::time::sleep(Duration::from_secs(4)).await;
    postgres.run();
    for id in jobs {
        let record: Value = life.ended(id).await.unwrap();
        assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{record:#}");
    }
    assert_eq!(life.count("LeaseExpired").await, 0);
    stop(&mut other).await;
    demand_all(life, 4).await;
}
