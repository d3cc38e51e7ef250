//! An engine that never answers.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, scripted};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_given_up_and_its_job_tried_again() {
    let configure = |config: &mut tako_vm::config::Config| {
        config.leases.hung_after = Duration::from_millis(200);
        config.retry.base_delay = Duration::from_millis(10);
    };
    let world = World::start_with(configure, scripted()).await;
    let (status, job) = world.post("/jobs", json!({"code": "hang", "timeout": 1, "max_attempts": 2})).await;
    assert_eq!(status, 202, "{job}");
    let id = job["execution_id"].as_str().unwrap().parse().unwrap();
    let record = world.ended(id).await;
    assert_eq!((&record["status"], &record["attempt"]), (&json!("failed"), &json!(2)), "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("no answer within"), "{record:#}");
    world.check(id).await;
}
