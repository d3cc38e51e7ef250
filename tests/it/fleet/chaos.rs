//! Nodes are killed, frozen and cut off while they work, and nothing is lost.
//!
//! `TAKO_VM_TEST_JOBS=2000` runs as many instead of the few that every test run does, and
//! `TAKO_VM_TEST_SEED` repeats a run's choice of faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use uuid::Uuid;

use super::{DEAD_AFTER, Fleet};
use crate::world;

const NODES: usize = 3;
const CLIENTS: usize = 6;

/// Every job that is not told otherwise leaves such a process behind; the number tells runs apart.
fn left_behind(run: u32) -> String {
    format!("100000{run}")
}

/// What jobs do, and how they must end, however often they were begun.
fn job(number: usize, run: u32) -> (String, &'static str) {
    match number % 5 {
        0 => ("print('done')".to_owned(), "succeeded"),
        1 => ("import time; time.sleep(0.3)".to_owned(), "succeeded"),
        2 => ("import sys; sys.exit(3)".to_owned(), "failed"),
        3 => {
            let seconds = left_behind(run);
            let start = format!("subprocess.Popen(['sleep', '{seconds}'], start_new_session=True)");
            (format!("import subprocess, time\n{start}\ntime.sleep(0.2)"), "succeeded")
        }
        // Beyond what the database keeps itself.
        _ => ("open('/output/result.json', 'w').write('{\"kept\": \"' + 'x' * 5000 + '\"}')".to_owned(), "succeeded"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_nodes_are_killed_frozen_and_cut_off() {
    survive(&["all"; NODES]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_one_node_answers_and_two_work() {
    survive(&["api", "worker", "worker"]).await;
}

async fn survive(roles: &[&'static str; NODES]) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let jobs = number("TAKO_VM_TEST_JOBS").map_or(90, |jobs| jobs as usize);
    let seed = number("TAKO_VM_TEST_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    // Tests of one program must not take each other's processes for their own.
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = std::process::id() * 10 + RUNS.fetch_add(1, Ordering::Relaxed) as u32;
    let mut fleet = Fleet::start(roles).await;
    let urls = Arc::new(RwLock::new(vec![None; NODES]));
    let submitted = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(submit(client, jobs, run, Arc::clone(&urls), Arc::clone(&submitted))))
        .collect();

    let mut faults = StdRng::seed_from_u64(seed);
    let mut told = BTreeMap::new();
    let began = Instant::now();
    // The last tenth may end in peace; a run that is over before the faults begin would prove nothing.
    while submitted.load(Ordering::Relaxed) < jobs || open(&fleet).await > jobs / 10 || told.len() < 3 {
        *urls.write().await = fleet.nodes.iter().map(super::Node::known_url).collect();
        tokio::time::sleep(Duration::from_millis(faults.random_range(200..800))).await;
        let fault = ["killed", "frozen", "cut off"][faults.random_range(0..3)];
        let node = &mut fleet.nodes[faults.random_range(0..NODES)];
        *told.entry(fault).or_insert(0) += 1;
        let past_its_lease = DEAD_AFTER + Duration::from_millis(faults.random_range(0..2000));
        match fault {
            "killed" => {
                node.kill();
                tokio::time::sleep(Duration::from_millis(faults.random_range(0..1000))).await;
                node.start();
            }
            "frozen" => {
                node.signal(libc::SIGSTOP);
                tokio::time::sleep(past_its_lease).await;
                node.signal(libc::SIGCONT);
            }
            _ => {
                node.cut_off();
                tokio::time::sleep(past_its_lease).await;
                node.mend();
                // One that was just starting gives up without its database, as it should.
                if !node.is_running() {
                    node.kill();
                    node.start();
                }
            }
        }
    }
    *urls.write().await = fleet.nodes.iter().map(super::Node::known_url).collect();
    let mut expected = BTreeMap::new();
    for client in clients {
        expected.extend(client.await.unwrap());
    }
    println!("{jobs} jobs were taken in {:?}, while nodes were {told:?}", began.elapsed());
    assert_eq!(expected.len(), jobs, "each key has an execution of its own");

    let ends = ends(&fleet, jobs).await;
    println!("all had ended after {:?}", began.elapsed());
    assert_eq!(ends.len(), jobs, "a repeated submission made no second execution");
    for (id, status) in &expected {
        assert_eq!(ends[id], [terminal(status)], "{id} should have {status}");
    }
    let expired: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'LeaseExpired'")
        .fetch_one(&fleet.db.admin)
        .await
        .unwrap();
    println!("{expired} attempts were lost with their node and made again");
    assert!(expired > 0 || jobs < 1000, "no fault ever hit a job");
    for node in &mut fleet.nodes {
        node.url().await;
        assert_eq!(node.stop().await, Some(0), "{}", node.log());
    }
    assert_eq!(processes_with(&left_behind(run)), Vec::<String>::new(), "sandboxes outlived their jobs");
    world::check_log(&fleet.db.options, true, fleet.objects()).await;
    assert_eq!(open(&fleet).await, 0, "a job that ended is still queued");
}

/// Submits a client's share, each job until some node has taken it: what was accepted, and how it
/// must end.
async fn submit(
    client: usize,
    jobs: usize,
    run: u32,
    urls: Arc<RwLock<Vec<Option<String>>>>,
    submitted: Arc<AtomicUsize>,
) -> Vec<(Uuid, &'static str)> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().unwrap();
    let mut accepted = Vec::new();
    for number in (client..jobs).step_by(CLIENTS) {
        let (code, status) = job(number, run);
        let body = json!({"code": code, "idempotency_key": format!("job-{number}"), "timeout": 20});
        let deadline = Instant::now() + Duration::from_secs(120);
        let id = loop {
            assert!(Instant::now() < deadline, "nobody takes job {number}");
            let url = urls.read().await[rand::random_range(0..NODES)].clone();
            match url {
                Some(url) => match post(&http, &url, &body).await {
                    Some(id) => break id,
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        accepted.push((id, status));
        submitted.fetch_add(1, Ordering::Relaxed);
    }
    accepted
}

/// The execution, unless the node did not answer that it took it. Other refusals end the test.
async fn post(http: &reqwest::Client, url: &str, body: &Value) -> Option<Uuid> {
    let answer = http.post(format!("{url}/jobs")).json(body).send().await.ok()?;
    let status = answer.status().as_u16();
    let answer: Value = answer.json().await.ok()?;
    assert!(matches!(status, 200 | 202 | 503), "{status} {answer}");
    answer["execution_id"].as_str()?.parse().ok()
}

fn terminal(status: &str) -> &'static str {
    if status == "failed" { "ExecutionFailed" } else { "ExecutionSucceeded" }
}

/// How many jobs have not ended.
async fn open(fleet: &Fleet) -> usize {
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&fleet.db.admin).await.unwrap();
    usize::try_from(rows).unwrap()
}

/// The terminal events of every execution, once each has one.
async fn ends(fleet: &Fleet, jobs: usize) -> BTreeMap<Uuid, Vec<String>> {
    const QUERY: &str = "SELECT stream_id, array_agg(event_type ORDER BY version) FILTER (WHERE event_type IN \
         ('ExecutionSucceeded', 'ExecutionFailed', 'ExecutionTimedOut', 'ExecutionOutOfMemory', 'ExecutionCancelled')) \
         FROM events WHERE stream_kind = 1 GROUP BY stream_id";
    let deadline = Instant::now() + Duration::from_secs(60 + jobs as u64 / 10);
    loop {
        let rows: Vec<(Uuid, Option<Vec<String>>)> = sqlx::query_as(QUERY).fetch_all(&fleet.db.admin).await.unwrap();
        let open: Vec<_> = rows.iter().filter(|(_, ends)| ends.is_none()).map(|(id, _)| id).collect();
        if open.is_empty() {
            return rows.into_iter().map(|(id, ends)| (id, ends.unwrap_or_default())).collect();
        }
        assert!(Instant::now() < deadline, "{} of {jobs} jobs never ended: {open:?}", open.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Command lines of this host that contain a word.
pub(super) fn processes_with(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.map(|line| line.replace('\0', " ")).filter(|line| line.starts_with("sleep") && line.contains(word)).collect()
}
