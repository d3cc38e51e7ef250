//! Job types that administrators make over the API, and versions that jobs are pinned to.

use serde_json::{Value, json};
use tako_vm::store::StoredRecipe;

use super::Site;
use crate::world::scripted;

async fn site() -> Site {
    Site::start(|_| {}, None).await
}

fn version(answer: &Value) -> &str {
    answer["version"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_type_is_made_and_changed_by_events_and_never_in_place() {
    let mut site = site().await;
    let made = json!({"name": "report", "requirements": ["pandas==2.2.3"], "memory_limit": "256m"});
    let (status, first) = site.world.post("/job-types", made.clone()).await;
    assert_eq!(status, 201, "{first}");
    assert_eq!(
        (&first["source"], &first["revision"], &first["memory_limit"]),
        (&json!("api"), &json!(1), &json!("256m"))
    );
    assert_eq!(site.world.post("/job-types", made.clone()).await.0, 409);

    let (status, same) = site.put("/job-types/report", made).await;
    assert_eq!((status, &same["unchanged"], &same["revision"]), (200, &json!(true), &json!(1)), "{same}");
    let (status, second) = site.put("/job-types/report", json!({"requirements": ["pandas==2.3.3"]})).await;
    assert_eq!((status, &second["revision"]), (200, &json!(2)), "{second}");
    assert_ne!(version(&first), version(&second));
    assert_eq!(site.count("JobTypeDefined").await, 2);

    // A job of before is pinned to what was then; one of now to what is now.
    for (named, pinned) in [("report", &second), (version(&first), &first), (version(&second), &second)] {
        let record = site.run(json!({"code": "print %i", "job_type": named})).await;
        assert_eq!(record["job_version"], version(pinned), "{record:#}");
        let image = format!("built:report:{}\n", pinned["digest"].as_str().unwrap());
        assert_eq!(record["stdout"], image, "{record:#}");
    }
    assert_eq!(site.builds(), 2);

    // Every node knows it.
    let other = site.world.join(|_| {}, scripted());
    let answer: Value =
        site.world.http.get(format!("{other}/job-types/report")).send().await.unwrap().json().await.unwrap();
    assert_eq!(version(&answer), version(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_runs_on_the_version_of_its_original() {
    let site = site().await;
    let made = json!({"name": "report", "environment": {"A": "1"}, "requirements": ["x"]});
    let (_, first) = site.world.post("/job-types", made).await;
    let record = site.run(json!({"code": "print %i", "job_type": "report"})).await;
    let id = record["execution_id"].as_str().unwrap();
    let (status, _) = site.put("/job-types/report", json!({"environment": {"A": "2"}, "requirements": ["y"]})).await;
    assert_eq!(status, 200);
    let (status, verdict) = site.world.post(&format!("/executions/{id}/replay?wait=30"), json!({})).await;
    // The scripted engine's images are found by their names alone, whatever the digest says.
    assert_eq!(status, 200, "{verdict:#}");
    let replay = verdict["execution_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(site.world.check(replay).await.submitted.job_version, version(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_of_several_versions_is_an_error_that_lists_them() {
    let site = site().await;
    let (_, present) = site.world.get("/job-types/default").await;
    let recipe = |digest: String| StoredRecipe { digest, job_type: "default".to_owned(), recipe: "{}".to_owned() };
    let (one, two) = (format!("beef{}", "0".repeat(60)), format!("beef{}", "1".repeat(60)));
    for digest in [&one, &two] {
        site.world.store().put_recipe(&recipe(digest.clone()), None).await.unwrap();
    }
    let submit = |job_type: String| site.world.post("/jobs", json!({"code": "print 1", "job_type": job_type}));
    let (status, problem) = submit("default@sha256:beef".to_owned()).await;
    assert_eq!(status, 422, "{problem}");
    for digest in [&one, &two] {
        assert!(problem["detail"].as_str().unwrap().contains(&format!("default@sha256:{digest}")), "{problem}");
    }
    let digest = present["digest"].as_str().unwrap();
    for length in [64, 40, 12, 8] {
        let (status, body) = submit(format!("default@sha256:{}", &digest[..length])).await;
        assert_eq!(status, 202, "{length}: {body}");
    }
    for (wrong, hint) in [
        ("default@sha256:", "at least 4"),
        ("default@sha256:bee", "at least 4"),
        ("default@sha256:BEEF", "lowercase"),
        ("default@md5:beef", "at least 4"),
        ("default@sha256:%00", "at least 4"),
        (&format!("default@sha256:{}", "f".repeat(64)), "its present one is"),
        ("defalt", "did you mean \"default\""),
    ] {
        let (status, problem) = submit(wrong.to_owned()).await;
        assert_eq!(status, 422, "{wrong}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(hint), "{wrong}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_files_change_the_version_and_the_configurations_job_types_are_its_own() {
    let site = site().await;
    let with = |text: &str| json!({"name": "lib", "shared_code": {"helpers.py": text}});
    let (status, one) = site.world.post("/job-types", with("x = 1")).await;
    assert_eq!(status, 201, "{one}");
    let (_, two) = site.put("/job-types/lib", with("x = 2")).await;
    let (_, again) = site.put("/job-types/lib", with("x = 1")).await;
    assert_ne!(version(&one), version(&two));
    assert_eq!(version(&one), version(&again), "the same files are the same version");
    assert_eq!(again["revision"], 3);

    let (status, problem) = site.put("/job-types/default", json!({"timeout": 5})).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("in the configuration"), "{problem}");
    assert_eq!(site.put("/job-types/nobody", json!({"timeout": 5})).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn requirements_of_a_job_are_refused_until_they_are_allowed_and_then_built_once() {
    let off = site().await;
    let (status, problem) = off.world.post("/jobs", json!({"code": "print 1", "requirements": ["six==1.17.0"]})).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("allow_runtime_requirements"), "{problem}");

    let on = Site::start(|config| config.allow_runtime_requirements = true, None).await;
    let body = json!({"code": "print %i", "requirements": ["six==1.17.0"]});
    let first = on.run(body.clone()).await;
    let again = on.run(body).await;
    assert_eq!(first["status"], "succeeded", "{first:#}");
    assert_eq!((&first["stdout"], &first["job_version"]), (&again["stdout"], &again["job_version"]));
    assert_eq!((on.builds(), first["job_type"].as_str()), (1, Some("default")));
    let (_, default) = on.world.get("/job-types/default").await;
    assert_ne!(first["job_version"], default["version"]);
    let plain = on.run(json!({"code": "print %i"})).await;
    assert_eq!((&plain["stdout"], &plain["job_version"]), (&json!("scripted\n"), &default["version"]));
    // Rerun, it is the same again.
    let id = first["execution_id"].as_str().unwrap();
    let (_, rerun) = on.world.post(&format!("/jobs/{id}/rerun"), json!({})).await;
    let rerun = on.world.ended(rerun["execution_id"].as_str().unwrap().parse().unwrap()).await;
    assert_eq!((&rerun["job_version"], on.builds()), (&first["job_version"], 1));
}
