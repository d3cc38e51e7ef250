//! What is refused: mistakes with what mends them, and attempts to put more into a build than packages.

use serde_json::{Value, json};

use super::Site;

/// Bodies of a job type, the field that is to blame, and what the answer says of it.
fn wrong() -> Vec<(Value, &'static str, &'static str)> {
    let long = "a".repeat(65);
    vec![
        (json!({"name": "../x"}), "name", "1 to 64 of a-z"),
        (json!({"name": "x\nRUN id"}), "name", "1 to 64 of a-z"),
        (json!({"name": "x:latest"}), "name", "1 to 64 of a-z"),
        (json!({"name": "x;id"}), "name", "1 to 64 of a-z"),
        (json!({"name": "-rm"}), "name", "1 to 64 of a-z"),
        (json!({"name": long}), "name", "1 to 64 of a-z"),
        (json!({"name": "X"}), "name", "1 to 64 of a-z"),
        (json!({"requirements": ["--index-url=http://evil"]}), "requirements[0]", "option of pip"),
        (json!({"requirements": ["ok", "-r /etc/passwd"]}), "requirements[1]", "option of pip"),
        (json!({"requirements": ["numpy\nRUN id"]}), "requirements[0]", "on one line"),
        (json!({"requirements": ["numpy; $(id)"]}), "requirements[0]", "marker"),
        (json!({"requirements": ["x @ file:///etc/passwd"]}), "requirements[0]", "refers to a place"),
        (json!({"requirements": ["x @ https://example.org/x.whl"]}), "requirements[0]", "refers to a place"),
        (json!({"requirements": ["numpy --hash=sha256:00"]}), "requirements[0]", "numpy>=2,<3"),
        (json!({"requirements": ["${HOME}"]}), "requirements[0]", "begin with its name"),
        (json!({"requirements": "numpy"}), "requirements", "sequence"),
        (json!({"python_version": "3.11\nRUN id"}), "python_version", "must be like"),
        (json!({"python_version": "2.7"}), "python_version", "must be like"),
        (json!({"base_image": "x\nRUN id"}), "base_image", "is not allowed here"),
        (json!({"base_image": "-x"}), "base_image", "not an image reference"),
        (json!({"base_image": "$(id)"}), "base_image", "is not allowed here"),
        (json!({"environment": {"A=B": "x"}}), "environment.A=B", "not the name of a variable"),
        (json!({"environment": {"A\nB": "x"}}), "environment.A\nB", "not the name of a variable"),
        (json!({"environment": {"A": "x\u{0}y"}}), "environment.A", "without NUL"),
        (json!({"environment": {"A": 1}}), "environment.A", "must be text"),
        (json!({"shared_code": {"../../etc/cron.d/x": ""}}), "shared_code", "not a file name"),
        (json!({"shared_code": {"/etc/passwd": ""}}), "shared_code", "not a file name"),
        (json!({"shared_code": {"a\nRUN id": ""}}), "shared_code", "not a file name"),
        (json!({"shared_code": {}}), "shared_code", "holds no file"),
        (json!({"shared_code": "/etc/passwd"}), "shared_code", "the files themselves"),
        (json!({"preload": ["os; import x"]}), "preload[0]", "not the name of a module"),
        (json!({"preload": ["os\nimport"]}), "preload[0]", "not the name of a module"),
        (json!({"memory_limit": "1k"}), "memory_limit", "out of bounds"),
        (json!({"timeout": 1e9}), "timeout", "out of bounds"),
        (json!({"cpu_limit": -1}), "cpu_limit", "out of bounds"),
        (json!({"image_retention": {"keep_versions": 0}}), "image_retention.keep_versions", "out of bounds"),
        (json!({"memry_limit": "1g"}), "memry_limit", "did you mean `memory_limit`?"),
        (json!({"pool": {"min_idel": 1}}), "pool.min_idel", "did you mean `min_idle`?"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_definition_is_refused_with_the_field_and_what_mends_it() {
    let site = Site::start(|_| {}, None).await;
    for (mut body, field, hint) in wrong() {
        if body.get("name").is_none() {
            body["name"] = json!("tried");
        }
        let (status, problem) = site.world.post("/job-types", body.clone()).await;
        assert_eq!(status, 422, "{body}: {problem}");
        let errors = problem["errors"].as_array().unwrap();
        let said = errors.iter().find(|error| error["field"] == field);
        let said = said.unwrap_or_else(|| panic!("{body}: nothing of {field}: {problem}"));
        assert!(said["message"].as_str().unwrap().contains(hint), "{body}: {problem}");
    }
    // Nothing of it left a trace.
    assert_eq!(site.count("JobTypeDefined").await, 0);
    assert_eq!(site.world.get("/job-types/tried").await.0, 404);
    let twice = site.world.http.post(format!("{}/job-types", site.world.url)).body(r#"{"name": "a", "name": "b"}"#);
    assert_eq!(twice.send().await.unwrap().status(), 422);
    for body in ["", "[]", "{", "nonsense"] {
        let answer = site.world.http.post(format!("{}/job-types", site.world.url));
        let answer = answer.header("content-type", "application/json").body(body).send().await.unwrap();
        assert!((400..=422).contains(&answer.status().as_u16()), "{body:?}");
    }
    let (status, problem) = site.put("/job-types/tried", json!({"name": "other"})).await;
    assert_eq!(status, 422, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requirements_of_a_job_cannot_speak_to_pip_or_to_a_shell() {
    let site = Site::start(|config| config.allow_runtime_requirements = true, None).await;
    for bad in ["--pre", "-e .", "x; rm -rf /", "x\n--index-url http://evil", "../x", "x @ file:///", "`id`", ""] {
        let (status, problem) = site.world.post("/jobs", json!({"code": "print 1", "requirements": [bad]})).await;
        assert_eq!(status, 422, "{bad:?}: {problem}");
        assert_eq!(problem["errors"][0]["field"], "requirements", "{bad:?}: {problem}");
    }
    assert_eq!(site.builds(), 0);
    for (path, wanted) in [
        ("/job-types/default@sha256:%0aRUN/build", 404),
        ("/job-types/..%2f..%2fetc/build", 404),
        ("/job-types/default/build?version_tag=a%0aRUN", 422),
        ("/job-types/default/build?version_tag=../x", 422),
    ] {
        assert_eq!(site.world.post(path, json!({})).await.0, wanted, "{path}");
    }
}
