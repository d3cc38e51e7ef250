//! What is let go, when, and what stays.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tako_vm::config::{Config, JobType, RetentionOverride};
use tako_vm::domain::Digest;
use uuid::Uuid;

use crate::db::{self, Db};
use crate::past::{Past, age};
use crate::world::{World, scripted};

fn often(config: &mut Config) {
    config.retention.every = Duration::from_millis(50);
}

/// Makes every byte that is kept as old as its execution could be.
async fn age_blobs(db: &Db) {
    sqlx::query("UPDATE blobs SET created_at = now() - interval '400 days'").execute(&db.admin).await.unwrap();
}

async fn is_there(world: &World, text: &str) -> bool {
    world.store().missing_blobs(&[Digest::of(text.as_bytes())]).await.unwrap().is_empty()
}

/// Waits until a question has that status.
async fn becomes(world: &World, path: &str, wanted: u16) -> Value {
    loop {
        let (status, body) = world.get(path).await;
        if status == wanted {
            return body;
        }
        assert_eq!(status, 200, "{body}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until as many rounds of retention were recorded.
async fn applied(world: &World, rounds: i64) {
    loop {
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'RetentionApplied'")
            .fetch_one(&world.db.admin)
            .await
            .unwrap();
        if found >= rounds {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn rows(world: &World, table: &str, id: Uuid) -> i64 {
    let count = format!("SELECT count(*) FROM {table} WHERE execution_id = $1");
    sqlx::query_scalar(AssertSqlSafe(count)).bind(id).fetch_one(&world.db.admin).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_execution_is_gone_from_the_records_and_its_stream_stays_and_verifies() {
    let db = db::fresh().await;
    let old = Past { days: 100, code: "old", stdout: "old out", idempotency_key: Some("order-1"), ..Past::default() };
    let old = old.append(&db).await;
    let young = Past { days: 80, code: "young", idempotency_key: Some("order-2"), ..Past::default() }.append(&db).await;
    age_blobs(&db).await;
    let mut world = World::start_on(db, often, scripted());
    world.keeps_blobs = false;
    let gone = becomes(&world, &format!("/executions/{old}"), 410).await;
    assert!(gone["detail"].as_str().unwrap().contains("expired at"), "{gone}");
    applied(&world, 1).await;
    for path in [format!("/jobs/{old}"), format!("/jobs/{old}/result"), format!("/executions/{old}/lineage")] {
        assert_eq!(world.get(&path).await.0, 410, "{path}");
    }
    for table in ["executions", "endings", "idempotency_keys"] {
        assert_eq!((rows(&world, table, old).await, rows(&world, table, young).await), (0, 1), "{table}");
    }
    let (_, list) = world.get("/executions").await;
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["execution_id"]), (1, &json!(young)));
    // The facts stay, and so does their proof.
    assert_eq!(world.event_names(old).await.last(), Some(&"ExecutionExpired"));
    assert_eq!(world.get(&format!("/jobs/{old}/events")).await.1["count"], 5);
    assert_eq!(world.get(&format!("/executions/{old}/proof")).await.0, 200);
    let (status, refused) = world.post(&format!("/executions/{old}/replay"), json!({})).await;
    assert_eq!((status, &refused["verdict"], &refused["cause"]), (200, &json!("refused"), &json!("blob_gone")));
    assert_eq!(world.post(&format!("/jobs/{old}/rerun"), json!({})).await.0, 410);
    // Its key may be used again; the other's still stands for the first.
    for (key, status) in [("order-1", 202), ("order-2", 409)] {
        let body = json!({"code": "print", "idempotency_key": key});
        assert_eq!(world.post("/jobs", body).await.0, status, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_when_no_execution_that_keeps_them_names_them() {
    let db = db::fresh().await;
    let old = Past { days: 40, code: "only old", stdout: "shared", ..Past::default() }.append(&db).await;
    let young = Past { days: 10, code: "only young", stdout: "shared", ..Past::default() }.append(&db).await;
    age_blobs(&db).await;
    let mut world = World::start_on(db, often, scripted());
    world.keeps_blobs = false;
    applied(&world, 1).await;
    for (text, stays) in [("only old", false), ("shared", true), ("{}", true), ("only young", true)] {
        assert_eq!(is_there(&world, text).await, stays, "{text}");
    }
    let record = world.get(&format!("/executions/{old}?view=full")).await;
    assert_eq!((record.0, &record.1["stdout"], &record.1["status"]), (200, &json!("shared"), &json!("succeeded")));
    assert_eq!(world.get(&format!("/jobs/{old}/artifacts/_code.py")).await.0, 410);
    assert_eq!(world.get(&format!("/executions/{young}")).await.1["stdout"], "shared");
    let (status, refused) = world.post(&format!("/executions/{old}/replay"), json!({})).await;
    assert_eq!((status, &refused["cause"]), (200, &json!("blob_gone")), "{refused}");
    assert!(refused["reason"].as_str().unwrap().contains("its code"), "{refused}");
    assert_eq!(world.event_names(old).await.last(), Some(&"ReplayVerdictRecorded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_a_job_in_progress_names_stay_however_old_they_are() {
    let db = db::fresh().await;
    Past { days: 40, code: "sleep 20000", stdout: "only old", ..Past::default() }.append(&db).await;
    let mut world = World::start_on(db, |config| config.max_workers = 1, scripted());
    world.keeps_blobs = false;
    let id = world.submit("sleep 20000").await;
    age_blobs(&world.db).await;
    world.url = world.join(often, scripted());
    applied(&world, 1).await;
    assert!(!is_there(&world, "only old").await && is_there(&world, "sleep 20000").await);
    world.post(&format!("/jobs/{id}/cancel"), json!({})).await;
    world.ended(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_and_a_job_type_have_times_of_their_own() {
    let db = db::fresh().await;
    let past = |tenant, job_type, days| Past { tenant, job_type, days, ..Past::default() };
    let mut ids = Vec::new();
    for (tenant, job_type, days) in [
        ("default", "quick", 6),
        ("default", "quick", 4),
        ("default", "default", 6),
        ("keeps", "quick", 4000),
        ("default", "default", 91),
    ] {
        ids.push(past(tenant, job_type, days).append(&db).await);
    }
    let configure = |config: &mut Config| {
        often(config);
        let own = RetentionOverride { records_days: Some(5), blobs_days: None };
        let quick = JobType { name: "quick".to_owned(), retention: Some(own), ..JobType::default() };
        config.job_types.insert(quick.name.clone(), quick);
        let for_ever = RetentionOverride { records_days: Some(0), blobs_days: Some(0) };
        config.retention.tenants.insert("keeps".to_owned(), for_ever);
    };
    let mut world = World::start_on(db, configure, scripted());
    world.keeps_blobs = false;
    applied(&world, 1).await;
    let mut kept = Vec::new();
    for id in &ids {
        kept.push(rows(&world, "executions", *id).await);
    }
    assert_eq!(kept, [0, 1, 1, 1, 0]);
    let days = |event: &tako_vm::domain::Envelope| match &event.event {
        tako_vm::domain::Event::ExecutionExpired(expired) => Some(expired.records_days),
        _ => None,
    };
    assert_eq!(world.events(ids[0]).await.iter().find_map(days), Some(5));
    assert_eq!(world.events(ids[4]).await.iter().find_map(days), Some(90));
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_streams_are_archived_and_dropped_on_the_command_line() {
    let db = db::fresh().await;
    age(&db).await;
    let old = Past { days: 100, ..Past::default() }.append(&db).await;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let configure = |config: &mut Config| {
        often(config);
        config.data_dir = data_dir.clone();
    };
    let mut world = World::start_on(db, configure, scripted());
    becomes(&world, &format!("/executions/{old}"), 410).await;
    world.stop_first(Duration::from_secs(5)).await;
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        command.arg("audit").args(args).current_dir(folder.path()).env("HOME", folder.path());
        command.env("TAKO_VM_DATA_DIR", &data_dir).env("TAKO_VM_DATABASE_URL", &world.db.options.url);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = run(&["archive", "--before", "2001-01-01", "--out", "none"]);
    assert!(code == Some(1) && said.contains("no partition ends before"), "{said}");
    let day = chrono::Utc::now().format("%Y-%m-01").to_string();
    let archive = ["archive", "--before", &day, "--drop", "--out", "old.ndjson"];
    let (code, said) = run(&archive);
    assert!(code == Some(0) && said.contains("dropped 1 partitions"), "{said}");
    let (code, said) = run(&["verify", "--archive", "old.ndjson"]);
    assert!(code == Some(0) && said.ends_with("OK\n"), "{said}");
    let (code, said) = run(&["verify"]);
    assert!(code == Some(0) && said.contains("were archived; check the archives"), "{said}");
    let text = std::fs::read_to_string(folder.path().join("old.ndjson")).unwrap();
    assert!(text.contains(&old.to_string()) && world.events(old).await.is_empty());
    let said: String = sqlx::query_scalar("SELECT payload->>'archive' FROM events WHERE event_type = 'LogArchived'")
        .fetch_one(&world.db.admin)
        .await
        .unwrap();
    assert_eq!(said, Digest::of(text.as_bytes()).to_string());
    // What was appended last of all is not sealed: no server runs.
    world.is_checked = false;
}
