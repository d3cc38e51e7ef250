//! Jobs from the request to the log and back, on the engine that runs nothing.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::world::{World, scripted};

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_job_has_its_status_and_one_terminal_event() {
    let world = World::start().await;
    for (code, status, error, events) in [
        ("print 2", "succeeded", None, "ExecutionSucceeded"),
        ("exit 137", "failed", Some("runtime_error"), "ExecutionFailed"),
        ("sleep 60000", "timeout", Some("execution_timeout"), "ExecutionTimedOut"),
        ("oom", "oom", Some("oom"), "ExecutionOutOfMemory"),
    ] {
        let (_, accepted) = world.post("/jobs", json!({"code": code, "timeout": 0.2})).await;
        let id: Uuid = accepted["execution_id"].as_str().unwrap().parse().unwrap();
        let record = world.ended(id).await;
        assert_eq!(record["status"], status, "{record:#}");
        assert_eq!(record["error"]["type"].as_str(), error, "{record:#}");
        assert_eq!(world.event_names(id).await, ["JobSubmitted", "JobDequeued", "ExecutionStarted", events]);
        world.check(id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_carries_output_and_artifacts() {
    let world = World::start().await;
    let id = world.submit("print hello\noutput {\"sum\":6}").await;
    let record = world.ended(id).await;
    assert_eq!(record["stdout"], "hello\n");
    assert_eq!(record["output"], json!({"sum": 6}));
    assert_eq!(record["artifacts"][0]["name"], "result.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_the_service_loses_is_tried_again_and_then_a_dead_letter() {
    let world = World::start_with(
        |config| {
            config.retry.base_delay = Duration::from_millis(10);
            config.retry.max_delay = Duration::from_millis(20);
            config.queue.poll_interval = Duration::from_millis(50);
        },
        scripted(),
    )
    .await;
    let (_, accepted) = world.post("/jobs", json!({"code": "lose", "max_attempts": 2})).await;
    let id: Uuid = accepted["execution_id"].as_str().unwrap().parse().unwrap();
    let record = world.ended(id).await;
    assert_eq!((record["status"].as_str(), record["attempt"].as_i64()), (Some("failed"), Some(2)), "{record:#}");
    assert_eq!(
        world.event_names(id).await,
        [
            "JobSubmitted",
            "JobDequeued",
            "ExecutionStarted",
            "RetryScheduled",
            "JobDequeued",
            "ExecutionStarted",
            "ExecutionFailed",
            "JobDeadLettered",
        ]
    );
    world.check(id).await;
    let (_, stats) = world.get("/dlq/stats").await;
    assert_eq!(stats, json!({"total": 1, "by_error_type": {"internal_error": 1}}));

    let (status, requeued) = world.post(&format!("/dlq/{id}/requeue"), json!({})).await;
    assert!((200..300).contains(&status), "{requeued}");
    let child: Uuid = requeued["execution_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(world.ended(child).await["relationship"], "requeue");
    assert_eq!(world.event_names(id).await.last(), Some(&"DeadLetterRequeued"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_that_waits_never_starts() {
    let world = World::start_with(|config| config.max_workers = 1, scripted()).await;
    let running = world.submit("sleep 20000").await;
    wait_for_status(&world, running, "running").await;
    let waiting = world.submit("print never").await;
    let (status, body) = world.post(&format!("/jobs/{waiting}/cancel"), json!({})).await;
    assert_eq!((status, body["status"].as_str()), (200, Some("cancelled")), "{body}");
    assert_eq!(world.event_names(waiting).await, ["JobSubmitted", "CancelRequested", "ExecutionCancelled"]);

    let (status, _) = world.post(&format!("/jobs/{running}/cancel"), json!({})).await;
    assert_eq!(status, 200);
    let record = world.ended(running).await;
    assert_eq!(record["status"], "cancelled", "{record:#}");
    assert_eq!(
        world.event_names(running).await,
        ["JobSubmitted", "JobDequeued", "ExecutionStarted", "CancelRequested", "ExecutionCancelled"]
    );
    let (status, _) = world.post(&format!("/jobs/{running}/cancel"), json!({})).await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_with_one_key_make_one_execution() {
    let world = World::start().await;
    let body = json!({"code": "print once", "idempotency_key": "order-17"});
    let answers = futures::future::join_all((0..50).map(|_| world.post("/execute/async", body.clone()))).await;
    let ids: std::collections::BTreeSet<_> = answers
        .iter()
        .map(|(status, answer)| {
            assert!((200..300).contains(status), "{answer}");
            answer["job_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 1);
    let (status, problem) =
        world.post("/execute/async", json!({"code": "print other", "idempotency_key": "order-17"})).await;
    assert_eq!(status, 409, "{problem}");
    assert_eq!(problem["existing_job_id"].as_str(), ids.first().map(String::as_str));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_gives_its_jobs_back_and_another_finishes_them() {
    let mut world = World::start().await;
    let quick = world.submit("sleep 300\nprint done").await;
    let slow = world.submit("sleep 1500\nprint done").await;
    wait_for_status(&world, slow, "running").await;
    world.url = {
        let url = world.join(|_| {}, scripted());
        world.stop_first(Duration::from_millis(600)).await;
        url
    };
    assert_eq!(world.ended(quick).await["status"], "succeeded");
    let record = world.ended(slow).await;
    assert_eq!((record["status"].as_str(), record["attempt"].as_i64()), (Some("succeeded"), Some(2)), "{record:#}");
    assert!(world.event_names(slow).await.contains(&"LeaseExpired"));
    assert!(!world.event_names(quick).await.contains(&"LeaseExpired"));
    world.check(slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_has_a_verdict() {
    let world = World::start().await;
    let id = world.submit("print same").await;
    world.ended(id).await;
    let (status, verdict) = world.post(&format!("/executions/{id}/replay?wait=30"), json!({})).await;
    assert_eq!((status, verdict["verdict"].as_str()), (200, Some("identical")), "{verdict:#}");
    let replay: Uuid = verdict["execution_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        world.event_names(replay).await,
        ["JobSubmitted", "JobDequeued", "ExecutionStarted", "ExecutionSucceeded", "ReplayVerdictRecorded"]
    );
    assert_eq!(world.check(replay).await.submitted.parent.unwrap().execution_id, id);
}

async fn wait_for_status(world: &World, id: Uuid, wanted: &str) {
    for _ in 0..500 {
        if world.get(&format!("/jobs/{id}")).await.1["status"] == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("execution {id} did not become {wanted}");
}
