//! Images that go when there is no room for more.

use serde_json::{Value, json};

use super::Site;

/// A site where two of the scripted engine's images have room; each has 1000 bytes.
async fn narrow() -> Site {
    Site::start(|config| config.build.disk_budget = 2_500, None).await
}

async fn define(site: &Site, name: &str, requirement: &str, retention: Value) -> String {
    let body = json!({"name": name, "requirements": [requirement], "image_retention": retention});
    let (mut status, mut answer) = site.put(&format!("/job-types/{name}"), body.clone()).await;
    if status == 404 {
        (status, answer) = site.world.post("/job-types", body).await;
    }
    assert!(status == 200 || status == 201, "{answer}");
    let (status, built) = site.build(name).await;
    assert_eq!(status, 200, "{built}");
    built["version"].as_str().unwrap().to_owned()
}

async fn versions(site: &Site) -> Vec<String> {
    let (status, images) = site.world.get("/images").await;
    assert_eq!(status, 200, "{images}");
    let mut versions: Vec<_> =
        images["items"].as_array().unwrap().iter().map(|item| item["version"].as_str().unwrap().to_owned()).collect();
    versions.sort();
    versions
}

async fn collected(site: &Site, dry_run: bool) -> Value {
    let (status, room) = site.world.post(&format!("/images/gc?dry_run={dry_run}"), json!({})).await;
    assert_eq!(status, 200, "{room}");
    room
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_budget_the_least_recently_used_goes_and_can_be_built_again() {
    let site = narrow().await;
    let one = define(&site, "a", "one", json!({})).await;
    let two = define(&site, "a", "two", json!({})).await;
    // Used again, the older is not the least recently used.
    let record = site.run(json!({"code": "print 1", "job_type": one})).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    let three = define(&site, "a", "three", json!({})).await;
    collected(&site, false).await;
    let mut left = vec![one.clone(), three.clone()];
    left.sort();
    assert_eq!(versions(&site).await, left, "{two} goes");

    let builds = site.builds();
    let record = site.run(json!({"code": "print 1", "job_type": two})).await;
    assert_eq!((&record["status"], site.builds()), (&json!("succeeded"), builds + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_keeps_stays_whatever_the_budget() {
    let site = narrow().await;
    let keep = json!({"keep_versions": 3});
    for requirement in ["one", "two", "three"] {
        define(&site, "kept", requirement, keep.clone()).await;
    }
    let recent = json!({"keep_days": 1});
    for requirement in ["four", "five"] {
        define(&site, "recent", requirement, recent.clone()).await;
    }
    let room = collected(&site, false).await;
    assert_eq!((&room["removed"], &room["size_bytes"]), (&json!([]), &json!(5000)), "{room}");
    let (_, images) = site.world.get("/images").await;
    let pins: Vec<_> = images["items"].as_array().unwrap().iter().map(|item| item["pinned"].as_str()).collect();
    assert!(pins.iter().all(Option::is_some), "{images:#}");

    let six = define(&site, "kept", "one", json!({"keep_versions": 1})).await;
    let dry = collected(&site, true).await;
    assert_eq!(dry["removed"].as_array().unwrap().len(), 2, "{dry}");
    assert_eq!(versions(&site).await.len(), 5, "so far it was only said");
    collected(&site, false).await;
    let left = versions(&site).await;
    assert!(left.contains(&six) && left.len() == 3, "{left:?}");
}
