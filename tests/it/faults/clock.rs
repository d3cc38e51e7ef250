//! Servers whose clocks are an hour off, on one database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::life::Life;
use super::postgres::SETTINGS;
use super::{demand_invariants, stop};
use crate::db::{self, Db};
use crate::world;

/// What gives a process another time, where it is installed.
fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// How far a server's clock is ahead of this process's, by what it says itself.
async fn ahead(url: &str) -> TimeDelta {
    let answer = reqwest::get(format!("{url}/livez")).await.unwrap();
    let date = DateTime::parse_from_rfc2822(answer.headers()["date"].to_str().unwrap()).unwrap();
    date.to_utc() - Utc::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_clocks_are_an_hour_off_lose_and_double_nothing() {
    let Some(library) = libfaketime() else {
        eprintln!(
            "skipped: servers_whose_clocks_are_an_hour_off_lose_and_double_nothing: libfaketime is not installed"
        );
        return;
    };
    let library = library.to_str().unwrap();
    let db = db::fresh().await;
    let began: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&db.admin).await.unwrap();
    let same = Db { store: db.store.clone(), options: db.options.clone(), admin: db.admin.clone() };
    let mut lives = [Life::new(same, SETTINGS), Life::new(db, SETTINGS)];
    for (life, (offset, hours)) in lives.iter_mut().zip([("+1h", 1), ("-1h", -1)]) {
        let environment = [
            ("LD_PRELOAD", library),
            ("FAKETIME", offset),
            // A clock that is wrong, not one that runs wrong.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
        ];
        life.node.start_with(&environment);
        let wrong = ahead(&life.node.url().await).await - TimeDelta::hours(hours);
        assert!(wrong.abs() < TimeDelta::minutes(1), "its clock is not off by {offset}, but {wrong} from that");
    }
    let mut jobs = Vec::new();
    for number in 0..12 {
        let seconds = if number < 4 { 4 } else { 0 };
        let body = json!({"code": format!("import time; time.sleep({seconds})"), "timeout": 30});
        jobs.push(lives[number % 2].job(&format!("job-{number}"), body).await.unwrap());
    }
    for (number, id) in jobs.into_iter().enumerate() {
        // Asked of the other than it was given to.
        let record = lives[(number + 1) % 2].ended(id).await.unwrap();
        assert_eq!((&record["status"], &record["attempt"]), (&json!("succeeded"), &json!(1)), "{record:#}");
    }
    // Long enough for each to have taken the other for dead.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for life in &mut lives {
        stop(&mut life.node).await;
    }
    let life = &lives[1];
    for (event, times) in [("JobSubmitted", 12), ("ExecutionSucceeded", 12), ("LeaseExpired", 0), ("NodeStopped", 2)] {
        assert_eq!(life.count(event).await, times, "{event}");
    }
    let (first, last, now): (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("SELECT min(recorded_at), max(recorded_at), clock_timestamp() FROM events")
            .fetch_one(&life.db.admin)
            .await
            .unwrap();
    let tolerated = TimeDelta::seconds(5);
    assert!(first > began - tolerated && last < now + tolerated, "{first} to {last}, in {began} to {now}");
    demand_invariants(&life.db.options.url, true);
    world::check_log(&life.db.options, true, Arc::default()).await;
}
