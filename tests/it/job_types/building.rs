//! Builds on the engine that builds nothing: who waits for whom, and what the log says.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{Site, with};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_requests_at_once_are_one_build() {
    let gate = Arc::new(Semaphore::new(0));
    let site = Site::start(with("report", &["pandas==2.2.3"]), Some(&gate)).await;
    let asked = futures::future::join_all((0..20).map(|_| site.build("report")));
    let open = async {
        while site.builds() == 0 {
            tokio::task::yield_now().await;
        }
        // A second build would wait here for ever.
        gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(asked, open);
    for (status, body) in &answers {
        assert_eq!(*status, 200, "{body}");
        assert_eq!(body, &answers[0].1);
    }
    assert_eq!(site.builds(), 1);
    assert_eq!((site.count("BuildRequested").await, site.count("BuildSucceeded").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_is_not_built_again_and_its_version_says_how_it_was() {
    let site = Site::start(with("report", &["pandas==2.2.3"]), None).await;
    let (_, first) = site.build("report").await;
    let (_, again) = site.build("report").await;
    assert_eq!(first, again);
    let digest = first["digest"].as_str().unwrap();
    assert_eq!(first["version"], format!("report@sha256:{}", &digest[..12]));
    assert_eq!(site.builds(), 1);

    let (_, versions) = site.world.get("/job-types/report/versions").await;
    let [version] = &versions.as_array().unwrap()[..] else { panic!("{versions:#}") };
    assert_eq!((&version["digest"], &version["is_present"]), (&first["digest"], &json!(true)));
    assert_eq!((&version["lock"], &version["built_by"]), (&json!("pandas==2.2.3"), &json!("anonymous")));
    let events = site.world.events(version["build_id"].as_str().unwrap().parse().unwrap()).await;
    let names: Vec<_> = events.iter().map(|event| event.event.kind().as_str()).collect();
    assert_eq!(names, ["BuildRequested", "BuildStarted", "BuildSucceeded"]);

    let (status, tagged) = site.world.post("/job-types/report/build?version_tag=v1", json!({})).await;
    assert_eq!((status, &tagged), (200, &first));
    assert_eq!(site.builds(), 1, "a name for what is there is no build");
    let (_, versions) = site.world.get("/job-types/report/versions").await;
    assert_eq!(versions[0]["version_tag"], "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_job_builds_what_it_needs_and_the_next_finds_it() {
    let site = Site::start(with("report", &["pandas==2.2.3"]), None).await;
    for _ in 0..2 {
        let record = site.run(json!({"code": "print %i", "job_type": "report"})).await;
        assert_eq!(record["status"], "succeeded", "{record:#}");
        assert!(record["stdout"].as_str().unwrap().starts_with("built:report:"), "{record:#}");
    }
    assert_eq!(site.builds(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_production_nothing_is_built_for_a_job() {
    let site = Site::start(
        |config| {
            with("report", &["pandas==2.2.3"])(config);
            config.production_mode = true;
        },
        None,
    )
    .await;
    let record = site.run(json!({"code": "print x", "job_type": "report"})).await;
    assert_eq!(record["error"]["type"], "config_error", "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("tako-vm build"), "{record:#}");
    assert_eq!(site.build("report").await.0, 200);
    let record = site.run(json!({"code": "print x", "job_type": "report"})).await;
    assert_eq!((&record["status"], site.builds()), (&json!("succeeded"), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_tells_client_job_and_log_why() {
    let site = Site::start(with("broken", &["numpy", "fails"]), None).await;
    let (status, problem) = site.build("broken").await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(problem["type"], "urn:tako-vm:problem:build-failed");
    assert!(problem["detail"].as_str().unwrap().contains("no matching distribution for fails"), "{problem}");
    assert!(problem["log_tail"].as_str().unwrap().contains("getting numpy\ngetting fails\n"), "{problem}");

    let record = site.run(json!({"code": "print x", "job_type": "broken"})).await;
    assert_eq!(record["error"]["type"], "dependency_error", "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("getting fails"), "{record:#}");
    assert_eq!(site.builds(), 1, "the failure of a moment ago stands");
    assert_eq!(site.count("BuildFailed").await, 1);
    let (_, builds) = site.world.get("/builds").await;
    assert_eq!((&builds[0]["status"], &builds[0]["job_type"]), (&json!("failed"), &json!("broken")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_when_it_is_cancelled_and_at_its_time_limit() {
    let site = Site::start(
        |config| {
            with("endless", &["hangs"])(config);
            config.build.timeout = Duration::from_millis(1500);
        },
        None,
    )
    .await;
    let cancel = async {
        let id = loop {
            let (_, builds) = site.world.get("/builds").await;
            if let Some(id) = builds[0]["build_id"].as_str() {
                break id.to_owned();
            }
        };
        site.world.post(&format!("/builds/{id}/cancel"), json!({})).await
    };
    let ((status, problem), (cancelled, build)) = tokio::join!(site.build("endless"), cancel);
    assert_eq!((status, cancelled), (503, 200), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("cancelled"), "{problem}");
    assert_eq!(build["status"], "failed", "{build}");
    let (status, problem) = site.build("endless").await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("raise build.timeout"), "{problem}");
    assert_eq!(site.count("BuildFailed").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_a_build_can_be_cancelled() {
    let site = Site::start(with("endless", &["hangs"]), None).await;
    let (_, accepted) = site.world.post("/jobs", json!({"code": "print x", "job_type": "endless"})).await;
    let id = accepted["execution_id"].as_str().unwrap().to_owned();
    while site.builds() == 0 {
        tokio::task::yield_now().await;
    }
    let (status, _) = site.world.post(&format!("/jobs/{id}/cancel"), json!({})).await;
    assert_eq!(status, 200);
    let record = site.world.ended(id.parse().unwrap()).await;
    assert_eq!(record["status"], "cancelled", "{record:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builds_log_is_followed_while_it_is_written_and_read_again_after() {
    let gate = Arc::new(Semaphore::new(0));
    let site = Site::start(with("report", &["pandas==2.2.3"]), Some(&gate)).await;
    let url = format!("{}/job-types/report/build", site.world.url);
    let answer = site.world.http.post(&url).header("accept", "text/event-stream").send().await.unwrap();
    let mut pieces = answer.bytes_stream();
    let mut text = String::new();
    while !text.contains("data: building report") {
        text.push_str(&String::from_utf8_lossy(&pieces.next().await.unwrap().unwrap()));
    }
    assert!(!text.contains("event: built"), "{text}");
    gate.add_permits(1);
    while let Some(piece) = pieces.next().await {
        text.push_str(&String::from_utf8_lossy(&piece.unwrap()));
    }
    let events: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["build", "log", "log", "built"], "{text}");
    assert!(text.contains("data: getting pandas==2.2.3\n"), "{text}");

    let (_, builds) = site.world.get("/builds").await;
    let id = builds[0]["build_id"].as_str().unwrap();
    let url = format!("{}/builds/{id}/log", site.world.url);
    let rest = site.world.http.get(&url).header("last-event-id", "1").send().await.unwrap().text().await.unwrap();
    let events: Vec<_> = rest.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["log", "built"], "{rest}");
}
