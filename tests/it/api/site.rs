//! A server of one test's own, and a client that checks what every answer must have.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tako_vm::cli::server::{Chosen, Service, Stop};
use tako_vm::config::Config;
use tako_vm::engine::scripted::ScriptedEngine;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use crate::db;

pub struct Site {
    pub address: SocketAddr,
    client: reqwest::Client,
    key: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

fn io() -> &'static Runtime {
    static IO: OnceLock<Runtime> = OnceLock::new();
    IO.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Runs a test against a server with the default configuration.
pub fn run(test: impl AsyncFnOnce(Site)) {
    run_with(|_| {}, test);
}

/// Runs a test against a server with a configuration of its own.
pub fn run_with(change: impl FnOnce(&mut Config), test: impl AsyncFnOnce(Site)) {
    run_to_the_stop(change, test, async |()| {});
}

/// The same, with a look at what the test left, after the server has stopped.
pub fn run_to_the_stop<T>(
    change: impl FnOnce(&mut Config),
    test: impl AsyncFnOnce(Site) -> T,
    after: impl AsyncFnOnce(T),
) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
    config.queue.poll_interval = Duration::from_millis(200);
    config.retry.base_delay = Duration::from_millis(10);
    change(&mut config);
    actix::System::new().block_on(async move {
        // The pool's connections belong to the runtime that opens them.
        let db = io().spawn(db::fresh()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let engine = Chosen::Scripted(Arc::new(ScriptedEngine::default()));
        let service = Service::start(
            uuid::Uuid::now_v7(),
            Arc::new(config),
            db.store.clone(),
            engine,
            io().handle().clone(),
            listener,
        )
        .await
        .unwrap();
        let address = service.address();
        let left = test(Site { address, client: reqwest::Client::new(), key: None }).await;
        service.stop(Stop { grace: Duration::from_secs(5) }).await;
        after(left).await;
        // The cluster has so many connections for all tests together.
        io().spawn(async move {
            db.store.close().await;
            db.admin.close().await;
        })
        .await
        .unwrap();
    });
}

impl Site {
    /// The same server through an API key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { address: self.address, client: self.client.clone(), key: Some(key.to_owned()) }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn post_text(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Runs a script to its end; answers with its id.
    pub async fn ended(&self, code: &str) -> String {
        self.ended_with(&json!({ "code": code })).await
    }

    pub async fn ended_with(&self, body: &Value) -> String {
        self.post("/execute", body).await.expect(200)["execution_id"].as_str().unwrap().to_owned()
    }

    /// Queues a script; answers with its id.
    pub async fn queued(&self, code: &str) -> String {
        self.post("/jobs", &json!({ "code": code })).await.expect(202)["job_id"].as_str().unwrap().to_owned()
    }

    /// Sends bytes as they are, and reads until the server closes.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Sends, and checks what every answer must have, whatever was asked.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let answer = Answer { status, headers, body: response.bytes().await.unwrap() };
    let correlation_id = answer.header("x-correlation-id");
    assert!(!correlation_id.is_empty());
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-frame-options"), "DENY");
    if status >= 400 && !answer.body.is_empty() {
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["correlation_id"], correlation_id);
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
        }
    }
    if matches!(status, 429 | 503) {
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    answer
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The JSON of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The detail of a problem that must have this status.
    #[track_caller]
    pub fn refused(&self, status: u16) -> String {
        self.expect(status)["detail"].as_str().unwrap().to_owned()
    }
}
