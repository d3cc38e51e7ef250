//! Nodes that answer and nodes that work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use tako_vm::cli::server::Chosen;
use tako_vm::config::Role;
use tokio::time::timeout;

use crate::world::{Choice, World, scripted};

fn none() -> Choice {
    Arc::new(|_| Chosen::Absent(Arc::default()))
}

/// An api node and the URL of a worker.
async fn pair() -> (World, String) {
    let mut world = World::start_with(|config| config.role = Role::Api, none()).await;
    let worker = world.join(|config| config.role = Role::Worker, scripted());
    (world, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_api_node_takes_a_worker_runs() {
    let (world, worker) = pair().await;
    let id = world.submit("print hello").await;
    let record = world.ended(id).await;
    assert_eq!((&record["status"], &record["stdout"]), (&json!("succeeded"), &json!("hello\n")), "{record:#}");
    let ran_on = world.check(id).await.claim().unwrap().node_id;
    let nodes = world.store().nodes().await.unwrap();
    let roles: Vec<_> = nodes.iter().map(|node| (node.role.as_str(), node.slots > 0)).collect();
    assert!(roles.contains(&("api", false)) && roles.contains(&("worker", true)), "{roles:?}");
    assert_eq!(nodes.iter().find(|node| node.node_id == ran_on).unwrap().role, "worker");

    let (status, body) = world.post_to(&worker, "/jobs", json!({"code": ""})).await;
    assert_eq!(status, 404, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("role api or all"), "{body}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(world.get_from(&worker, path).await.0, 200, "{path}");
        assert_eq!(world.get(path).await.0, 200, "{path}");
    }
    let (_, health) = world.get_from(&worker, "/health").await;
    assert_eq!(
        (&health["role"], &health["status"], &health["engine"]),
        (&json!("worker"), &json!("healthy"), &json!("scripted"))
    );
    let (_, health) = world.get("/health").await;
    assert_eq!(
        (&health["role"], &health["status"], &health["engine"]),
        (&json!("api"), &json!("healthy"), &json!("none"))
    );
    let metrics = world.http.get(format!("{worker}/metrics")).send().await.unwrap();
    assert_eq!(metrics.status(), 200);
}

/// Server-sent events as they come: name and data.
struct Events {
    body: futures::stream::BoxStream<'static, Vec<u8>>,
    text: String,
}

impl Events {
    async fn of(world: &World, path: &str) -> Self {
        let answer = world.http.get(format!("{}{path}", world.url)).header("accept", "text/event-stream");
        let body = answer.send().await.unwrap().bytes_stream().map(|chunk| chunk.unwrap().to_vec()).boxed();
        Self { body, text: String::new() }
    }

    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((name, serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let chunk = timeout(Duration::from_secs(30), self.body.next()).await.expect("the stream goes on")?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_seen_while_a_job_runs_on_another_node() {
    let (world, _worker) = pair().await;
    let unwatched = world.submit("print quiet\nsleep 500").await;
    let id = world.submit("print one\nsleep 1000\nerr two\nsleep 60000").await;
    let mut events = Events::of(&world, &format!("/jobs/{id}/output")).await;
    let (name, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["text"]), ("stdout", &json!("one\n")));
    let (name, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["text"]), ("stderr", &json!("two\n")));
    // It came while the job ran: it would for a minute more.
    let (_, record) = world.get(&format!("/executions/{id}")).await;
    assert_eq!(record["status"], "running", "{record:#}");
    let kept: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT DISTINCT execution_id FROM output_chunks").fetch_all(&world.db.admin).await.unwrap();
    assert_eq!(kept, [id], "nobody watched {unwatched}");

    let began = Instant::now();
    let (status, _) = world.post(&format!("/jobs/{id}/cancel"), json!({})).await;
    assert_eq!(status, 200);
    let (name, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["status"]), ("end", &json!("cancelled")), "{data}");
    assert!(began.elapsed() < Duration::from_secs(2), "a cancel on another node took {:?}", began.elapsed());
    assert_eq!(events.next().await, None);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM output_chunks").fetch_one(&world.db.admin).await.unwrap();
        if left == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "output of a job that ended is left in the database");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.ended(unwatched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_job_on_another_node_are_streamed() {
    let (world, _worker) = pair().await;
    let id = world.submit("sleep 300").await;
    let mut events = Events::of(&world, &format!("/jobs/{id}/events")).await;
    let mut names = Vec::new();
    while let Some((name, _)) = events.next().await {
        names.push(name);
    }
    assert_eq!(names.first().map(String::as_str), Some("JobSubmitted"), "{names:?}");
    assert!(
        names.contains(&"ExecutionStarted".to_owned()) && names.contains(&"ExecutionSucceeded".to_owned()),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_asked_of_an_api_node_is_made_on_every_worker() {
    let (mut world, _worker) = pair().await;
    world.join(|config| config.role = Role::Worker, scripted());
    let define = |name: &str, requirement: &str| json!({"name": name, "requirements": [requirement]});
    for (name, requirement) in [("good", "numpy"), ("bad", "fails"), ("slow", "hangs")] {
        let (status, body) = world.post("/job-types", define(name, requirement)).await;
        assert_eq!(status, 201, "{body}");
    }
    let (status, built) = world.post("/job-types/good/build", json!({})).await;
    assert_eq!((status, &built["status"]), (200, &json!("built")), "{built}");
    let built_on: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'BuildSucceeded'")
        .fetch_one(&world.db.admin)
        .await
        .unwrap();
    assert_eq!(built_on, 2, "each worker has an image of its own");

    let (status, problem) = world.post("/job-types/bad/build", json!({})).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("bad"), "{problem}");

    // Its log is read, and it is cancelled, where it was asked for.
    let http = world.http.clone();
    let (url, asked) = (world.url.clone(), "/job-types/slow/build");
    let waiting =
        tokio::spawn(async move { http.post(format!("{url}{asked}")).json(&json!({})).send().await.unwrap() });
    let deadline = Instant::now() + Duration::from_secs(20);
    let build_id = loop {
        let (_, builds) = world.get("/builds").await;
        let slow = builds.as_array().unwrap().iter().find(|build| build["job_type"] == "slow").cloned();
        if let Some(build) = slow {
            break build["build_id"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (status, cancelled) = world.post(&format!("/builds/{build_id}/cancel"), json!({})).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("failed")), "{cancelled}");
    assert_eq!(waiting.await.unwrap().status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_workers_says_what_is_missing() {
    let world = World::start_with(|config| config.role = Role::Api, none()).await;
    let (status, problem) = world.post("/job-types/default/build", json!({})).await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("--role worker"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_a_clients_rate() {
    let limited = |config: &mut tako_vm::config::Config| {
        config.rate_limit.requests_per_minute = 1;
        config.rate_limit.burst = 20;
        config.rate_limit.exempt_loopback = false;
        config.leases.heartbeat = Duration::from_millis(200);
        config.role = Role::Api;
    };
    let mut world = World::start_with(limited, none()).await;
    let other = world.join(limited, none());
    // Until each knows of the other.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut granted = 0;
    for url in [&world.url, &other].into_iter().cycle().take(80) {
        granted += usize::from(world.get_from(url, "/livez").await.0 == 200);
    }
    assert!((18..=24).contains(&granted), "{granted} of a burst of 20 were granted by two nodes");
}
