//! The disk below the database, and the one below the server's own files, is full for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::Connection as _;
use tako_vm::store::{ObjectOptions, ObjectPlace, Objects};

use super::life::Life;
use super::postgres::{Load, SETTINGS, endure};
use super::read_only::readiness;
use super::server::Postgres;
use super::tmpfs::Tmpfs;
use super::{demand_invariants, stop};
use crate::{db, world};

/// Keeps the disk full, whatever the database gives back, until clients were told "later" so often more.
async fn keep_full(disk: &Tmpfs, load: &Load, times: usize) {
    let (deadline, told) = (Instant::now() + Duration::from_secs(60), load.later());
    while load.later() < told + times {
        disk.fill();
        assert!(Instant::now() < deadline, "nobody was told that nothing can be stored");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_room_for_its_tables_loses_nothing() {
    let Some(disk) = Tmpfs::mount("a_database_without_room_for_its_tables_loses_nothing", 192) else { return };
    let postgres = Postgres::start_in(disk.folder("pg"), &[], &[]);
    endure(postgres, async |postgres, load| {
        keep_full(&disk, load, 30).await;
        assert!(postgres.log().contains("could not extend file"), "{}", postgres.log());
        let problem = readiness(&load.url, 503).await;
        assert_eq!(problem["detail"], "the database takes no writes: its disk is full", "{problem}");
        disk.make_room();
        readiness(&load.url, 200).await;
    })
    .await;
}

/// Heartbeats go on without room, and a node that is not ready is sent nothing to append.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_sent_nothing_finds_by_itself_that_there_is_room_again() {
    let Some(disk) = Tmpfs::mount("a_node_that_is_sent_nothing_finds_by_itself_that_there_is_room_again", 192) else {
        return;
    };
    let postgres = Postgres::start_in(disk.folder("pg"), &[], &[]);
    let mut life = Life::new(postgres.db().await, SETTINGS);
    life.node.start();
    let url = life.node.url().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        disk.fill();
        let job = json!({"code": comment(2_000)});
        let answer = reqwest::Client::new().post(format!("{url}/jobs")).json(&job).send().await.unwrap();
        if answer.status() == 503 {
            break;
        }
        assert!(Instant::now() < deadline, "there is always room");
    }
    readiness(&url, 503).await;
    // For as long as several heartbeats take.
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        readiness(&url, 503).await;
    }
    disk.make_room();
    readiness(&url, 200).await;
    life.settled().await.unwrap();
    stop(&mut life.node).await;
    demand_invariants(&life.db.options.url, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_room_for_its_log_loses_nothing() {
    let Some(disk) = Tmpfs::mount("a_database_without_room_for_its_log_loses_nothing", 192) else { return };
    let postgres = Postgres::start_in(disk.folder("pg"), &["--wal-segsize=1"], &[]);
    endure(postgres, async |postgres, load| {
        disk.fill();
        panics(postgres).await;
        keep_full(&disk, load, 10).await;
        disk.make_room();
        // It goes on by itself, unless it wanted to while there was no room.
        if !postgres.is_running() {
            postgres.run();
        }
    })
    .await;
}

/// Writes to the database's log until there is no room for it.
async fn panics(postgres: &Postgres) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !postgres.log().contains("PANIC") {
        assert!(Instant::now() < deadline, "{}", postgres.log());
        if let Ok(mut connection) = sqlx::PgConnection::connect(&postgres.url()).await {
            let write = "SELECT pg_logical_emit_message(false, 'tako', repeat('x', 500000))";
            while sqlx::query(write).execute(&mut connection).await.is_ok() {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A text of so many bytes that no other test has, as a comment.
fn comment(length: usize) -> String {
    format!("# {}\n", uuid::Uuid::new_v4().simple().to_string().repeat(length / 32))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_its_files_refuses_what_is_large_and_runs_what_is_small() {
    let Some(disk) =
        Tmpfs::mount("a_server_without_room_for_its_files_refuses_what_is_large_and_runs_what_is_small", 32)
    else {
        return;
    };
    let data = disk.folder("data");
    let settings = SETTINGS.replace("store: postgres", "store: local");
    let mut life = Life::new(db::fresh().await, &settings);
    std::os::unix::fs::symlink(&data, life.node.path("data")).unwrap();
    life.node.start();
    let url = life.node.url().await;
    let http = reqwest::Client::new();
    let submit = async |code: String| {
        let answer = http.post(format!("{url}/jobs")).json(&json!({ "code": code })).send().await.unwrap();
        let (status, wait) = (answer.status().as_u16(), answer.headers().get("retry-after").cloned());
        (status, wait.is_some(), answer.json::<Value>().await.unwrap())
    };
    let id = |answer: &Value| answer["execution_id"].as_str().unwrap().parse().unwrap();

    let (status, _, answer) = submit(comment(40_000) + "print('before')").await;
    assert_eq!(status, 202, "{answer}");
    let mut jobs = vec![id(&answer)];
    life.ended(jobs[0]).await.unwrap();

    disk.fill();
    for round in 0..5 {
        let (status, says_when, problem) = submit(comment(40_000) + "print('never')").await;
        assert_eq!((status, says_when), (503, true), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("large blobs"), "{problem}");
        let (status, _, answer) = submit(format!("print('small {round}')")).await;
        assert_eq!(status, 202, "{answer}");
        jobs.push(id(&answer));
        let record = life.ended(id(&answer)).await.unwrap();
        assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{record:#}");
    }
    // What a job leaves is kept until there is room.
    let (status, _, answer) = submit("import os; print(os.urandom(20_000).hex())".to_owned()).await;
    assert_eq!(status, 202, "{answer}");
    jobs.push(id(&answer));
    life.becomes(id(&answer), &["running"]).await.unwrap();
    let waits = Instant::now() + Duration::from_secs(60);
    while !life.node.log().contains("a job waits for") {
        assert!(Instant::now() < waits, "{}", life.node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    disk.make_room();
    let record = life.ended(id(&answer)).await.unwrap();
    assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{record:#}");
    assert_eq!(record["stdout"].as_str().unwrap().len(), 40_001, "{record:#}");
    jobs.push(life.job("large again", json!({"code": comment(40_000) + "print('after')"})).await.unwrap());
    for id in &jobs {
        assert_eq!(life.ended(*id).await.unwrap()["status"], "succeeded");
    }
    assert_eq!(life.get("/readyz").await.unwrap().0, 200);
    let kept = json!({"store": "local", "available": true, "circuit_open": false});
    assert_eq!(life.get("/health").await.unwrap().1["blobs"], kept);

    stop(&mut life.node).await;
    for event in ["JobSubmitted", "ExecutionSucceeded"] {
        assert_eq!(life.count(event).await, jobs.len() as i64, "{event}");
    }
    demand_invariants(&life.db.options.url, false);
    let options =
        ObjectOptions { into: ObjectPlace::Folder, folder: Some(data.join("blobs")), ..ObjectOptions::default() };
    world::check_log(&life.db.options, true, Arc::new(Objects::open(&options).unwrap())).await;
}
