//! Limits, pauses, placement and the queue's bounds, through servers that share a database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tako_vm::config::{Config, JobType, Placement};
use uuid::Uuid;

use crate::world::{World, scripted};

fn quick(config: &mut Config) {
    config.max_workers = 4;
    config.queue.poll_interval = Duration::from_millis(200);
    config.queue.warm_grace = Duration::ZERO;
}

/// A job type of a configuration.
fn with_type(config: &mut Config, job_type: JobType) {
    config.job_types.insert(job_type.name.clone(), job_type);
}

async fn submit(world: &World, body: Value) -> Uuid {
    let (status, answer) = world.post("/jobs", body).await;
    assert_eq!(status, 202, "{answer}");
    answer["execution_id"].as_str().unwrap().parse().unwrap()
}

async fn at(world: &World, url: &str, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
    let answer = world.http.request(method, format!("{url}{path}")).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// Waits until it holds, for up to `most`.
async fn within(most: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < most, "{what}: not within {most:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many attempts of these jobs were under way at the same time at most, as the log has it.
async fn most_at_once(world: &World, ids: &[Uuid]) -> i64 {
    sqlx::query_scalar(
        "SELECT max(running) FROM (SELECT sum(CASE event_type WHEN 'JobDequeued' THEN 1 \
             WHEN 'ExecutionSucceeded' THEN -1 ELSE 0 END) OVER (ORDER BY position) AS running \
           FROM events WHERE stream_id = ANY ($1)) r",
    )
    .bind(ids)
    .fetch_one(&world.db.admin)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_over_two_nodes_and_are_told() {
    let limited = |config: &mut Config| {
        quick(config);
        config.concurrency.tenants = BTreeMap::from([("default".to_owned(), 5)]);
        with_type(config, JobType { name: "heavy".into(), concurrency: Some(2), ..JobType::default() });
    };
    let mut world = World::start_with(limited, scripted()).await;
    let other = world.join(limited, scripted());
    let digest = |answer: &Value| answer["digest"].clone();
    let (_, heavy) = world.get("/job-types/heavy").await;
    assert_eq!((&heavy["concurrency"], &heavy["paused"]), (&json!(2), &Value::Null));
    let (status, made) = world.post("/job-types", json!({"name": "made"})).await;
    assert_eq!(status, 201, "{made}");
    let body = json!({"concurrency": 1, "placement": {"labels": {"zone": "a"}}});
    let (status, changed) = at(&world, &other, reqwest::Method::PUT, "/job-types/made", body).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(digest(&made), digest(&changed), "neither shapes the image");

    let (mut heavy, mut keyed, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..8 {
        heavy.push(submit(&world, json!({"code": "sleep 40", "job_type": "heavy"})).await);
        let key = json!({"code": "sleep 40", "concurrency_key": "customer-1", "priority": number % 3});
        keyed.push(submit(&world, key).await);
        all.push(submit(&world, json!({"code": "sleep 40"})).await);
    }
    all.extend(heavy.iter().chain(&keyed).copied());
    for id in &all {
        world.ended(*id).await;
    }
    assert_eq!((most_at_once(&world, &heavy).await, most_at_once(&world, &keyed).await), (2, 1));
    let most = most_at_once(&world, &all).await;
    assert!((4..=5).contains(&most), "{most} of at most 5, by two nodes of 4 slots");

    let long = submit(&world, json!({"code": "sleep 60000", "concurrency_key": "k", "concurrency_limit": 1})).await;
    let (_, record) = world.get(&format!("/executions/{long}?view=full")).await;
    assert_eq!((&record["concurrency_key"], &record["concurrency_limit"]), (&json!("k"), &json!(1)), "{record:#}");
    let next = submit(&world, json!({"code": "print 1", "concurrency_key": "k"})).await;
    within(Duration::from_secs(5), "it is told why it waits", async || {
        world.get(&format!("/jobs/{next}")).await.1["held_back_by"] == "key_limit"
    })
    .await;
    // The wait ends with the other job, which is cancelled from the other node.
    within(Duration::from_secs(5), "it runs", async || {
        world.get(&format!("/jobs/{long}")).await.1["status"] == "running"
    })
    .await;
    let began = Instant::now();
    at(&world, &other, reqwest::Method::POST, &format!("/jobs/{long}/cancel"), json!({})).await;
    assert_eq!(world.ended(long).await["status"], "cancelled");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(world.ended(next).await["status"], "succeeded");

    for (body, said) in [
        (json!({"code": "x", "concurrency_key": ""}), "concurrency_key must have from 1 to 128"),
        (json!({"code": "x", "concurrency_key": "x".repeat(129)}), "concurrency_key must have from 1 to 128"),
        (json!({"code": "x", "concurrency_key": "k", "concurrency_limit": 0}), "concurrency_limit must be from 1"),
        (json!({"code": "x", "concurrency_limit": 2}), "concurrency_key, which is missing"),
    ] {
        let (status, answer) = world.post("/jobs", body.clone()).await;
        assert!(status == 422 && answer["detail"].as_str().unwrap().contains(said), "{body}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_type_starts_nowhere_until_it_is_resumed() {
    let mut world = World::start_with(quick, scripted()).await;
    let other = world.join(quick, scripted());
    for (name, others) in [("default", "data-processing"), ("*", "")] {
        let pause = format!("/job-types/{name}/pause");
        let (status, paused) = world.post(&pause, json!({"reason": "its database moves"})).await;
        assert_eq!((status, &paused["paused"], &paused["by"]), (200, &json!(true), &json!("anonymous")), "{paused}");
        let (_, again) = at(&world, &other, reqwest::Method::POST, &pause, json!({"reason": "another"})).await;
        assert_eq!(again, paused, "what is so already stays as it was");
        let waits = submit(&world, json!({"code": "print 1"})).await;
        if others.is_empty() {
            assert_eq!(world.get("/pool/stats").await.1["paused"], json!(["*"]));
        } else {
            let runs = submit(&world, json!({"code": "print 1", "job_type": others})).await;
            assert_eq!(world.ended(runs).await["status"], "succeeded");
            let (_, shown) = world.get("/job-types/default").await;
            assert_eq!(shown["paused"]["reason"], "its database moves", "{shown}");
            let (_, health) = world.get("/health").await;
            assert_eq!(health["queue_stats"]["paused"], json!(["default"]));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_, status) = world.get(&format!("/jobs/{waits}")).await;
        assert_eq!((&status["status"], &status["held_back_by"]), (&json!("queued"), &json!("paused")), "{status}");
        let resume = format!("/job-types/{name}/resume");
        let (status, resumed) = at(&world, &other, reqwest::Method::POST, &resume, json!({})).await;
        assert_eq!((status, &resumed["paused"]), (200, &json!(false)), "{resumed}");
        let began = Instant::now();
        assert_eq!(world.ended(waits).await["status"], "succeeded");
        assert!(began.elapsed() < Duration::from_secs(1), "every node is woken: {:?}", began.elapsed());
    }
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT event_type FROM events WHERE stream_id = (SELECT stream_id FROM job_type_pauses WHERE job_type = '*') \
          ORDER BY version",
    )
    .fetch_all(&world.db.admin)
    .await
    .unwrap();
    assert_eq!(names, ["JobTypePaused", "JobTypeResumed"]);
    assert_eq!(world.post("/job-types/nothing/pause", json!({})).await.0, 404);
    assert_eq!(world.post("/job-types/default/pause", json!({"reason": "\u{7}"})).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_on_a_node_that_has_what_its_type_asks_for() {
    let placed = |config: &mut Config| {
        quick(config);
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let placement = Placement { labels, runtime: Some("scripted".to_owned()) };
        with_type(config, JobType { name: "near".into(), placement, ..JobType::default() });
    };
    let mut world = World::start_with(placed, scripted()).await;
    let id = submit(&world, json!({"code": "print 1", "job_type": "near"})).await;
    let (_, status) = world.get(&format!("/jobs/{id}")).await;
    assert_eq!((&status["status"], &status["held_back_by"]), (&json!("queued"), &json!("no_node")), "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("no node that lives can run the job"), "{message}");
    let (_, result) = world.get(&format!("/jobs/{id}/result")).await;
    assert_eq!(result["message"], message, "{result}");
    let joined = world.join(
        |config| {
            placed(config);
            config.node.labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        },
        scripted(),
    );
    let record = world.ended(id).await;
    let (_, nodes) = world.get("/nodes").await;
    let nodes = nodes.as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{nodes:#?}");
    let able = nodes.iter().find(|node| node["labels"]["zone"] == "a").unwrap();
    assert_eq!((&able["state"], &able["engine"], &able["slots"]), (&json!("running"), &json!("scripted"), &json!(4)));
    assert!(able["heartbeat_age"].as_f64().unwrap() < 10.0, "{able}");
    let worker = record["worker_id"].as_str().unwrap();
    assert!(worker.starts_with(able["node_id"].as_str().unwrap()), "{worker} {able}");
    within(Duration::from_secs(15), "its image is told of", async || {
        let (_, nodes) = at(&world, &joined, reqwest::Method::GET, "/nodes", json!({})).await;
        nodes.as_array().unwrap().iter().any(|node| node["warm_job_types"].as_array().unwrap().contains(&json!("near")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_fill_one_queue_and_cancel_each_others_jobs() {
    let small = |config: &mut Config| {
        quick(config);
        config.max_workers = 1;
        config.max_queue_size = 6;
    };
    let mut world = World::start_with(small, scripted()).await;
    let other = world.join(small, scripted());
    world.post("/job-types/*/pause", json!({})).await;
    let mut taken = Vec::new();
    for number in 0..12 {
        let url = if number % 2 == 0 { world.url.clone() } else { other.clone() };
        let (status, answer) = at(&world, &url, reqwest::Method::POST, "/jobs", json!({"code": "sleep 60000"})).await;
        match status {
            202 => taken.push(answer["execution_id"].as_str().unwrap().to_owned()),
            _ => assert_eq!((status, answer["type"].is_string()), (503, true), "{answer}"),
        }
    }
    assert_eq!(taken.len(), 6, "of both nodes together");
    let (status, answer) =
        at(&world, &other, reqwest::Method::POST, "/jobs/batch", json!({"jobs": [{"code": "x"}]})).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(0)), "{answer}");
    world.post("/job-types/*/resume", json!({})).await;
    within(Duration::from_secs(5), "both nodes work", async || {
        let (_, nodes) = world.get("/nodes").await;
        nodes.as_array().unwrap().iter().all(|node| node["claimed"] == 1)
    })
    .await;
    within(Duration::from_secs(5), "they run", async || {
        let (_, running) = world.get("/executions?status=running").await;
        running["items"].as_array().unwrap().len() == 2
    })
    .await;
    // Waiting and running ones of either node alike, from either node.
    world.post("/job-types/*/pause", json!({})).await;
    for (number, id) in taken.iter().enumerate() {
        let url = if number % 2 == 0 { other.clone() } else { world.url.clone() };
        let began = Instant::now();
        at(&world, &url, reqwest::Method::POST, &format!("/jobs/{id}/cancel"), json!({})).await;
        let record = world.ended(id.parse().unwrap()).await;
        assert_eq!(record["status"], "cancelled");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
