//! One server process that may die at any moment, and a client that goes on all the same.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::db::Db;
use crate::fleet::Node;

/// The server is no more.
#[derive(Debug)]
pub struct Dead;

pub struct Life {
    pub db: Db,
    pub node: Node,
    http: reqwest::Client,
}

const PATIENCE: Duration = Duration::from_secs(120);

pub const ENDED: &[&str] = &["succeeded", "failed", "timeout", "oom", "cancelled"];

impl Life {
    pub fn new(db: Db, settings: &str) -> Self {
        let node = Node::new(&db.options.url, settings);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        Self { db, node, http }
    }

    /// An answer, asked for until there is one that is not "later", or the server has died.
    pub async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Result<(u16, Value), Dead> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(url) = self.node.known_url() {
                let request = self.http.request(method.clone(), format!("{url}{path}"));
                let request = if body.is_null() { request } else { request.json(body) };
                if let Ok(answer) = request.send().await {
                    let status = answer.status().as_u16();
                    if let Ok(text) = answer.text().await
                        && status != 503
                    {
                        return Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)));
                    }
                }
            }
            if !self.node.is_running() {
                return Err(Dead);
            }
            assert!(Instant::now() < deadline, "no answer to {path}:\n{}", self.node.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn get(&mut self, path: &str) -> Result<(u16, Value), Dead> {
        self.ask(Method::GET, path, &Value::Null).await
    }

    /// A POST that must come to something.
    pub async fn post(&mut self, path: &str, body: Value) -> Result<Value, Dead> {
        let (status, answer) = self.ask(Method::POST, path, &body).await?;
        assert!(status < 500, "{path}: {status} {answer}");
        Ok(answer)
    }

    /// A job, submitted under a key, so that it is one however often this is called.
    pub async fn job(&mut self, key: &str, mut body: Value) -> Result<Uuid, Dead> {
        body["idempotency_key"] = json!(key);
        let (status, answer) = self.ask(Method::POST, "/jobs", &body).await?;
        assert!(matches!(status, 200 | 202), "{status} {answer}");
        Ok(answer["execution_id"].as_str().unwrap().parse().unwrap())
    }

    /// The record, once it has one of these statuses.
    pub async fn becomes(&mut self, id: Uuid, statuses: &[&str]) -> Result<Value, Dead> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (code, record) = self.get(&format!("/executions/{id}?view=full")).await?;
            assert_eq!(code, 200, "{record}");
            if statuses.iter().any(|status| record["status"] == *status) {
                return Ok(record);
            }
            assert!(Instant::now() < deadline, "{record:#}\n{}", self.node.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn ended(&mut self, id: Uuid) -> Result<Value, Dead> {
        self.becomes(id, ENDED).await
    }

    /// Returns once no job is queued.
    pub async fn settled(&mut self) -> Result<(), Dead> {
        let deadline = Instant::now() + PATIENCE;
        while self.queued().await > 0 {
            if !self.node.is_running() {
                return Err(Dead);
            }
            assert!(Instant::now() < deadline, "jobs stay in the queue:\n{}", self.node.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub async fn queued(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&self.db.admin).await.unwrap()
    }

    /// How often an event is in an execution's stream.
    pub async fn count_of(&self, id: Uuid, event: &str) -> i64 {
        let count = "SELECT count(*) FROM events WHERE stream_id = $1 AND event_type = $2";
        sqlx::query_scalar(count).bind(id).bind(event).fetch_one(&self.db.admin).await.unwrap()
    }

    /// How often an event is in the log.
    pub async fn count(&self, event: &str) -> i64 {
        let count = "SELECT count(*) FROM events WHERE event_type = $1";
        sqlx::query_scalar(count).bind(event).fetch_one(&self.db.admin).await.unwrap()
    }
}
