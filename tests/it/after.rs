//! Jobs that run after others.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{World, scripted};

fn quick(config: &mut tako_vm::config::Config) {
    config.queue.poll_interval = Duration::from_millis(50);
    config.max_workers = 4;
}

async fn submit(world: &World, body: Value) -> Uuid {
    let (status, answer) = world.post("/jobs", body).await;
    assert_eq!(status, 202, "{answer}");
    answer["execution_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_once_all_that_it_waits_for_have_succeeded() {
    let world = World::start_with(quick, scripted()).await;
    let one = submit(&world, json!({"code": "sleep 700"})).await;
    let two = submit(&world, json!({"code": "print 2"})).await;
    let last = submit(&world, json!({"code": "print 3", "after": [one, two, one]})).await;
    world.ended(two).await;
    let (_, job) = world.get(&format!("/jobs/{last}")).await;
    assert_eq!((&job["status"], &job["after"]), (&json!("queued"), &json!([one, two])), "{job}");
    assert_eq!(job["waiting_for"][0]["execution_id"], json!(one), "{job}");
    let (_, progress) = world.get(&format!("/jobs/{last}/result")).await;
    assert!(progress["message"].as_str().unwrap().contains("waits for 2 executions"), "{progress}");
    let record = world.ended(last).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let names = ["JobSubmitted", "DependenciesDeclared", "DependenciesMet", "JobDequeued", "ExecutionStarted"];
    assert_eq!(world.event_names(last).await[..5], names);
    let first = world.ended(one).await;
    assert!(record["started_at"].as_str() > first["ended_at"].as_str(), "{record:#}");
    let (_, graph) = world.get(&format!("/executions/{one}/lineage")).await;
    let edge = json!({"kind": "dependency", "from": one, "to": last, "relationship": "after"});
    assert!(graph["edges"].as_array().unwrap().contains(&edge), "{graph:#}");
    let (_, graph) = world.get(&format!("/executions/{last}/lineage")).await;
    assert_eq!(graph["ancestors"].as_array().unwrap().len(), 2, "{graph:#}");
    world.check(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_end_cancels_all_that_follow_unless_any_end_will_do() {
    let world = World::start_with(quick, scripted()).await;
    let bad = submit(&world, json!({"code": "sleep 200\nexit 1"})).await;
    let next = submit(&world, json!({"code": "print", "after": [bad]})).await;
    let last = submit(&world, json!({"code": "print", "after": [next]})).await;
    let any = submit(&world, json!({"code": "print any", "after": [bad, next], "after_policy": "any_end"})).await;
    for (id, cause) in
        [(next, format!("{bad}, which ended as failed")), (last, format!("{next}, which ended as cancelled"))]
    {
        let record = world.ended(id).await;
        assert_eq!((&record["status"], &record["error"]["type"]), (&json!("cancelled"), &json!("cancelled")));
        assert!(record["error"]["message"].as_str().unwrap().contains(&cause), "{record:#}");
        world.check(id).await;
    }
    assert_eq!(world.ended(any).await["stdout"], "any\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_before_is_nothing_to_wait_for_and_a_cancel_ends_the_wait() {
    let world = World::start_with(quick, scripted()).await;
    let done = submit(&world, json!({"code": "print"})).await;
    world.ended(done).await;
    let late = submit(&world, json!({"code": "print late", "after": [done]})).await;
    assert_eq!(world.ended(late).await["stdout"], "late\n");
    let bad = submit(&world, json!({"code": "exit 1"})).await;
    world.ended(bad).await;
    let cancelled = submit(&world, json!({"code": "print", "after": [bad]})).await;
    assert_eq!(world.ended(cancelled).await["status"], "cancelled");

    let slow = submit(&world, json!({"code": "sleep 400"})).await;
    let waiting = submit(&world, json!({"code": "print", "after": [slow]})).await;
    let (status, answer) = world.post(&format!("/jobs/{waiting}/cancel"), json!({})).await;
    assert_eq!((status, &answer["status"]), (200, &json!("cancelled")), "{answer}");
    world.ended(slow).await;
    assert_eq!(world.event_names(waiting).await.last(), Some(&"ExecutionCancelled"));
    // A time of its own counts from when it may run.
    let soon = (chrono::Utc::now() + chrono::TimeDelta::milliseconds(900)).to_rfc3339();
    let timed = submit(&world, json!({"code": "print", "after": [done], "not_before": soon})).await;
    let record = world.ended(timed).await;
    let started: chrono::DateTime<chrono::Utc> = record["started_at"].as_str().unwrap().parse().unwrap();
    assert!(started >= chrono::DateTime::parse_from_rfc3339(&soon).unwrap(), "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_tenants_own_executions_can_be_waited_for() {
    let world = World::start_with(quick, scripted()).await;
    let stranger = crate::past::Past { tenant: "other", ..Default::default() }.append(&world.db).await;
    for (after, said) in [
        (json!([Uuid::now_v7()]), "which does not exist"),
        (json!([stranger]), "which does not exist"),
        (json!(["soon"]), "must be ids of executions"),
        (json!((0..101).map(|_| Uuid::now_v7()).collect::<Vec<_>>()), "must be at most 100"),
    ] {
        let (status, problem) = world.post("/jobs", json!({"code": "print", "after": after})).await;
        assert_eq!(status, 422, "{problem}");
        assert_eq!(problem["errors"][0]["field"], "after", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    let (status, problem) = world.post("/jobs", json!({"code": "print", "after_policy": "never"})).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("after_policy")));
}

/// The look whether one has ended and its end are raced, on two nodes, many times: nobody waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn no_end_is_missed_however_it_races_with_a_submission() {
    // Without polling a lost wake-up would show: it is this test that must not pass by it.
    let slow_poll = |config: &mut tako_vm::config::Config| {
        config.queue.poll_interval = Duration::from_secs(60);
        config.max_workers = 4;
    };
    let mut world = World::start_with(slow_poll, scripted()).await;
    let other = world.join(slow_poll, scripted());
    let mut rounds = Vec::new();
    for round in 0..150_u64 {
        let (http, first, second) = (world.http.clone(), world.url.clone(), other.clone());
        rounds.push(async move {
            let post = |url: &str, body: Value| http.post(format!("{url}/jobs")).json(&body).send();
            let id = |answer: Value| answer["execution_id"].as_str().unwrap().to_owned();
            let parent =
                id(post(&first, json!({"code": format!("sleep {}", round % 7)})).await.unwrap().json().await.unwrap());
            // The child comes before, at and after the end.
            tokio::time::sleep(Duration::from_micros(round * 137 % 20_000)).await;
            let body = json!({"code": "print", "after": [parent]});
            let child = id(post(&second, body).await.unwrap().json().await.unwrap());
            let result = format!("{first}/jobs/{child}/result?wait=true&timeout=30");
            let record: Value = http.get(result).send().await.unwrap().json().await.unwrap();
            assert_eq!(record["status"], "succeeded", "{record}");
        });
    }
    use futures::StreamExt as _;
    futures::stream::iter(rounds).buffer_unordered(8).collect::<Vec<_>>().await;
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM dependencies WHERE NOT settled")
        .fetch_one(&world.db.admin)
        .await
        .unwrap();
    assert_eq!(open, 0);
}
