//! The past: records as they were, and the log as readers go through it while others write.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::sync::watch;

use super::follow::Reader;
use super::site::run;
use crate::world::World;

const WRITERS: usize = 6;
const JOBS: usize = 15;
const SLOW: usize = 12;

/// Transactions that hold the log's lock for a while with events written, half of which come to
/// nothing. None of them is the server's own.
async fn write_slowly(url: String, number: usize) {
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("SELECT lock_log()").execute(&mut *transaction).await.unwrap();
    sqlx::query(
        "INSERT INTO events (position, event_id, stream_id, version, recorded_at, schema_version, stream_kind, \
             event_type, actor, hash, payload) \
         SELECT p.last + n, gen_random_uuid(), gen_random_uuid(), 1, now(), 1, 1, 'X', '', \
             decode(repeat('00', 32), 'hex'), '{}' \
           FROM (SELECT coalesce(max(position), 0) AS last FROM events) p, generate_series(1, 3) n",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    sqlx::query("SELECT pg_sleep(0.03)").execute(&mut *transaction).await.unwrap();
    match number % 2 {
        0 => transaction.commit().await.unwrap(),
        _ => transaction.rollback().await.unwrap(),
    }
}

async fn get(http: reqwest::Client, url: String) -> Value {
    http.get(url).send().await.unwrap().json().await.unwrap()
}

fn position(event: &Value) -> i64 {
    event["position"].as_i64().unwrap()
}

/// Goes through the log page by page until its end is known and reached.
async fn page_through(http: reqwest::Client, url: String, filter: &str, mut end: watch::Receiver<i64>) -> Vec<Value> {
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let known = *end.borrow_and_update();
        let page = get(http.clone(), format!("{url}/events?limit=3{filter}&after={after}")).await;
        seen.extend(page["items"].as_array().unwrap().iter().cloned());
        let next = page["next_after"].as_i64().unwrap();
        assert!(next >= after && seen.last().is_none_or(|last| position(last) <= next), "{page}");
        after = next;
        if after == known {
            return seen;
        }
    }
}

/// Follows the log, and breaks off after so many events to come again with the last id.
async fn follow(http: reqwest::Client, url: String, breath: usize, mut end: watch::Receiver<i64>) -> Vec<Value> {
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let mut request = http.get(format!("{url}/events")).header("accept", "text/event-stream");
        if let Some(last) = seen.last() {
            request = request.header("last-event-id", position(last).to_string());
        }
        let mut reader = Reader::of(request.send().await.unwrap());
        for _ in 0..breath {
            let known = *end.borrow_and_update();
            if seen.last().map_or(0, position) == known {
                return seen;
            }
            tokio::select! {
                event = reader.next() => {
                    let event = event.unwrap();
                    assert_eq!(event.id, position(&event.data).to_string());
                    assert_eq!(event.event, event.data["type"].as_str().unwrap());
                    seen.push(event.data);
                }
                changed = end.changed() => changed.unwrap(),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_misses_or_repeats_an_event_while_many_write() {
    let mut world = World::start_with(|config| config.max_workers = 8, crate::world::scripted()).await;
    // Some of the writers are raw transactions, whose events have no hashes to speak of.
    world.is_checked = false;
    let (ended, end) = watch::channel(-1);
    let (http, url) = (world.http.clone(), world.url.clone());
    let pages = tokio::spawn({
        let (http, url, end) = (http.clone(), url.clone(), end.clone());
        async move { page_through(http, url, "", end).await }
    });
    let submissions = tokio::spawn({
        let (http, url, end) = (http.clone(), url.clone(), end.clone());
        async move { page_through(http, url, "&type=JobSubmitted", end).await }
    });
    let followers: Vec<_> =
        [1, 7, usize::MAX].map(|breath| tokio::spawn(follow(http.clone(), url.clone(), breath, end.clone()))).into();
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (http, url) = (http.clone(), url.clone());
        writers.push(tokio::spawn(async move {
            for number in 0..JOBS {
                let body = json!({"code": format!("print {number}")});
                let answer = http.post(format!("{url}/execute")).json(&body).send().await.unwrap();
                assert_eq!(answer.status(), 200);
            }
        }));
    }
    for number in 0..SLOW {
        writers.push(tokio::spawn(write_slowly(world.db.options.url.clone(), number)));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let last = world.store().last_position().await.unwrap();
    // At least submitted, dequeued, started, succeeded of each job, and what was written by hand.
    assert!(last > (WRITERS * JOBS * 4 + SLOW / 2 * 3) as i64, "{last}");
    ended.send(last).unwrap();
    let patience = Duration::from_secs(60);
    let all: Vec<_> = (1..=last).collect();
    let mut read = vec![pages];
    read.extend(followers);
    let mut first = None;
    for reader in read {
        let seen = tokio::time::timeout(patience, reader).await.unwrap().unwrap();
        assert_eq!(seen.iter().map(position).collect::<Vec<_>>(), all);
        assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen, "all read the same");
    }
    let wanted: Vec<_> = first.unwrap().into_iter().filter(|event| event["type"] == "JobSubmitted").collect();
    assert_eq!(wanted.len(), WRITERS * JOBS);
    assert_eq!(tokio::time::timeout(patience, submissions).await.unwrap().unwrap(), wanted);
}

#[test]
fn the_log_is_filtered_by_stream_and_time() {
    run(async |site| {
        let (one, two) = (site.ended("print 1").await, site.ended("print 2").await);
        let items = async |query: &str| {
            let page = site.get(&format!("/events?{query}")).await.expect(200);
            (page["items"].as_array().unwrap().clone(), page["next_after"].as_i64().unwrap())
        };
        let (all, end) = items("").await;
        let (of_one, next) = items(&format!("stream={one}")).await;
        assert_eq!(of_one.len(), 4);
        assert!(of_one.iter().all(|event| event["stream_id"] == one));
        assert_eq!(next, end, "a page that is not full reaches to the end of the log");
        let (first, next) = items(&format!("stream={one}&limit=1")).await;
        assert_eq!((&first[0], next), (&of_one[0], position(&of_one[0])));
        let start = all.iter().find(|event| event["stream_id"] == two).unwrap()["recorded_at"].as_str().unwrap();
        let later = items(&format!("since={start}")).await.0;
        let earlier = items(&format!("until={start}")).await.0;
        assert_eq!([earlier, later.clone()].concat(), all);
        assert!(later.iter().all(|event| event["recorded_at"].as_str().unwrap() >= start));
        assert_eq!(items(&format!("stream={two}&since={start}&type=JobSubmitted")).await.0.len(), 1);
        assert_eq!(items("since=2100-01-01T00:00:00Z").await.0, Vec::<Value>::new());
        for bad in ["stream=x", "since=soon", "until=1", "streem=x"] {
            site.get(&format!("/events?{bad}")).await.refused(422);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_steps_through_an_execution_and_shows_it_as_it_was() {
    let world = World::start().await;
    let id = world.submit("print hello\nexit 3").await;
    world.ended(id).await;
    let url = world.url.clone();
    let history = async |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tako-vm"));
        command.arg("history").arg(id.to_string()).args(["--url", &url]).args(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, stepped) = history(&["--step"]).await;
    let at = |text: &str| stepped.find(text).unwrap_or_else(|| panic!("no {text:?} in {stepped}"));
    let order = [
        "JobSubmitted",
        "+ state.state = \"queued\"",
        "JobDequeued",
        "~ attempt = 1, was 0",
        "~ state.state = \"dequeued\", was \"queued\"",
        "ExecutionStarted",
        "+ state.sandbox.hash_seed = \"0\"",
        "ExecutionFailed",
        "+ state.ending.observed.exit_code = 3",
        "~ state.state = \"ended\", was \"running\"",
    ];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{stepped}");

    let (_, first) = history(&["--at-version", "1"]).await;
    assert!(first.contains("status                       \"queued\"") && !first.contains("exit_code"), "{first}");
    let (_, record) = history(&["--at-version", "3", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&record).unwrap()["status"], "running");
    let events = world.get(&format!("/jobs/{id}/events")).await.1;
    let began = events["items"][1]["recorded_at"].as_str().unwrap();
    let (_, record) = history(&["--at", began, "--json"]).await;
    let record: Value = serde_json::from_str(&record).unwrap();
    assert!(record["stream_version"].as_i64().unwrap() >= 2 && record["dequeued_at"] == began, "{record:#}");
    assert_eq!(history(&["--at-version", "9"]).await.0, Some(1));
    assert_eq!(history(&["--at", "2000-01-01T00:00:00Z"]).await.0, Some(1));
    for wrong in [&["--at", "soon"][..], &["--at-version", "0"], &["--at-version", "1", "--step"]] {
        assert_eq!(history(wrong).await.0, Some(2), "{wrong:?}");
    }
}
