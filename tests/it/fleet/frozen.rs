//! A node that was frozen for longer than its lease, and wakes when its job is another's.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use super::chaos::processes_with;
use super::{DEAD_AFTER, Fleet};
use crate::world;

/// Its first attempt never ends by itself; one that starts after `turn` ends at once.
fn code(turn: i64, word: &str) -> String {
    format!("import subprocess, time\nif time.time() < {turn}:\n    subprocess.run(['sleep', '{word}'])\nprint('done')")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_frozen_past_its_lease_kills_its_sandbox_and_says_nothing() {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    // While the job is claimed only the first runs, so it is the one that has it.
    let mut fleet = Fleet::start(&["all", "all"]).await;
    assert_eq!(fleet.nodes[1].stop().await, Some(0));
    let word = format!("100000{}7", std::process::id());
    let turn = chrono::Utc::now().timestamp() + 5;
    let url = fleet.nodes[0].url().await;
    let body = json!({"code": code(turn, &word), "timeout": 90});
    let taken: Value = http.post(format!("{url}/jobs")).json(&body).send().await.unwrap().json().await.unwrap();
    let id: Uuid = taken["execution_id"].as_str().unwrap().parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while processes_with(&word).is_empty() {
        assert!(Instant::now() < deadline, "the job does not start:\n{}", fleet.nodes[0].log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // One that starts removes the sandboxes of the dead, so it starts before the other seems so.
    fleet.nodes[1].start();
    let other = fleet.nodes[1].url().await;
    while chrono::Utc::now().timestamp() <= turn {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let frozen_at = Instant::now();
    fleet.nodes[0].signal(libc::SIGSTOP);
    let result = format!("{other}/jobs/{id}/result?wait=true&timeout=30&view=full");
    let record = http.get(result).timeout(Duration::from_secs(40)).send().await.unwrap();
    let record: Value = record.json().await.unwrap();
    assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(2)), "{record:#}");
    assert!(frozen_at.elapsed() > DEAD_AFTER / 2, "taken for dead too early");
    assert!(!processes_with(&word).is_empty(), "the first attempt's sandbox still runs: its node is frozen");

    fleet.nodes[0].signal(libc::SIGCONT);
    // Two looks find the lease lost; the job itself would go on for minutes.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(&word).is_empty() {
        assert!(Instant::now() < deadline, "the sandbox outlives its lease:\n{}", fleet.nodes[0].log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fleet.nodes[0].is_running());
    for node in &mut fleet.nodes {
        assert_eq!(node.stop().await, Some(0), "{}", node.log());
    }

    const EVENTS: &str = "SELECT event_type, actor, payload::text FROM events WHERE stream_id = $1 ORDER BY version";
    let events: Vec<(String, String, String)> =
        sqlx::query_as(EVENTS).bind(id).fetch_all(&fleet.db.admin).await.unwrap();
    let expired = events.iter().position(|(name, ..)| name == "LeaseExpired").expect("the lease expired");
    let payload: Value = serde_json::from_str(&events[expired].2).unwrap();
    let frozen = payload["node_id"].as_str().unwrap();
    let of_frozen = |events: &[(String, String, String)]| {
        events.iter().filter(|(_, actor, _)| actor.ends_with(frozen)).map(|(name, ..)| name.clone()).collect::<Vec<_>>()
    };
    assert!(of_frozen(&events[..expired]).contains(&"ExecutionStarted".to_owned()), "{events:#?}");
    assert_eq!(of_frozen(&events[expired..]), Vec::<String>::new(), "{events:#?}");
    let ends: Vec<_> = events.iter().filter(|(name, ..)| name.starts_with("Execution")).skip(2).collect();
    assert_eq!(ends.len(), 1, "two starts and one end: {events:#?}");
    assert_eq!(ends[0].0, "ExecutionSucceeded");
    world::check_log(&fleet.db.options, true, fleet.objects()).await;
}
