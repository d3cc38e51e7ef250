//! A server is killed before and after every append and every engine call, and nothing is lost.
//!
//! `TAKO_VM_TEST_CRASH_POINTS=all` walks through all of them instead of the sample of every test run;
//! any other value names those that contain it.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::Duration;

use tako_vm::crash_point;
use tokio::sync::Semaphore;

use super::life::Life;
use super::stories::Story;
use super::{demand_invariants, descendants, stop};
use crate::db;
use crate::fleet::Node;
use crate::world;

const SETTINGS: &str = "engine: native
max_workers: 2
server: {http_workers: 1, shutdown_grace: 5}
queue: {poll_interval: 0.1}
leases: {heartbeat: 0.2, dead_after: 1}
retry: {max_attempts: 20, base_delay: 0.1, max_delay: 0.5}
audit: {seal_every: 0.1}
rate_limit: {requests_per_minute: 0}
blobs: {store: postgres}
";

/// One of each family, which every test run walks through.
const SAMPLE: &[&str] = &[
    "append:JobSubmitted:after",
    "append:JobDequeued:after",
    "append:ExecutionStarted:before",
    "append:ExecutionSucceeded:before",
    "append:ExecutionSucceeded:after",
    "append:DependenciesMet:before",
    "append:LeaseExpired:after",
    "engine:start:after",
    "engine:run:after",
    "engine:collect:before",
    "store:claim:after",
];

/// Lives that go on at the same time.
const AT_ONCE: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_step_loses_and_doubles_nothing() {
    let names = crash_point::names();
    let chosen: Vec<String> = match std::env::var("TAKO_VM_TEST_CRASH_POINTS") {
        Ok(all) if all == "all" => names,
        Ok(part) => names.into_iter().filter(|name| name.contains(&part)).collect(),
        Err(_) => names.into_iter().filter(|name| SAMPLE.contains(&name.as_str())).collect(),
    };
    assert!(chosen.len() >= SAMPLE.len() || std::env::var("TAKO_VM_TEST_CRASH_POINTS").is_ok());
    let count = chosen.len();
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let lives = chosen.into_iter().map(|name| {
        let permits = Arc::clone(&permits);
        let walked = name.clone();
        let life = tokio::spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            survive(&walked).await;
        });
        (name, life)
    });
    let mut failed = Vec::new();
    for (name, life) in lives.collect::<Vec<_>>() {
        if life.await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{} of {count} crash points: {failed:#?}", failed.len());
    println!("{count} crash points");
}

/// A server dies at the crash point, another goes on, and all is as if nothing had been.
async fn survive(name: &str) {
    let (step, _) = name.rsplit_once(':').unwrap();
    let story = Story::of(step);
    let folder = tempfile::tempdir().unwrap();
    let own = story.settings(folder.path().to_str().unwrap());
    let pool = if own.starts_with("pool:") { "" } else { "pool: {min_idle: 0, max_idle: 0}\n" };
    let mut life = Life::new(db::fresh().await, &format!("{SETTINGS}{pool}{own}"));
    story.prepare(&mut life, folder.path()).await;
    let frozen = if story == Story::FindsOrphans { Some(frozen_node(&mut life).await) } else { None };

    life.node.start_with(&[(crash_point::VARIABLE, name)]);
    let told = story.tell(&mut life).await;
    // Some steps come when nobody waits for them.
    let status = life.node.ended(Duration::from_secs(20)).await;
    let log = life.node.log();
    assert!(
        status.is_some_and(|status| status.signal() == Some(libc::SIGKILL))
            && log.contains(&format!("crash point {name}: this process kills itself")),
        "{name} was never reached ({told:?}, {status:?}):\n{log}"
    );

    if let Some(mut node) = frozen {
        node.signal(libc::SIGCONT);
        node.kill();
    }
    life.node.start();
    life.node.url().await;
    let pid = life.node.pid();
    let told = story.tell(&mut life).await;
    assert!(told.is_ok() || story == Story::Stops, "{name}: the next server died:\n{}", life.node.log());
    if story == Story::Stops {
        let status = life.node.ended(Duration::from_secs(30)).await;
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{name}: {}", life.node.log());
        life.node.start();
        life.node.url().await;
    }
    assert!(life.settled().await.is_ok(), "{name}: {}", life.node.log());
    stop(&mut life.node).await;
    assert_eq!(descendants(pid), Vec::<u32>::new(), "{name} left processes");
    demand_invariants(&life.db.options.url, story.keeps_blobs());
    world::check_log(&life.db.options, story.keeps_blobs(), Arc::default()).await;
}

/// A node that has not moved for longer than it may, with a sandbox.
async fn frozen_node(life: &mut Life) -> Node {
    let mut node = Node::new(&life.db.options.url, &format!("{SETTINGS}pool: {{min_idle: 1, max_idle: 1}}\n"));
    node.start();
    node.url().await;
    while descendants(node.pid()).len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.signal(libc::SIGSTOP);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    node
}
