//! A node that is told to stop while a job runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Node;
use crate::db::{self, Db};
use crate::world;

fn node(db: &Db, grace: u32) -> Node {
    let settings = super::SETTINGS.replace("shutdown_grace: 5", &format!("shutdown_grace: {grace}"));
    Node::new(&db.options.url, &format!("{settings}blobs: {{store: postgres}}\n"))
}

/// A job of so many seconds that runs on a node: its id.
async fn running(http: &reqwest::Client, url: &str, seconds: u32) -> String {
    let body = json!({"code": format!("import time; time.sleep({seconds})"), "timeout": 60});
    let taken: Value = http.post(format!("{url}/jobs")).json(&body).send().await.unwrap().json().await.unwrap();
    let id = taken["execution_id"].as_str().unwrap().to_owned();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let record = http.get(format!("{url}/executions/{id}")).send().await.unwrap();
        let record: Value = record.json().await.unwrap();
        if record["status"] == "running" {
            return id;
        }
        assert!(Instant::now() < deadline, "{record:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(http: &reqwest::Client, url: &str) -> u16 {
    http.get(format!("{url}/readyz")).send().await.unwrap().status().as_u16()
}

async fn payloads(db: &Db, event: &str) -> Vec<Value> {
    let query = "SELECT payload::text FROM events WHERE event_type = $1 ORDER BY position";
    let texts: Vec<String> = sqlx::query_scalar(query).bind(event).fetch_all(&db.admin).await.unwrap();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_is_not_ready_and_finishes_its_job() {
    let (db, http) = (db::fresh().await, reqwest::Client::new());
    let mut node = node(&db, 30);
    node.start();
    let url = node.url().await;
    let id = running(&http, &url, 4).await;
    assert_eq!(ready(&http, &url).await, 200);

    node.signal(libc::SIGTERM);
    let told = Instant::now();
    while ready(&http, &url).await != 503 {
        assert!(told.elapsed() < Duration::from_secs(2), "still said to be ready:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(payloads(&db, "ExecutionSucceeded").await, Vec::<Value>::new(), "while the job runs");
    let status = node.ended(Duration::from_secs(30)).await.expect("it ends with its job");
    assert_eq!(status.code(), Some(0), "{}", node.log());

    let record = db.store.record(id.parse().unwrap()).await.unwrap().unwrap().record;
    assert_eq!((record.status().as_str(), record.attempt), ("succeeded", 1));
    assert_eq!(payloads(&db, "NodeDraining").await, [json!({"running": 1})]);
    assert_eq!(payloads(&db, "NodeStopped").await, [json!({"released": 0})]);
    world::check_log(&db.options, true, Arc::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_outlasts_the_grace_is_finished_by_another_node() {
    let (db, http) = (db::fresh().await, reqwest::Client::new());
    let (mut first, mut second) = (node(&db, 2), node(&db, 2));
    first.start();
    let id = running(&http, &first.url().await, 7).await;
    second.start();
    let url = second.url().await;

    first.signal(libc::SIGTERM);
    let status = first.ended(Duration::from_secs(20)).await.expect("it does not wait for the job");
    assert_eq!(status.code(), Some(0), "{}", first.log());
    assert_eq!(payloads(&db, "NodeStopped").await, [json!({"released": 1})]);
    assert_eq!(payloads(&db, "ExecutionSucceeded").await, Vec::<Value>::new());

    let record = http.get(format!("{url}/jobs/{id}/result?wait=true&timeout=40&view=full")).send().await.unwrap();
    let record: Value = record.json().await.unwrap();
    assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(2)), "{record:#}");
    assert_eq!(second.stop().await, Some(0), "{}", second.log());
    world::check_log(&db.options, true, Arc::default()).await;
}
