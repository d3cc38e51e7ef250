//! A database is migrated while nodes of the version before are at work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgPool};
use tako_vm::store::{Error, Options, Store, migrate};

use super::*;
use crate::db;

/// A database as it was before the newest migration that changes a table, and the numbers of that and the
/// later ones. Those that only make functions anew wait for nobody.
async fn before_the_last() -> (Options, PgPool, Vec<i64>) {
    let options = db::empty().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let all = Migrator::new(folder).await.unwrap();
    let changes = all.iter().filter(|migration| migration.sql.as_str().contains("ALTER TABLE"));
    let first = changes.map(|migration| migration.version).max().unwrap();
    let last = all.iter().map(|migration| migration.version).filter(|version| *version >= first).collect();
    let older = all.iter().filter(|migration| migration.version < first).cloned().collect();
    let mut connection = PgConnection::connect(&options.url).await.unwrap();
    Migrator::with_migrations(older).run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let admin = PgPool::connect(&options.url).await.unwrap();
    (options, admin, last)
}

/// Says that migrations have been run, so that a store works on what was there before it, as a
/// node of the version before does.
async fn pretend(admin: &PgPool, last: &[i64], has_run: bool) {
    let statement = match has_run {
        true => {
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             SELECT version, 'pretended', true, '', 0 FROM unnest($1) AS version"
        }
        false => "DELETE FROM _sqlx_migrations WHERE version = ANY ($1)",
    };
    sqlx::query(statement).bind(last).execute(admin).await.unwrap();
}

/// Submits, claims and ends jobs until told to stop; answers how many, and the longest wait for one append.
async fn traffic(store: Store, node: Uuid, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let id = Uuid::now_v7();
        appended(store.append(submit(id)).await.expect("a submission"));
        for claim in store.claim(node, 4).await.expect("a claim") {
            let events = store.stream_events(claim.execution_id, 0, 10).await.expect("a read");
            let head = events.last().unwrap();
            let mut end = next(claim.execution_id, "ExecutionSucceeded").after(head.version, head.hash);
            (end.record, end.queue, end.lease) = (Some(row("succeeded")), QueueChange::Remove, Some(claim.lease));
            appended(store.append(end).await.expect("an end"));
            done.fetch_add(1, Ordering::Relaxed);
        }
        longest = longest.max(began.elapsed());
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_nodes_work_on_while_a_new_one_migrates_even_behind_a_slow_reader() {
    let (options, admin, last) = before_the_last().await;
    assert!(matches!(Store::connect(&options).await, Err(Error::DatabaseOlder { .. })));
    pretend(&admin, &last, true).await;
    let store = Store::connect(&options).await.unwrap();
    let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let node = Uuid::now_v7();
        store.register_node(node, 4, "old").await.unwrap();
        tasks.push(tokio::spawn(traffic(store.clone(), node, Arc::clone(&stop), Arc::clone(&done))));
    }
    while done.load(Ordering::Relaxed) < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pretend(&admin, &last, false).await;
    // A dump, or a long look at the log, holds a lock that the migration's has to wait for.
    let mut reader = admin.begin().await.unwrap();
    sqlx::query("LOCK TABLE events, queue, nodes, blobs IN ACCESS SHARE MODE").execute(&mut *reader).await.unwrap();
    let migrating = [options.clone(), options.clone()].map(|options| {
        // On a thread of its own, as a node of its own would.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(migrate(&options))
        })
    });
    let before = done.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!migrating.iter().any(std::thread::JoinHandle::is_finished), "the reader holds it up");
    assert!(done.load(Ordering::Relaxed) > before, "nobody else is held up for long");
    reader.rollback().await.unwrap();
    let ended = tokio::task::spawn_blocking(|| migrating.map(|node| node.join().unwrap()));
    let run: usize =
        ended.await.unwrap().map(|run| run.expect("two nodes that start at once both end well")).iter().sum();
    assert!(run >= 1);
    assert_eq!(migrate(&options).await.unwrap(), 0);
    let before = done.load(Ordering::Relaxed);
    while done.load(Ordering::Relaxed) < before + 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let longest = task.await.expect("an old node met an error");
        assert!(longest < Duration::from_secs(4), "{longest:?}");
    }
    // Its connections hold statements that were prepared before.
    appended(store.append(submit(Uuid::now_v7())).await.unwrap());
    let (queued, ended): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM executions WHERE ended_at IS NOT NULL)",
    )
    .fetch_one(&admin)
    .await
    .unwrap();
    assert_eq!((queued + ended) as u64, count_of(&admin).await, "every job is in the queue or has ended");
    assert!(ended as u64 >= done.load(Ordering::Relaxed));
}

async fn count_of(admin: &PgPool) -> u64 {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM executions").fetch_one(admin).await.unwrap();
    count.unsigned_abs()
}
