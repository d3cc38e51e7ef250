//! Jobs at times.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tako_vm::config::Config;
use tako_vm::domain::{Event, Schedule, SkipCause};
use tako_vm::store::Store;
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::world::{World, scripted};

fn quick(config: &mut Config) {
    config.queue.poll_interval = Duration::from_millis(50);
}

async fn send(world: &World, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
    let answer = world.http.request(method, format!("{}{path}", world.url)).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// The events of a schedule, with its state folded from them and as it is kept.
async fn stream(store: &Store, schedule_id: Uuid) -> (Vec<Event>, Schedule) {
    let (mut events, mut schedule) = (Vec::new(), None);
    for event in store.stream_events(schedule_id, 0, 10_000).await.unwrap() {
        let envelope = event.envelope().unwrap();
        let at = (schedule_id, envelope.version, envelope.recorded_at);
        schedule = Some(Schedule::evolve(schedule, at, &envelope.event).unwrap());
        events.push(envelope.event);
    }
    (events, schedule.unwrap())
}

fn id_of(schedule: &Value) -> Uuid {
    schedule["schedule_id"].as_str().unwrap().parse().unwrap()
}

async fn fired(world: &World, path: &str, times: u64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, schedule) = world.get(path).await;
        assert_eq!(status, 200, "{schedule}");
        if schedule["fired"].as_u64() >= Some(times) {
            return schedule;
        }
        assert!(Instant::now() < deadline, "{schedule:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_fires_at_its_times_until_it_is_paused_and_removed() {
    let world = World::start_with(quick, scripted()).await;
    let body = json!({
        "name": "tick", "cron": "* * * * * *", "timezone": "Europe/Berlin",
        "job": {"code": "print tick", "input_data": {"n": 1}, "tags": {"team": "ops"}},
    });
    let (status, made) = world.post("/schedules", body.clone()).await;
    assert_eq!((status, &made["overlap"], &made["missed"]), (201, &json!("skip"), &json!("skip")), "{made}");
    assert_eq!((&made["job"], made["upcoming"].as_array().unwrap().len()), (&body["job"], 3));
    assert_eq!(world.post("/schedules", body.clone()).await.0, 409);
    let schedule = fired(&world, "/schedules/tick", 2).await;
    let execution: Uuid = schedule["last_fired"]["execution_id"].as_str().unwrap().parse().unwrap();
    let record = world.ended(execution).await;
    assert_eq!((&record["relationship"], &record["parent_execution_id"]), (&json!("scheduled"), &Value::Null));
    assert_eq!((&record["stdout"], &record["tags"]["team"]), (&json!("tick\n"), &json!("ops")));
    assert_eq!(record["schedule"]["due_at"], schedule["last_fired"]["due_at"]);
    assert_eq!(world.event_names(execution).await[..2], ["JobSubmitted", "JobScheduled"]);
    let (_, list) = world.get("/schedules").await;
    assert_eq!((list["count"].as_u64(), &list["items"][0]["name"]), (Some(1), &json!("tick")), "{list}");

    let (status, paused) = world.post("/schedules/tick/pause", json!({})).await;
    assert_eq!((status, &paused["enabled"], &paused["next_due"]), (200, &json!(false), &Value::Null), "{paused}");
    let before = paused["fired"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(world.get("/schedules/tick").await.1["fired"], before);
    assert_eq!(world.post("/schedules/tick/resume", json!({})).await.1["enabled"], true);
    fired(&world, "/schedules/tick", before + 1).await;

    let mut other = body;
    (other["cron"], other["name"]) = (json!("0 0 1 1 *"), Value::Null);
    let (status, changed) = send(&world, reqwest::Method::PUT, "/schedules/tick", other).await;
    assert_eq!((status, &changed["cron"]), (200, &json!("0 0 1 1 *")), "{changed}");
    assert_eq!(send(&world, reqwest::Method::DELETE, "/schedules/tick", json!({})).await.0, 200);
    for path in ["/schedules/tick", "/schedules/none"] {
        assert_eq!(world.get(path).await.0, 404);
    }
    let (events, folded) = stream(world.store(), id_of(&schedule)).await;
    let names: BTreeSet<_> = events.iter().map(|event| event.kind().as_str()).collect();
    for name in ["ScheduleDefined", "ScheduleChanged", "SchedulePaused", "ScheduleResumed", "ScheduleRemoved"] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    let kept: String = sqlx::query_scalar("SELECT state FROM schedules").fetch_one(&world.db.admin).await.unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&kept).unwrap(), folded, "what is kept is the fold of the stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_refused_for_what_a_submission_is_refused_for() {
    let world = World::start_with(quick, scripted()).await;
    for (change, field, said) in [
        (json!({"cron": "every day"}), "cron", "must be a cron expression"),
        (json!({"cron": "* * * *"}), "cron", "it has 4 fields"),
        (json!({"timezone": "Mars/Olympus"}), "timezone", "no IANA time zone"),
        (json!({"name": "a b"}), "name", "1 to 64"),
        (json!({"cron": null}), "cron", "must be given"),
        (json!({"job": null}), "job", "must be given"),
        (json!({"job": {"code": " "}}), "code", "must not be empty"),
        (json!({"job": {"code": "x", "job_type": "nobody"}}), "job_type", "is not known"),
        (json!({"job": {"code": "x", "timeout": 1e9}}), "timeout", "must be from"),
        (json!({"job": {"code": "x", "colour": "red"}}), "colour", "is not a known field"),
        (json!({"job": {"code": "x", "secrets": ["NOT_SET"]}}), "secrets", "cannot be given"),
        (json!({"job": {"code": "x", "idempotency_key": "k"}}), "idempotency_key", "is not for a schedule"),
        (json!({"job": {"code": "x", "not_before": "2030-01-01T00:00:00Z"}}), "not_before", "is not for a schedule"),
        (json!({"overlap": "maybe"}), "overlap", ""),
        (json!({"when": "noon"}), "when", ""),
    ] {
        let mut body = json!({"name": "x", "cron": "0 0 * * *", "job": {"code": "print"}});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (status, problem) = world.post("/schedules", body).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!(field)), "{change}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{change}: {problem}");
    }
    assert_eq!(world.get("/schedules").await.1["count"], 0);
    assert_eq!(
        send(&world, reqwest::Method::PUT, "/schedules/x", json!({"cron": "0 0 * * *", "job": {"code": "p"}})).await.0,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_comes_while_the_last_runs_is_skipped_or_not_as_the_schedule_says() {
    let world = World::start_with(quick, scripted()).await;
    let define = |name: &str, overlap: &str| json!({"name": name, "cron": "* * * * * *", "overlap": overlap, "job": {"code": "sleep 2600"}});
    let (_, alone) = world.post("/schedules", define("alone", "skip")).await;
    let (_, beside) = world.post("/schedules", define("beside", "allow")).await;
    fired(&world, "/schedules/beside", 3).await;
    fired(&world, "/schedules/alone", 2).await;
    for name in ["alone", "beside"] {
        world.post(&format!("/schedules/{name}/pause"), json!({})).await;
    }
    let mut last: Option<DateTime<Utc>> = None;
    let (events, _) = stream(world.store(), id_of(&alone)).await;
    let mut skipped = 0;
    for event in &events {
        match event {
            Event::ScheduleFired(fired) => {
                assert!(last.is_none_or(|last| (fired.due_at - last).num_seconds() >= 3), "{events:#?}");
                last = Some(fired.due_at);
            }
            Event::ScheduleSkipped(skip) => {
                assert_eq!(skip.cause, SkipCause::Overlap);
                assert!(skip.execution_id.is_some());
                skipped += 1;
            }
            _ => {}
        }
    }
    assert!(skipped >= 2, "{events:#?}");
    let (events, _) = stream(world.store(), id_of(&beside)).await;
    assert!(!events.iter().any(|event| matches!(event, Event::ScheduleSkipped(_))), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_at_which_no_node_was_there_are_skipped_or_made_up_for_by_one() {
    let configure = |config: &mut Config| {
        quick(config);
        config.schedules.late_after = Duration::from_secs(1);
    };
    let mut world = World::start_with(configure, scripted()).await;
    let mut ids = BTreeMap::new();
    for missed in ["skip", "once"] {
        let body = json!({
            "name": missed, "cron": "* * * * * *", "missed": missed, "overlap": "allow", "job": {"code": "print"},
        });
        let (status, made) = world.post("/schedules", body).await;
        assert_eq!(status, 201, "{made}");
        ids.insert(missed, id_of(&made));
    }
    fired(&world, "/schedules/once", 1).await;
    world.stop_first(Duration::from_secs(5)).await;
    let down = Utc::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.url = world.join(configure, scripted());
    let up = Utc::now();
    for path in ["/schedules/once", "/schedules/skip"] {
        let before = world.get(path).await.1["fired"].as_u64().unwrap();
        fired(&world, path, before + 2).await;
    }
    for missed in ["skip", "once"] {
        world.post(&format!("/schedules/{missed}/pause"), json!({})).await;
    }
    let (events, _) = stream(world.store(), ids["once"]).await;
    let made_up: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::ScheduleFired(fired) => Some((fired.due_at, fired.missed_since?)),
            _ => None,
        })
        .collect();
    assert_eq!(made_up.len(), 1, "{events:#?}");
    assert!(made_up[0].1 < made_up[0].0 && made_up[0].0 < up, "{made_up:?}");
    let (events, _) = stream(world.store(), ids["skip"]).await;
    let skipped: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::ScheduleSkipped(skip) if skip.cause == SkipCause::Missed => Some(skip.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(skipped.len(), 1, "{events:#?}");
    assert!(skipped[0].due_at < skipped[0].through && skipped[0].through < up);
    let none_fired = events.iter().all(|event| match event {
        Event::ScheduleFired(fired) => fired.due_at <= down || fired.due_at > skipped[0].through,
        _ => true,
    });
    assert!(none_fired, "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_refused_at_its_time_is_told_and_tried_no_more() {
    let world = World::start_with(quick, scripted()).await;
    let body = json!({"name": "once", "cron": "* * * * * *", "job": {"code": "print"}});
    let (_, made) = world.post("/schedules", body).await;
    fired(&world, "/schedules/once", 1).await;
    // As when its job type, or a secret, is gone by then.
    sqlx::query("UPDATE schedule_jobs SET job = '{\"code\": \"x\", \"job_type\": \"gone\"}'")
        .execute(&world.db.admin)
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let skip = loop {
        let (events, _) = stream(world.store(), id_of(&made)).await;
        let refused = events.iter().find_map(|event| match event {
            Event::ScheduleSkipped(skip) if skip.cause == SkipCause::Refused => Some(skip.clone()),
            _ => None,
        });
        if let Some(skip) = refused {
            break skip;
        }
        assert!(Instant::now() < deadline, "{events:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(skip.reason.unwrap().contains("gone"));
    assert!(world.store().record(skip.execution_id.unwrap()).await.unwrap().is_none());
    let pending: i64 =
        sqlx::query_scalar("SELECT count(*) FROM schedules WHERE pending IS NOT NULL AND next_due IS NULL")
            .fetch_one(&world.db.admin)
            .await
            .unwrap();
    assert_eq!(pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_made_listed_paused_and_removed_from_the_shell() {
    let world = World::start_with(quick, scripted()).await;
    let folder = tempfile::tempdir().unwrap();
    let (job, code) = (folder.path().join("job.json"), folder.path().join("main.py"));
    std::fs::write(&job, r#"{"code": "print", "input_data": {"n": 123456789012345678901234567890}}"#).unwrap();
    std::fs::write(&code, "print 1").unwrap();
    let url = world.url.clone();
    let says = move |args: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        let output = command.arg("schedules").args(args).args(["--url", &url]).current_dir("/").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let (job, code) = (job.display().to_string(), code.display().to_string());
    tokio::task::spawn_blocking(move || {
        says(&["add", "nightly", "--cron", "30 4 * * *", "--timezone", "Europe/Berlin", "--job", &job], 0);
        says(&["add", "nightly", "--cron", "30 4 * * *", "--code", &code], 1);
        says(&["add", "nightly", "--cron", "30 5 * * *", "--code", &code, "--replace"], 0);
        says(&["add", "bad", "--cron", "nonsense", "--code", &code], 1);
        says(&["add", "waits", "--cron", "@hourly", "--job", &job, "--paused"], 0);
        let list = says(&["list"], 0);
        assert!(list.contains("nightly") && list.contains("30 5 * * *") && list.contains("paused"), "{list}");
        says(&["pause", "nightly"], 0);
        assert!(says(&["resume", "nightly"], 0).contains("next: 20"));
        let listed: Value = serde_json::from_str(&says(&["list", "--json"], 0)).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 2);
        says(&["remove", "nightly"], 0);
        says(&["remove", "nightly"], 1);
    })
    .await
    .unwrap();
    let kept = world.get("/schedules/waits").await.1;
    assert_eq!(kept["enabled"], false, "{kept}");
}

/// Three nodes fire the same schedule while one after the other is killed: each second has one execution,
/// or is told to be skipped.
#[tokio::test(flavor = "multi_thread")]
async fn every_time_has_one_execution_whichever_node_is_killed() {
    let mut fleet = Fleet::start(&["all", "all", "all"]).await;
    let http = reqwest::Client::new();
    let url = fleet.nodes[0].url().await;
    let body = json!({"name": "tick", "cron": "* * * * * *", "overlap": "allow", "job": {"code": "pass"}});
    let answer = http.post(format!("{url}/schedules")).json(&body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    let schedule_id = id_of(&answer.json().await.unwrap());
    for round in 0..6_usize {
        tokio::time::sleep(Duration::from_millis(1500 + 130 * round as u64)).await;
        let node = &mut fleet.nodes[round % 3];
        node.kill();
        node.start();
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    let fired = "SELECT (state::json ->> 'fired')::bigint FROM schedules";
    while sqlx::query_scalar::<_, i64>(fired).fetch_one(&fleet.db.admin).await.unwrap() < 15 {
        assert!(Instant::now() < deadline, "{}", fleet.nodes[0].log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let url = fleet.nodes[1].url().await;
    let answer = http.post(format!("{url}/schedules/tick/pause")).json(&json!({})).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let (events, schedule) = stream(&fleet.db.store, schedule_id).await;
    let mut times = Vec::new();
    for event in &events {
        match event {
            Event::ScheduleFired(fired) => times.push((fired.due_at, Some(fired.execution_id))),
            Event::ScheduleSkipped(skip) => panic!("{skip:?}"),
            _ => {}
        }
    }
    assert!(times.len() >= 15, "{events:#?}");
    let gaps = times.windows(2).filter(|pair| (pair[1].0 - pair[0].0).num_seconds() != 1).count();
    assert_eq!(gaps, 0, "a time is missing or there twice: {times:#?}");
    // What fired last before a kill may still have to be submitted by another.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let all: i64 = sqlx::query_scalar("SELECT count(*) FROM executions WHERE ended_at IS NOT NULL")
            .fetch_one(&fleet.db.admin)
            .await
            .unwrap();
        if all as usize == times.len() {
            break;
        }
        assert!(Instant::now() < deadline, "{all} executions of {} have ended", times.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (due_at, execution_id) in times {
        let record = fleet.db.store.record(execution_id.unwrap()).await.unwrap().expect("it was submitted").record;
        assert_eq!(record.schedule.as_ref().map(|of| (of.schedule_id, of.due_at)), Some((schedule_id, due_at)));
        assert!(record.is_ended());
    }
    assert_eq!(schedule.fired as i64, count(&fleet, "executions").await);
}

async fn count(fleet: &Fleet, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(sql).fetch_one(&fleet.db.admin).await.unwrap()
}
