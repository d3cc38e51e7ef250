//! What becomes of dead letters, whoever decides and when.

use std::time::{Duration, Instant};

use serde_json::json;
use tako_vm::domain::Event;
use uuid::Uuid;

use crate::world::{World, scripted};

async fn lost(world: &World) -> Uuid {
    let (status, record) = world.post("/execute", json!({"code": "lose", "max_attempts": 1})).await;
    assert_eq!(status, 200, "{record}");
    record["execution_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_letter_makes_one_execution_however_many_requeue_it_at_the_same_time() {
    let mut world = World::start().await;
    let other = world.join(|_| {}, scripted());
    for _ in 0..10 {
        let id = lost(&world).await;
        let (one, two) = (world.url.clone(), other.clone());
        let post = |url: String| world.http.post(format!("{url}/dlq/{id}/requeue")).json(&json!({})).send();
        let answers = futures::future::join_all([one.clone(), two.clone(), one, two].map(post)).await;
        let granted = answers.iter().filter(|answer| answer.as_ref().unwrap().status().is_success()).count();
        assert!(granted >= 1, "{answers:?}");
        let made: i64 = sqlx::query_scalar("SELECT count(*) FROM executions WHERE parent_execution_id = $1")
            .bind(id)
            .fetch_one(&world.db.admin)
            .await
            .unwrap();
        assert_eq!(made, 1);
        let requeued = world.event_names(id).await.iter().filter(|name| **name == "DeadLetterRequeued").count();
        assert_eq!(requeued, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_counted_in_the_metrics_by_error_type() {
    let mut world = World::start().await;
    let letters = async |url: &str| {
        let metrics = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
        let lines = metrics.lines().filter(|line| line.starts_with("tako_vm_dead_letters"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, _) = (lost(&world).await, lost(&world).await);
    let url = world.url.clone();
    assert_eq!(letters(&url).await, ["tako_vm_dead_letters{error_type=\"internal_error\"} 2"]);
    let answer = world.http.delete(format!("{url}/dlq/{first}")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // What was counted once is good for a while; another node has counted nothing yet.
    let other = world.join(|_| {}, scripted());
    assert_eq!(letters(&other).await, ["tako_vm_dead_letters{error_type=\"internal_error\"} 1"]);
    assert_eq!(letters(&url).await, ["tako_vm_dead_letters{error_type=\"internal_error\"} 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_about_which_nobody_decides_is_discarded_in_its_time_with_an_event() {
    let often = |config: &mut tako_vm::config::Config| {
        config.retention.every = Duration::from_millis(200);
        config.retention.dlq_days = 30;
    };
    let mut world = World::start_with(often, scripted()).await;
    // The letter's row is made older than its event says, which is what the check would tell.
    world.is_checked = false;
    let (old, young) = (lost(&world).await, lost(&world).await);
    sqlx::query("UPDATE dead_letters SET created_at = now() - interval '31 days' WHERE execution_id = $1")
        .bind(old)
        .execute(&world.db.admin)
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while world.get(&format!("/dlq/{old}")).await.0 != 404 {
        assert!(Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let events = world.events(old).await;
    let Event::DeadLetterDiscarded(discarded) = &events.last().unwrap().event else { panic!("{events:#?}") };
    assert_eq!(
        (discarded.by.as_str(), discarded.reason.as_deref()),
        ("retention", Some("nobody decided within 30 days"))
    );
    assert_eq!(world.get(&format!("/executions/{old}")).await.0, 200, "its record stays");
    assert_eq!(world.get(&format!("/dlq/{young}")).await.0, 200);
    let (_, stats) = world.get("/dlq/stats").await;
    assert_eq!(stats, json!({"total": 1, "by_error_type": {"internal_error": 1}}));
}
