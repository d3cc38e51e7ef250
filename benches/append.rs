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

use std::time::Instant;

use chrono::{DateTime, Utc};
use db::{Cluster, Db};
use tako_vm::domain::{
    Claim, Command, Digest, Ending, Envelope, ExecutionRecord, JobLimits, JobSubmitted, Observed, Output, Phase,
    Sandbox, Timing, Usage, Warmth, decide,
};
use tako_vm::store::audit::{Sealing, Verification};
use tako_vm::store::{Append, Blob, Outcome, QueueChange, RecordRow, StreamKind, new_events};
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
        append(db, &mut jobs, |job| job.submit()).await;
        let claims = db.store.claim(node, BATCH).await.unwrap();
        assert_eq!(claims.len(), BATCH);
        jobs.sort_by_key(|job| job.id);
        for (job, claim) in jobs.iter_mut().zip(claims_by_id(claims)) {
            assert_eq!(job.id, claim.execution_id);
            job.lease = claim.lease;
        }
        append(db, &mut jobs, |job| job.start(node)).await;
        append(db, &mut jobs, |job| job.succeed()).await;
    }
    (start.elapsed().as_secs_f64(), wal(db).await - before)
}

async fn submits(db: &Db, count: usize, batch: usize) -> (f64, i64) {
    let (before, start) = (wal(db).await, Instant::now());
    for _ in 0..count / batch {
        let mut jobs: Vec<_> = (0..batch).map(|_| Job::new()).collect();
        append(db, &mut jobs, |job| job.submit()).await;
    }
    (start.elapsed().as_secs_f64(), wal(db).await - before)
}

/// Claims what was only submitted, so that the next run claims its own.
async fn drain(db: &Db, node: Uuid) {
    while !db.store.claim(node, 1000).await.unwrap().is_empty() {}
    sqlx::query("DELETE FROM queue").execute(&db.admin).await.unwrap();
}

fn claims_by_id(mut claims: Vec<tako_vm::store::Claim>) -> Vec<tako_vm::store::Claim> {
    claims.sort_by_key(|claim| claim.execution_id);
    claims
}

async fn append(db: &Db, jobs: &mut [Job], make: impl Fn(&mut Job) -> Append) {
    let items = jobs.iter_mut().map(make).collect();
    for (job, result) in jobs.iter_mut().zip(db.store.append_batch(items).await) {
        match result.unwrap() {
            Outcome::Appended(appended) => job.head = Some(appended.head_hash),
            other => panic!("{other:?}"),
        }
    }
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

/// One execution on its way.
struct Job {
    id: Uuid,
    record: Option<ExecutionRecord>,
    head: Option<Digest>,
    lease: i64,
}

impl Job {
    fn new() -> Self {
        Self { id: Uuid::now_v7(), record: None, head: None, lease: 0 }
    }

    fn submit(&mut self) -> Append {
        let mut item = self.carry_out("intake@bench", vec![Command::SubmitJob(Box::new(submitted()))]);
        item.queue = QueueChange::Enqueue {
            tenant: "default".into(),
            job_type: "default".into(),
            priority: 5,
            not_before: None,
        };
        item.blobs = vec![Blob::new("print(1+1)\n"), Blob::new("{}")];
        item
    }

    fn start(&mut self, node_id: Uuid) -> Append {
        let sandbox = Sandbox {
            id: Uuid::now_v7().simple().to_string(),
            engine: "scripted".into(),
            runtime: "none".into(),
            image: "tako-vm/executor:3.11".into(),
            image_digest: format!("sha256:{}", Digest::of(b"image")),
            warmth: Warmth::Warm,
            startup_ms: 12,
            hash_seed: Some("0".into()),
        };
        let claim = Claim { node_id, slot: 3, lease: self.lease };
        let commands = vec![Command::Dequeue { claim }, Command::Start { lease: self.lease, sandbox }];
        let mut item = self.carry_out("slot@bench", commands);
        item.lease = Some(self.lease);
        item
    }

    fn succeed(&mut self) -> Append {
        let ending = Box::new(Ending::Succeeded { observed: observed() });
        let mut item = self.carry_out("slot@bench", vec![Command::Finish { lease: self.lease, ending }]);
        item.lease = Some(self.lease);
        item.queue = QueueChange::Remove;
        item.blobs = vec![Blob::new("2\n"), Blob::new("")];
        item
    }

    fn carry_out(&mut self, speaker: &str, commands: Vec<Command>) -> Append {
        let version = self.record.as_ref().map_or(0, |record| record.version);
        let mut envelopes = Vec::new();
        for command in commands {
            for event in decide(self.record.as_ref(), command).unwrap() {
                let envelope = Envelope {
                    event_id: Uuid::now_v7(),
                    stream_id: self.id,
                    version: version + 1 + envelopes.len() as i32,
                    recorded_at: now(),
                    correlation_id: Some("0198a1b2-0000-7000-8000-000000000000".into()),
                    event,
                };
                self.record = ExecutionRecord::evolve(self.record.take(), &envelope).unwrap();
                envelopes.push(envelope);
            }
        }
        let events = new_events(envelopes.iter().map(|envelope| (envelope, speaker))).unwrap();
        let mut item = Append::events(self.id, StreamKind::Execution, events);
        item.expected_version = version;
        item.prev_hash = self.head;
        item.record = Some(RecordRow::of(self.record.as_ref().unwrap()));
        item
    }
}

#[expect(clippy::disallowed_methods, reason = "the bench is not the program")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

fn submitted() -> JobSubmitted {
    JobSubmitted {
        tenant: "default".into(),
        job_type: "default".into(),
        job_version: "default@sha256:0123456789ab".into(),
        code: Digest::of(b"print(1+1)\n"),
        input: Digest::of(b"{}"),
        input_canonical: Digest::of(b"{}"),
        params: Digest::of(b"params"),
        files: Vec::new(),
        input_artifacts: None,
        requirements: Vec::new(),
        limits: JobLimits {
            timeout_ms: 30_000,
            startup_timeout_ms: 30_000,
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            pids: 100,
            open_files: 256,
            tmp_bytes: 64 << 20,
            output_bytes: 64 << 20,
            stdout_bytes: 64 << 10,
            stderr_bytes: 64 << 10,
            artifact_count: 100,
            artifact_bytes: 10 << 20,
            artifacts_total_bytes: 50 << 20,
        },
        priority: 5,
        not_before: None,
        max_attempts: 3,
        idempotency: None,
        client_ip: Some("127.0.0.1".into()),
        parent: None,
        pinned_image: None,
        hash_seed: None,
        tags: Default::default(),
        callback_url: None,
    }
}

fn observed() -> Observed {
    Observed {
        exit_code: Some(0),
        signal: None,
        timing: Timing {
            startup_ms: 12,
            dep_install_ms: 0,
            execution_ms: 9,
            total_ms: 14,
            phase_at_exit: Phase::Execution,
        },
        usage: Usage { max_rss_bytes: 9_437_184, cpu_time_ms: 8, wall_time_ms: 9, oom_killed: false },
        stdout: Output { hash: Digest::of(b"2\n"), bytes: 2, truncated: false },
        stderr: Output { hash: Digest::of(b""), bytes: 0, truncated: false },
        output: None,
        artifacts: Vec::new(),
        refused_artifacts: Vec::new(),
    }
}
