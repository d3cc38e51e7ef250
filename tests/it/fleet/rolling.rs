//! Every node is stopped and started again in its turn, under load, and no client is told of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::RwLock;
use uuid::Uuid;

use super::Fleet;
use crate::world;

const NODES: usize = 3;
const CLIENTS: usize = 3;

type Urls = Arc<RwLock<Vec<String>>>;

/// Submits until told to stop, each job to the next node until one takes it: what was taken, and how often a
/// node did not take a job.
async fn submit(client: usize, urls: Urls, over: Arc<AtomicBool>) -> (Vec<Uuid>, usize) {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let (mut taken, mut refused, mut node) = (Vec::new(), 0, client);
    while !over.load(Ordering::Relaxed) {
        let number = taken.len();
        let code = if number % 3 == 0 { "import time; time.sleep(0.5)" } else { "print('done')" };
        let body = json!({"code": code, "idempotency_key": format!("rolling-{client}-{number}"), "timeout": 20});
        let deadline = Instant::now() + Duration::from_secs(30);
        let id = loop {
            assert!(Instant::now() < deadline, "nobody takes job {number} of client {client}");
            let url = urls.read().await[node % NODES].clone();
            node += 1;
            let answer = match http.post(format!("{url}/jobs")).json(&body).send().await {
                Ok(answer) if answer.status() != 503 => answer,
                _ => {
                    refused += 1;
                    continue;
                }
            };
            let status = answer.status().as_u16();
            // One that ended in the middle of its answer is asked again under the same key, elsewhere.
            let Ok(answer) = answer.json::<Value>().await else { continue };
            assert!(matches!(status, 200 | 202), "{status} {answer}");
            break answer["execution_id"].as_str().unwrap().parse().unwrap();
        };
        taken.push(id);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (taken, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_replaced_one_after_another_lose_nothing() {
    let more = "rate_limit: {requests_per_minute: 0}\n";
    let mut fleet = Fleet::start_with(&["all"; NODES], more).await;
    let mut known = Vec::new();
    for node in &fleet.nodes {
        known.push(node.url().await);
    }
    let (urls, over) = (Arc::new(RwLock::new(known)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| tokio::spawn(submit(client, Arc::clone(&urls), Arc::clone(&over)))).collect();
    for (number, node) in fleet.nodes.iter_mut().enumerate() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(node.stop().await, Some(0), "{}", node.log());
        node.start();
        let url = node.url().await;
        urls.write().await[number] = url;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    over.store(true, Ordering::Relaxed);
    let (mut taken, mut refused) = (Vec::new(), 0);
    for client in clients {
        let (ids, times) = client.await.unwrap();
        taken.extend(ids);
        refused += times;
    }
    println!("{} jobs were taken, {refused} times by another node than the first asked", taken.len());
    assert!(refused > 0, "no client came to a node that was away");
    let different: HashSet<_> = taken.iter().collect();
    assert_eq!(different.len(), taken.len(), "each key has an execution of its own");

    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&fleet.db.admin).await.unwrap();
        if open == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{open} jobs never ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for node in &mut fleet.nodes {
        assert_eq!(node.stop().await, Some(0), "{}", node.log());
    }
    let jobs = taken.len() as i64;
    for (event, expected) in [
        ("JobSubmitted", jobs),
        ("JobDequeued", jobs),
        ("ExecutionSucceeded", jobs),
        ("LeaseExpired", 0),
        ("NodeStopped", 2 * NODES as i64),
    ] {
        let query = sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = $1").bind(event);
        let count: i64 = query.fetch_one(&fleet.db.admin).await.unwrap();
        assert_eq!(count, expected, "{event}");
    }
    for id in taken {
        let record = fleet.db.store.record(id).await.unwrap().expect("what was taken is there").record;
        assert_eq!((record.status().as_str(), record.attempt), ("succeeded", 1), "{id}");
    }
    world::check_log(&fleet.db.options, true, fleet.objects()).await;
}
