//! On the engine that runs nothing.

use serde_json::json;
use tako_vm::domain::Event;

use super::*;
use crate::world::scripted;

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_named_and_never_read() {
    let world = world(scripted()).await;
    let first = set(&world, "API_KEY", VALUE).await;
    let second = set(&world, "API_KEY", &VALUE.to_uppercase()).await;
    assert!(second > first);
    let (status, listed) = world.get("/secrets").await;
    assert_eq!(
        (status, &listed["items"][0]["name"], &listed["items"][0]["version"]),
        (200, &json!("API_KEY"), &json!(second))
    );
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    demand_absent(&listed.to_string(), VALUE);
    assert_eq!(world.get("/secrets/API_KEY").await.0, 405);

    assert_eq!(remove(&world, "API_KEY").await.0, 200);
    assert_eq!(remove(&world, "API_KEY").await.0, 404);
    assert!(set(&world, "API_KEY", VALUE).await > second, "no version is given twice");
    let log = world.store().log_events(0, &[], 1000).await.unwrap();
    let names: Vec<_> =
        log.iter().map(|event| event.event_type.as_str()).filter(|name| name.starts_with("Secret")).collect();
    assert_eq!(names, ["SecretSet", "SecretSet", "SecretRemoved", "SecretSet"]);
    let dump = dump(&world.db.admin).await;
    demand_absent(&dump, VALUE);
    demand_absent(&dump, &VALUE.to_uppercase());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_secret_is_refused_and_not_repeated() {
    let world = world(scripted()).await;
    for (name, body) in [
        ("KEY", json!({"value": "short"})),
        ("KEY", json!({"value": "x".repeat((64 << 10) + 1)})),
        ("KEY", json!({})),
        ("KEY", json!({"base64": "%hunter2hunter2"})),
        ("KEY", json!({"value": "hunter2hunter2", "base64": ""})),
        ("1KEY", json!({"value": "hunter2hunter2"})),
        ("K-EY", json!({"value": "hunter2hunter2"})),
    ] {
        let (status, answer) = put(&world, name, body).await;
        assert_eq!(status, 422, "{answer}");
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
    for (secrets, said) in [
        (json!(["NEVER_SET"]), "secret NEVER_SET is not set"),
        (json!(["A", "A"]), "named twice"),
        (json!(["a b"]), "letters, digits and underscores"),
        (json!({"KEY": "hunter2hunter2"}), "must be a list of names"),
        (json!([{"name": "KEY", "as": "socket"}]), "must be a list of names"),
    ] {
        let (status, answer) = world.post("/jobs", json!({"code": "x", "secrets": secrets})).await;
        let detail = answer["detail"].as_str().unwrap();
        assert!(status == 422 && detail.contains(said), "{answer}");
        assert!(!detail.contains("hunter2"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_there_are_no_secrets_and_every_route_says_so() {
    let world = World::start().await;
    let answers =
        [put(&world, "KEY", json!({"value": VALUE})).await, world.get("/secrets").await, remove(&world, "KEY").await];
    for (status, answer) in answers {
        assert!(status == 503 && answer["detail"].as_str().unwrap().contains("secrets.key_file"), "{answer}");
        demand_absent(&answer.to_string(), VALUE);
    }
    let (status, answer) = world.post("/jobs", json!({"code": "x", "secrets": ["KEY"]})).await;
    assert!(status == 422 && answer["detail"].as_str().unwrap().contains("no key for secrets"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_prints_a_secret_shows_its_name_and_the_log_its_version() {
    let world = world(scripted()).await;
    let version = set(&world, "API_KEY", VALUE).await;
    let code = "print before\nsecret API_KEY\nprint after";
    let id = submit(&world, json!({"code": code, "secrets": ["API_KEY"]})).await;
    let record = world.ended(id).await;
    assert_eq!(record["stdout"], "before\n[secret:API_KEY]\nafter\n", "{record:#}");
    assert_eq!(
        world.event_names(id).await,
        ["JobSubmitted", "JobDequeued", "ExecutionStarted", "SecretsDelivered", "ExecutionSucceeded"]
    );
    let events = world.events(id).await;
    let Event::SecretsDelivered(delivered) = &events[3].event else { panic!("{events:?}") };
    assert_eq!((delivered.secrets[0].name.as_str(), delivered.secrets[0].version), ("API_KEY", version));
    let record = world.check(id).await;
    assert_eq!(record.secrets, delivered.secrets);
    demand_absent(&dump(&world.db.admin).await, VALUE);

    // A job that names none gets none, and costs no event more.
    let id = submit(&world, json!({"code": "secret API_KEY"})).await;
    assert_eq!(world.ended(id).await["stdout"], "no such secret\n");
    assert_eq!(world.event_names(id).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_needs_the_very_same_secrets() {
    let world = world(scripted()).await;
    set(&world, "API_KEY", VALUE).await;
    let id = submit(&world, json!({"code": "secret API_KEY", "secrets": ["API_KEY"]})).await;
    world.ended(id).await;
    let replay = async || world.post(&format!("/executions/{id}/replay?wait=30"), json!({})).await;
    let (status, answer) = replay().await;
    assert_eq!((status, &answer["verdict"]), (200, &json!("identical")), "{answer}");

    set(&world, "API_KEY", &VALUE.to_uppercase()).await;
    let (_, changed) = replay().await;
    assert_eq!((&changed["verdict"], &changed["cause"]), (&json!("refused"), &json!("secret_gone")), "{changed}");
    // A rerun takes what there is now.
    let (status, rerun) = world.post(&format!("/jobs/{id}/rerun"), json!({})).await;
    assert_eq!(status, 200, "{rerun}");

    remove(&world, "API_KEY").await;
    let (_, gone) = replay().await;
    assert_eq!((&gone["verdict"], &gone["cause"]), (&json!("refused"), &json!("secret_gone")), "{gone}");
    let (status, rerun) = world.post(&format!("/jobs/{id}/rerun"), json!({})).await;
    assert_eq!(status, 409, "{rerun}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_gone_when_the_job_starts_fails_it_and_says_which() {
    let mut world = World::start_with(
        |config| {
            config.secrets.key = tako_vm::config::Secret::new("5a".repeat(32));
            config.max_workers = 1;
        },
        scripted(),
    )
    .await;
    set(&world, "API_KEY", VALUE).await;
    let first = submit(&world, json!({"code": "sleep 60000", "timeout": 60})).await;
    while !world.event_names(first).await.contains(&"ExecutionStarted") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let waiting = submit(&world, json!({"code": "secret API_KEY", "secrets": ["API_KEY"]})).await;
    remove(&world, "API_KEY").await;
    world.post(&format!("/jobs/{first}/cancel"), json!({})).await;
    let record = world.ended(waiting).await;
    assert_eq!(record["error"]["type"], "config_error", "{record:#}");
    assert!(record["error"]["message"].as_str().unwrap().contains("API_KEY is not set"), "{record:#}");
    world.is_checked = true;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_no_other_tenants_secrets() {
    let keys: Vec<_> = ["one", "two"]
        .map(|tenant| tako_vm::config::ApiKey {
            name: tenant.to_owned(),
            tenant: tenant.to_owned(),
            sha256: tako_vm::config::Secret::new(tako_vm::domain::Digest::of(tenant.as_bytes()).to_string()),
            ..Default::default()
        })
        .into();
    let world = World::start_with(
        |config| {
            config.secrets.key = tako_vm::config::Secret::new("5a".repeat(32));
            config.api_keys = keys;
        },
        scripted(),
    )
    .await;
    let ask = async |method: reqwest::Method, tenant: &str, path: &str, body: Value| {
        let request = world.http.request(method, format!("{}{path}", world.url)).bearer_auth(tenant).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let body = json!({"value": VALUE});
    assert_eq!(ask(reqwest::Method::PUT, "one", "/secrets/API_KEY", body).await.0, 200);
    assert_eq!(ask(reqwest::Method::GET, "two", "/secrets", json!({})).await.1["items"], json!([]));
    let job = json!({"code": "secret API_KEY", "secrets": ["API_KEY"]});
    assert_eq!(ask(reqwest::Method::POST, "two", "/jobs", job).await.0, 422);
    assert_eq!(ask(reqwest::Method::DELETE, "two", "/secrets/API_KEY", json!({})).await.0, 404);
    assert_eq!(ask(reqwest::Method::GET, "one", "/secrets", json!({})).await.1["items"][0]["name"], "API_KEY");
}
