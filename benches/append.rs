//! What an append costs: `cargo bench --bench append [-- <lifecycles>]`.
//!
//! Starts a PostgreSQL server of its own with its default durability (fsync and
//! synchronous_commit on) and prints, from one run: events and lifecycles per second batched and
//! single, the bytes of write-ahead log of a lifecycle, the same again on the log that has grown
//! by then and beside a transaction that stays open, and how fast the log is rebuilt from and
//! verified. A lifecycle is what a warm sandbox makes: submitted; dequeued and started;
//! succeeded. It is appended with its record, queue row and blobs, and claimed in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that panics says where"
)]

#[path = "../tests/it/db.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod db;
#[path = "support/lifecycle.rs"]
mod lifecycle;

use std::time::Instant;

use db::{Cluster, Db};
use lifecycle::{Job, append, live, now};
use tako_vm::store::audit::{Sealing, Verification};
use uuid::Uuid;

const BATCH: usize = 64;
const SINGLE: usize = 300;

#[tokio::main]
async fn main() {
    let wanted = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000_usize);
    let cluster = Cluster::start(&["max_wal_size=4GB", "shared_buffers=256MB"]);
    let db = db::fresh_on(&cluster).await;
    let node = Uuid::now_v7();
    db.store.register_node(node, 64, "bench").await.unwrap();
    lifecycles(&db, node, 10 * BATCH).await;

    println!("{:<44} {:>12} {:>12} {:>12}", "", "lifecycles/s", "events/s", "WAL bytes");
    for grown in ["", ", log grown"] {
        let (seconds, wal) = lifecycles(&db, node, wanted).await;
        row(&format!("lifecycles in batches of {BATCH}{grown}"), wanted as f64, 4.0, seconds, wal);
        let (seconds, wal) = submits(&db, SINGLE, 1).await;
        row(&format!("single submits, one at a time{grown}"), SINGLE as f64, 1.0, seconds, wal);
        let (seconds, wal) = submits(&db, wanted, BATCH).await;
        row(&format!("submits in batches of {BATCH}{grown}"), wanted as f64, 1.0, seconds, wal);
        drain(&db, node).await;
    }
    // Rows that are deleted while an older transaction stays open cannot be cleared away.
    let mut open = db.admin.begin().await.unwrap();
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *open).await.unwrap();
    sqlx::query("SELECT count(*) FROM queue").execute(&mut *open).await.unwrap();
    for name in ["lifecycles beside an open transaction", "the same, later"] {
        let (seconds, wal) = lifecycles(&db, node, wanted).await;
        row(name, wanted as f64, 4.0, seconds, wal);
    }
    open.rollback().await.unwrap();
    breakdown(&db).await;
    let rebuilt = db.store.rebuild_projections(&|_| {}).await.unwrap();
    println!("rebuild: {:.0} events/s", rebuilt.events as f64 / rebuilt.took.as_secs_f64());
    let start = Instant::now();
    let at = now();
    while db.store.seal_next(Sealing { key: None, at, at_least: 1, at_most: 10_000 }).await.unwrap().is_some() {}
    println!("seal: {:.0} events/s", rebuilt.events as f64 / start.elapsed().as_secs_f64());
    let verified = db.store.verify_log(&Verification::default(), &|_| {}).await.unwrap();
    assert!(verified.holds(), "{:?}", verified.faults);
    println!("verify: {:.0} events/s", verified.events as f64 / verified.took.as_secs_f64());
}

fn row(name: &str, count: f64, events: f64, seconds: f64, wal: i64) {
    let per = wal as f64 / count;
    println!("{name:<44} {:>12.0} {:>12.0} {per:>12.0}", count / seconds, count * events / seconds);
}

/// Whole lifecycles; answers seconds and bytes of write-ahead log.
async fn lifecycles(db: &Db, node: Uuid, count: usize) -> (f64, i64) {
    let (before, start) = (wal(db).await, Instant::now());
    for _ in 0..count / BATCH {
        let mut jobs: Vec<_> = (0..BATCH).map(|_| Job::new()).collect();
        live(&db.store, node, &mut jobs).await;
    }
    (start.elapsed().as_secs_f64(), wal(db).await - before)
}

async fn submits(db: &Db, count: usize, batch: usize) -> (f64, i64) {
    let (before, start) = (wal(db).await, Instant::now());
    for _ in 0..count / batch {
        let mut jobs: Vec<_> = (0..batch).map(|_| Job::new()).collect();
        append(&db.store, &mut jobs, |job| job.submit()).await;
    }
    (start.elapsed().as_secs_f64(), wal(db).await - before)
}

/// Claims what was only submitted, so that the next run claims its own.
async fn drain(db: &Db, node: Uuid) {
    while !db.store.claim(node, 1000).await.unwrap().is_empty() {}
    sqlx::query("DELETE FROM queue").execute(&db.admin).await.unwrap();
}

async fn wal(db: &Db) -> i64 {
    sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetch_one(&db.admin).await.unwrap()
}

async fn breakdown(db: &Db) {
    let sizes: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class \
         WHERE relname IN ('events', 'executions', 'endings', 'queue') ORDER BY 1",
    )
    .fetch_all(&db.admin)
    .await
    .unwrap();
    for (table, heap, indexes) in sizes {
        println!("{table}: {} KiB, indexes {} KiB", heap / 1024, indexes / 1024);
    }
    let (payload, stored): (f64, f64) = sqlx::query_as(
        "SELECT 4 * avg(octet_length(payload::text))::float8, 4 * avg(pg_column_size(payload))::float8 FROM events e \
          WHERE EXISTS (SELECT FROM events s WHERE s.stream_id = e.stream_id AND s.version = 4)",
    )
    .fetch_one(&db.admin)
    .await
    .unwrap();
    println!("payloads of a lifecycle: {payload:.0} bytes, as stored {stored:.0}");
}
