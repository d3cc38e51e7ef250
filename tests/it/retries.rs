//! What is tried again, when, and what remains of it.

use std::time::Duration;

use serde_json::json;
use tako_vm::config::{Config, RetryOn, RetryOverride};
use tako_vm::domain::{ErrorType, Event};
use uuid::Uuid;

use crate::world::{World, scripted};

fn quick(config: &mut Config) {
    config.retry.base_delay = Duration::from_millis(10);
    config.retry.max_delay = Duration::from_millis(20);
    config.queue.poll_interval = Duration::from_millis(50);
}

async fn submit(world: &World, body: serde_json::Value) -> Uuid {
    let (status, answer) = world.post("/jobs", body).await;
    assert_eq!(status, 202, "{answer}");
    answer["execution_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_a_job_type_names_are_tried_again_and_each_attempt_stays_visible() {
    let configure = |config: &mut Config| {
        quick(config);
        let job_type = config.job_types.get_mut("default").unwrap();
        let on = vec![RetryOn::Failed, RetryOn::Timeout];
        job_type.retry = Some(RetryOverride { max_attempts: 3, on, base_delay: Duration::from_millis(5) });
    };
    let world = World::start_with(configure, scripted()).await;
    let id = submit(&world, json!({"code": "print run %n\nexit 4"})).await;
    let record = world.ended(id).await;
    assert_eq!((&record["status"], &record["attempt"]), (&json!("failed"), &json!(3)), "{record:#}");
    let attempt = ["JobDequeued", "ExecutionStarted", "RetryScheduled"];
    let last = ["JobDequeued", "ExecutionStarted", "ExecutionFailed"];
    let names = [&["JobSubmitted"][..], &attempt, &attempt, &last].concat();
    assert_eq!(world.event_names(id).await, names);
    let mut seen = Vec::new();
    for envelope in world.events(id).await {
        if let Event::RetryScheduled(retry) = envelope.event {
            assert_eq!(retry.cause.error_type, ErrorType::RuntimeError);
            let observed = retry.observed.expect("what was seen of the code");
            assert_eq!(observed.exit_code, Some(4));
            let blobs = world.store().blobs(&[observed.stdout.hash]).await.unwrap();
            seen.push(String::from_utf8(blobs[&observed.stdout.hash].to_vec()).unwrap());
        }
    }
    assert_eq!(seen, ["run 0\n", "run 1\n"], "the output of each attempt is kept");
    assert_eq!(world.get("/dlq/stats").await.1["total"], 0, "code that failed is no dead letter");
    world.check(id).await;

    let slow = submit(&world, json!({"code": "sleep 60000", "timeout": 0.1, "max_attempts": 2})).await;
    assert_eq!((&world.ended(slow).await["attempt"], 1), (&json!(2), 1));
    // What it does not name ends at once.
    let oom = submit(&world, json!({"code": "oom"})).await;
    assert_eq!(world.ended(oom).await["attempt"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_fails_ends_where_its_type_says_nothing() {
    let world = World::start_with(quick, scripted()).await;
    for code in ["exit 1", "oom"] {
        let record = world.ended(submit(&world, json!({"code": code, "max_attempts": 5})).await).await;
        assert_eq!(record["attempt"], 1, "{record:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_asks_for_is_waited_up_to_the_limit() {
    let configure = |config: &mut Config| {
        quick(config);
        config.retry.max_retry_after = Duration::from_millis(700);
    };
    let world = World::start_with(configure, scripted()).await;
    for (asked, least, most) in [("0.3", 300, 300), ("3600", 700, 700), ("0", 0, 20)] {
        let id = submit(&world, json!({"code": format!("busy {asked}"), "max_attempts": 2})).await;
        let record = world.ended(id).await;
        assert_eq!((&record["status"], &record["attempt"]), (&json!("failed"), &json!(2)), "{record:#}");
        let events = world.events(id).await;
        let retry = events.iter().find_map(|envelope| match &envelope.event {
            Event::RetryScheduled(retry) => Some((retry.clone(), envelope.recorded_at)),
            _ => None,
        });
        let (retry, at) = retry.unwrap();
        assert!((least..=most).contains(&retry.delay_ms), "{asked}: {retry:?}");
        let again = events.iter().rfind(|envelope| matches!(envelope.event, Event::JobDequeued(_))).unwrap();
        assert!((again.recorded_at - at).num_milliseconds() >= least as i64 - 5, "{asked}: it came too soon");
        assert!(events.iter().any(|envelope| matches!(envelope.event, Event::JobDeadLettered(_))));
    }
}

/// The program that gets packages, as an engine runs it, before an index that has no time.
#[test]
fn an_index_that_has_no_time_is_told_apart_with_what_it_asks_for() {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};
    let index = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/simple", index.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in index.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let answer =
                "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let wanted = json!({
        "folder": folder.path().join("work"), "requirements": ["six"], "lock": null, "ca": null, "index_url": url,
        "extra_index_urls": [], "proxy": null, "no_index": false, "links": null, "source_distributions": false,
        "max_bytes": 1 << 30,
    });
    let mut program = Command::new("python3")
        .args(["-c", include_str!("../../docker/packages/fetch.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    program.stdin.take().unwrap().write_all(wanted.to_string().as_bytes()).unwrap();
    let output = program.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(69), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("an index has no time; retry-after: 1\n"), "{said}");
}
