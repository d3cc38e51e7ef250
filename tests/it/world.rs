//! A whole server in this process: real PostgreSQL, real HTTP, and the engine a test asks for.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tako_vm::cli::server::{Chosen, Service, Stop};
use tako_vm::config::Config;
use tako_vm::domain::{Envelope, ExecutionRecord};
use tako_vm::egress::{Network, SystemNetwork};
use tako_vm::engine::scripted::ScriptedEngine;
use tako_vm::store::audit::Verification;
use tako_vm::store::{Objects, Options, Store};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::db::{self, Db};

/// A server with a database of its own. Stops when it is dropped, and then checks what it left.
pub struct World {
    pub url: String,
    pub http: reqwest::Client,
    pub db: Db,
    /// Whether the whole log must verify, and every invariant hold, at the end.
    pub is_checked: bool,
    /// Whether the bytes that events name must be kept, at the end.
    pub keeps_blobs: bool,
    /// Where large blobs are, for the check at the end.
    pub objects: Arc<Objects>,
    servers: Vec<Server>,
}

struct Server {
    stop: Option<oneshot::Sender<Duration>>,
    thread: Option<JoinHandle<()>>,
}

/// Chooses the engine, on the server's I/O runtime.
pub type Choice = Arc<dyn Fn(&Config) -> Chosen + Send + Sync>;

/// The engine that runs nothing; see `tako_vm::engine::scripted`.
pub fn scripted() -> Choice {
    Arc::new(|_| Chosen::Scripted(Arc::new(ScriptedEngine::default())))
}

impl World {
    /// With the scripted engine and the default configuration.
    pub async fn start() -> Self {
        Self::start_with(|_| {}, scripted()).await
    }

    pub async fn start_with(configure: impl FnOnce(&mut Config), choice: Choice) -> Self {
        Self::start_on(db::fresh().await, configure, choice)
    }

    /// With jobs that reach a network of the test's own.
    pub async fn start_in(network: Arc<dyn Network>, configure: impl FnOnce(&mut Config), choice: Choice) -> Self {
        Self::start_all(db::fresh().await, configure, choice, network)
    }

    pub fn start_on(db: Db, configure: impl FnOnce(&mut Config), choice: Choice) -> Self {
        Self::start_all(db, configure, choice, Arc::new(SystemNetwork))
    }

    fn start_all(db: Db, configure: impl FnOnce(&mut Config), choice: Choice, network: Arc<dyn Network>) -> Self {
        let (server, address) = serve(&db, configure, choice, network);
        Self {
            url: format!("http://{address}"),
            http: reqwest::Client::new(),
            db,
            is_checked: true,
            keeps_blobs: true,
            objects: Arc::default(),
            servers: vec![server],
        }
    }

    /// Another node on the same database; answers with its URL.
    pub fn join(&mut self, configure: impl FnOnce(&mut Config), choice: Choice) -> String {
        let (server, address) = serve(&self.db, configure, choice, Arc::new(SystemNetwork));
        self.servers.push(server);
        format!("http://{address}")
    }

    /// Stops the first server as SIGTERM would, with that grace, and waits for its end.
    pub async fn stop_first(&mut self, grace: Duration) {
        let mut server = self.servers.remove(0);
        tokio::task::spawn_blocking(move || server.end(grace)).await.unwrap();
    }

    pub fn store(&self) -> &Store {
        &self.db.store
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.http.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Sends to another node than the first.
    pub async fn post_to(&self, url: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.http.post(format!("{url}{path}")).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Asks another node than the first.
    pub async fn get_from(&self, url: &str, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Submits code and answers with the execution's id.
    pub async fn submit(&self, code: &str) -> Uuid {
        let (status, body) = self.post("/jobs", json!({ "code": code })).await;
        assert_eq!(status, 202, "{body}");
        body["execution_id"].as_str().unwrap().parse().unwrap()
    }

    /// The full record of an execution once it has ended.
    pub async fn ended(&self, id: Uuid) -> Value {
        let (status, record) = self.get(&format!("/jobs/{id}/result?wait=true&timeout=60&view=full")).await;
        assert_eq!(status, 200, "{record}");
        record
    }

    pub async fn events(&self, id: Uuid) -> Vec<Envelope> {
        let events = self.store().stream_events(id, 0, 1000).await.unwrap();
        events.iter().map(|event| event.envelope().unwrap()).collect()
    }

    /// The names of an execution's events.
    pub async fn event_names(&self, id: Uuid) -> Vec<&'static str> {
        self.events(id).await.iter().map(|envelope| envelope.event.kind().as_str()).collect()
    }

    /// Demands what must hold of every ended execution: exactly one terminal event, and a
    /// projection that equals the fold of the log.
    pub async fn check(&self, id: Uuid) -> ExecutionRecord {
        let events = self.events(id).await;
        let folded = ExecutionRecord::fold(&events).unwrap().unwrap();
        let stored = self.store().record(id).await.unwrap().unwrap().record;
        assert_eq!(stored, folded, "the projection is not the fold of the log");
        let ends = events.iter().filter(|envelope| {
            matches!(
                envelope.event.kind().as_str(),
                "ExecutionSucceeded"
                    | "ExecutionFailed"
                    | "ExecutionTimedOut"
                    | "ExecutionOutOfMemory"
                    | "ExecutionCancelled"
            )
        });
        assert_eq!(ends.count(), 1, "{events:#?}");
        folded
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.servers.clear();
        if !self.is_checked || std::thread::panicking() {
            return;
        }
        let (options, keeps_blobs) = (self.db.options.clone(), self.keeps_blobs);
        let objects = Arc::clone(&self.objects);
        let checked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(check_log(&options, keeps_blobs, objects));
        });
        checked.join().expect("the log is whole");
    }
}

/// Demands that every hash, chain and seal is right, that every execution ended once or waits, and that
/// live and rebuilt are the same.
pub async fn check_log(options: &Options, keeps_blobs: bool, objects: Arc<Objects>) {
    let store = Store::connect(&Options { max_connections: 4, ..options.clone() }).await.unwrap();
    let store = store.with_objects(objects, 0);
    let verified = store.verify_log(&Verification::default(), &|_| {}).await.unwrap();
    assert!(verified.holds(), "{:#?}", verified.faults);
    assert_eq!(verified.sealed_through, verified.last_position, "the last node seals all there is");
    let checked = store.check_invariants(keeps_blobs, &|_| {}).await.unwrap();
    assert_eq!(checked.violation_count, 0, "{:#?}", checked.violations);
    let rebuilt = store.rebuild_projections(&|_| {}).await.unwrap();
    assert_eq!(rebuilt.differing, 0, "rows were not the fold of their events: {rebuilt:#?}");
    store.close().await;
}

fn serve(
    db: &Db,
    configure: impl FnOnce(&mut Config),
    choice: Choice,
    network: Arc<dyn Network>,
) -> (Server, SocketAddr) {
    let mut config = Config::default();
    // A test must not be slowed by what it does not look at.
    config.rate_limit.requests_per_minute = 0;
    config.server.http_workers = 1;
    config.pool.min_idle = 0;
    configure(&mut config);
    let mut options = db.options.clone();
    let node_id = Uuid::now_v7();
    options.max_connections = 8;
    options.node = node_id.to_string();
    let (started, address) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = io.block_on(Store::connect(&options)).unwrap();
        let chosen = {
            let _entered = io.enter();
            choice(&config)
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = io.handle().clone();
        actix::System::new().block_on(async move {
            let service = Service::start_in(network, node_id, Arc::new(config), store, chosen, handle, listener);
            let service = service.await.unwrap();
            started.send(service.address()).unwrap();
            // A test that panics drops its end, which stops the server as well.
            let grace = stopped.await.unwrap_or(Duration::ZERO);
            service.stop(Stop { grace }).await;
        });
        io.shutdown_timeout(Duration::from_secs(5));
    });
    let address = address.recv_timeout(Duration::from_secs(60)).expect("the server starts");
    (Server { stop: Some(stop), thread: Some(thread) }, address)
}

impl Server {
    fn end(&mut self, grace: Duration) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(grace);
        }
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a server panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}
