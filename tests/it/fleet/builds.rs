//! A node that dies while it builds.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Fleet;

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_server_is_killed_ends_as_interrupted() {
    // An index that takes every question and answers none.
    let index = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = format!("build: {{index_url: \"http://{}/simple\"}}\n", index.local_addr().unwrap());
    let mut fleet = Fleet::start_with(&["all", "all"], &settings).await;
    let (first, second) = (fleet.nodes[0].url().await, fleet.nodes[1].url().await);
    let http = reqwest::Client::new();
    let job_type = json!({"name": "slow", "requirements": ["numpy==2.2.6"]});
    assert_eq!(http.post(format!("{first}/job-types")).json(&job_type).send().await.unwrap().status(), 201);
    let build = tokio::spawn(http.post(format!("{first}/job-types/slow/build")).json(&json!({})).send());
    let (asked, _) = tokio::task::spawn_blocking(move || index.accept()).await.unwrap().unwrap();
    fleet.nodes[0].kill();
    assert!(build.await.unwrap().is_err());

    let ended = async {
        loop {
            let builds: Value = http.get(format!("{second}/builds")).send().await.unwrap().json().await.unwrap();
            if let Some(ended) = builds.as_array().unwrap().first() {
                return ended.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("somebody ends it");
    assert_eq!((&ended["status"], &ended["job_type"]), (&json!("failed"), &json!("slow")), "{ended:#}");
    assert!(ended["error"].as_str().unwrap().contains("interrupted"), "{ended:#}");
    let build_id: Uuid = ended["build_id"].as_str().unwrap().parse().unwrap();
    let log = http.get(format!("{second}/builds/{build_id}/log")).send().await.unwrap().text().await.unwrap();
    assert!(log.contains("event: failed") && log.contains("interrupted"), "{log}");
    let events = fleet.db.store.stream_events(build_id, 0, 10).await.unwrap();
    let names: Vec<_> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(names, ["BuildRequested", "BuildStarted", "BuildFailed"]);
    assert!(events[2].actor.starts_with("builder@") && events[2].actor != events[1].actor);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM builds_under_way").fetch_one(&fleet.db.admin).await.unwrap();
    assert_eq!(left, 0);
    drop(asked);
    assert_eq!(fleet.nodes[1].stop().await, Some(0));
}
