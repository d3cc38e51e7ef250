//! What must hold of every execution, and that the checker sees when it does not.

use sqlx::AssertSqlSafe;
use tako_vm::domain::{Claim, Command, ConcurrencyKey, Ending, JobSubmitted};
use tako_vm::store::{Checked, DeadLetterChange, Stored};
use uuid::Uuid;

use super::records::{cancel, carry_out, job, submit_job};
use super::*;
use crate::db;

async fn check(db: &Db) -> Checked {
    db.store.check_invariants(true, &|_| {}).await.unwrap()
}

/// A job with its bytes kept, claimed and dequeued.
async fn dequeued(db: &Db, node: Uuid) -> Stored {
    let queued = submit_job(db, job("a", "default", None)).await;
    let claim = db.store.claim(node, 1).await.unwrap().remove(0);
    assert_eq!(claim.execution_id, queued.record.execution_id);
    let command = Command::Dequeue { claim: Claim { node_id: node, slot: 0, lease: claim.lease } };
    let unchanged = (QueueChange::None, DeadLetterChange::None);
    carry_out(db, claim.execution_id, Some(queued), vec![command], unchanged).await
}

#[tokio::test]
async fn each_violation_is_found_and_named_and_nothing_else_is() {
    let db = db::fresh().await;
    let node = Uuid::now_v7();
    db.store.register_node(node, 4, "test").await.unwrap();
    let _ = db.store.put_blobs(&[tako_vm::store::Blob::new("code"), tako_vm::store::Blob::new("{}")]).await.unwrap();
    let running = dequeued(&db, node).await.record.execution_id;
    let queued = submit_job(&db, job("a", "default", None)).await.record.execution_id;
    let ended = submit_job(&db, job("a", "default", None)).await;
    let ended = cancel(&db, ended).await.record.execution_id;
    let checked = check(&db).await;
    assert_eq!((checked.executions, checked.events, checked.violations), (3, 6, vec![]));

    let absent = Uuid::now_v7();
    let damage = [
        ("UPDATE executions SET status = 'failed' WHERE execution_id = $1", ended, "executions has it as failed"),
        ("DELETE FROM executions WHERE execution_id = $1", queued, "not in executions"),
        ("DELETE FROM endings WHERE execution_id = $1", ended, "endings has it as not ended"),
        ("INSERT INTO endings VALUES ('oom', $1)", queued, "endings has it as oom ended"),
        ("DELETE FROM queue WHERE execution_id = $1", queued, "has not ended and is not in the queue"),
        (
            "INSERT INTO queue (execution_id, seq, attempts, priority, tenant, job_type) \
             VALUES ($1, 1, 0, 5, 'a', 'default')",
            ended,
            "has ended and is in the queue",
        ),
        ("UPDATE queue SET lease = 77 WHERE execution_id = $1", running, "under lease 77"),
        ("UPDATE queue SET cancel_requested = true WHERE execution_id = $1", running, "whether it is to be cancelled"),
        ("UPDATE queue SET attempts = 3 WHERE execution_id = $1", queued, "counts 3 attempts"),
        ("UPDATE queue SET limit_key = 'k', limit_size = 1 WHERE execution_id = $1", queued, "another concurrency key"),
        ("UPDATE queue SET priority = 9 WHERE execution_id = $1", running, "another tenant, job type or priority"),
        (
            "INSERT INTO dead_letters (execution_id, created_at, retry_count, tenant, job_type, error_type, \
             error_message) VALUES ($1, now(), 0, 'a', 'default', 'unknown', '')",
            ended,
            "no dead letter",
        ),
        ("INSERT INTO endings VALUES ('oom', $1)", absent, "no event speaks of it"),
        ("DELETE FROM blobs WHERE $1 IS NOT NULL", running, "bytes of its code are not kept"),
    ];
    for (statement, id, what) in damage {
        // Each of them alone, and none of them for long.
        let copies = ["executions", "endings", "queue", "dead_letters", "blobs"];
        for table in copies {
            let keep = format!("CREATE TABLE kept_{table} AS TABLE {table}");
            sqlx::query(AssertSqlSafe(keep)).execute(&db.admin).await.unwrap();
        }
        let changed = sqlx::query(statement).bind(id).execute(&db.admin).await.unwrap();
        assert!(changed.rows_affected() > 0, "{statement}");
        let found = check(&db).await.violations;
        assert!(found.iter().any(|found| found.what.contains(what)), "{statement}: {found:#?}");
        // Executions share their bytes; whose are named is not said.
        let is_shared = what.starts_with("bytes");
        assert!(found.iter().all(|found| found.execution_id == id || is_shared), "{statement}: {found:#?}");
        for table in copies {
            for restore in [
                format!("DELETE FROM {table}"),
                format!("INSERT INTO {table} TABLE kept_{table}"),
                format!("DROP TABLE kept_{table}"),
            ] {
                sqlx::query(AssertSqlSafe(restore)).execute(&db.admin).await.unwrap();
            }
        }
    }
    assert_eq!(check(&db).await.violations, []);
}

#[tokio::test]
async fn a_second_end_a_lost_event_and_an_old_lease_are_found_in_the_log() {
    let db = db::fresh().await;
    let stored = submit_job(&db, job("a", "default", None)).await;
    let twice = cancel(&db, stored).await.record.execution_id;
    let stored = submit_job(&db, job("a", "default", None)).await;
    let torn = cancel(&db, stored).await.record.execution_id;
    for statement in [
        "ALTER TABLE events DISABLE TRIGGER ALL".to_owned(),
        format!(
            "INSERT INTO events SELECT (SELECT max(position) + 1 FROM events), gen_random_uuid(), stream_id, \
                 recorded_at, causation_id, 4, schema_version, stream_kind, event_type, actor, correlation_id, \
                 prev_hash, hash, payload FROM events WHERE stream_id = '{twice}' AND version = 3"
        ),
        format!("DELETE FROM events WHERE stream_id = '{torn}' AND version = 2"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&db.admin).await.unwrap();
    }
    let found = db.store.check_invariants(false, &|_| {}).await.unwrap();
    let said: Vec<_> = found.violations.iter().map(|found| (found.execution_id, found.what.as_str())).collect();
    assert_eq!(
        said,
        [
            (twice, "its event 4 (ExecutionCancelled) does not follow from those before it, and it has ended"),
            (torn, "its event 3 (ExecutionCancelled) does not follow from those before it"),
        ]
    );
    assert_eq!(found.violation_count, 2);
}

#[tokio::test]
async fn a_claim_that_the_log_knows_is_given_back_by_an_append_alone() {
    let db = db::fresh().await;
    let node = Uuid::now_v7();
    db.store.register_node(node, 4, "test").await.unwrap();
    // As a reaper that read the stream before a slow claimant appended to it.
    let running = dequeued(&db, node).await;
    let lease = running.record.claim().unwrap().lease;
    assert!(!db.store.release_claim(running.record.execution_id, lease).await.unwrap());
    assert_eq!(db.store.claims_of(node).await.unwrap().len(), 1);
    assert_eq!(db.store.check_invariants(false, &|_| {}).await.unwrap().violations, []);
    let queued = submit_job(&db, job("a", "default", None)).await;
    let claim = db.store.claim(node, 1).await.unwrap().remove(0);
    assert_eq!(claim.execution_id, queued.record.execution_id);
    assert!(db.store.release_claim(claim.execution_id, claim.lease).await.unwrap());
    assert_eq!(db.store.claims_of(node).await.unwrap().len(), 1);
}

#[tokio::test]
async fn more_jobs_of_a_key_at_work_than_it_allows_are_found_in_the_log() {
    let db = db::fresh().await;
    let node = Uuid::now_v7();
    db.store.register_node(node, 4, "test").await.unwrap();
    let keyed = |limit| {
        let concurrency = Some(ConcurrencyKey { key: "account-7".to_owned(), limit });
        JobSubmitted { concurrency, ..job("a", "default", None) }
    };
    let unchanged = || (QueueChange::None, DeadLetterChange::None);
    let dequeue = async |stored: Stored| {
        let id = stored.record.execution_id;
        let claim = db.store.claim(node, 1).await.unwrap().remove(0);
        assert_eq!(claim.execution_id, id);
        let command = Command::Dequeue { claim: Claim { node_id: node, slot: 0, lease: claim.lease } };
        carry_out(&db, id, Some(stored), vec![command], unchanged()).await
    };
    let finish = async |stored: Stored| {
        let lease = stored.record.claim().unwrap().lease;
        let ending = Box::new(Ending::Cancelled { by: String::new(), reason: None, observed: None });
        let removed = (QueueChange::Remove, DeadLetterChange::None);
        carry_out(&db, stored.record.execution_id, Some(stored), vec![Command::Finish { lease, ending }], removed).await
    };
    let set_limits = async |key: &str, size: &str| {
        let set = format!("UPDATE queue SET limit_key = {key}, limit_size = {size}");
        sqlx::query(AssertSqlSafe(set)).execute(&db.admin).await.unwrap();
    };
    let found = async || db.store.check_invariants(false, &|_| {}).await.unwrap().violations;

    // One after the other is as it should be.
    let before = dequeue(submit_job(&db, keyed(1)).await).await;
    finish(before).await;
    let first = dequeue(submit_job(&db, keyed(1)).await).await;
    let second = submit_job(&db, keyed(1)).await;
    assert!(db.store.claim(node, 1).await.unwrap().is_empty());
    assert_eq!(found().await, []);
    // Had the limit been overlooked:
    set_limits("NULL", "NULL").await;
    let second = dequeue(second).await.record.execution_id;
    set_limits("'account-7'", "1").await;
    assert_eq!(found().await, [], "the first may have ended, as far as the log says");
    finish(first).await;
    let violations = found().await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0].execution_id, second);
    assert!(violations[0].what.contains("one of 2 jobs with the concurrency key \"account-7\""), "{violations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_found_beside_live_traffic_and_a_swap_of_tables() {
    let db = std::sync::Arc::new(db::fresh().await);
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let db = std::sync::Arc::clone(&db);
            tokio::spawn(async move {
                for _ in 0..40 {
                    let stored = submit_job(&db, job("a", "default", None)).await;
                    cancel(&db, stored).await;
                }
            })
        })
        .collect();
    while !writers.iter().all(|writer| writer.is_finished()) {
        let (rebuilt, checked) =
            tokio::join!(db.store.rebuild_projections(&|_| {}), db.store.check_invariants(false, &|_| {}));
        assert_eq!((rebuilt.unwrap().differing, checked.unwrap().violations), (0, vec![]));
    }
    let checked = db.store.check_invariants(false, &|_| {}).await.unwrap();
    assert_eq!((checked.executions, checked.events, checked.violations), (120, 360, vec![]));
}
