//! The derived tables made anew, beside those who read and write them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tako_vm::domain::{Claim, Command, ErrorType, Failure, Phase, Retry, Status};
use tako_vm::store::{
    DeadLetterChange, DeadLetterFilter, DeadLetterRow, Error, Filter, Options, Rebuilding, Rebuilt, Store, Stored,
};
use uuid::Uuid;

use super::records::{cancel, carry_out, ids, job, submit_job};
use super::*;
use crate::db;

async fn rebuild(store: &Store) -> Rebuilt {
    store.rebuild_projections(&|_| {}).await.unwrap()
}

async fn execute(db: &Db, statement: &'static str, id: Uuid) {
    sqlx::query(statement).bind(id).execute(&db.admin).await.unwrap();
}

/// Tables beside the three in use.
async fn leftovers(db: &Db) -> Vec<String> {
    let leftovers = "SELECT relname::text FROM pg_class WHERE relname ~ '_v[0-9]+$' ORDER BY 1";
    sqlx::query_scalar(leftovers).fetch_all(&db.admin).await.unwrap()
}

#[tokio::test]
async fn a_rebuild_repairs_what_differs_from_the_log_and_nothing_else() {
    let db = db::fresh().await;
    let mut jobs = Vec::new();
    for number in 0..8 {
        let stored = submit_job(&db, job("a", "default", None)).await;
        jobs.push(if number % 2 == 0 { cancel(&db, stored).await } else { stored });
    }
    let id = |number: usize| jobs[number].record.execution_id;
    let rebuilt = rebuild(&db.store).await;
    assert_eq!((rebuilt.events, rebuilt.executions(), rebuilt.differing, rebuilt.version), (16, 8, 0, 2));
    assert!(rebuilt.tables.iter().all(|table| table.live == table.rebuilt), "{rebuilt:#?}");

    let damage = [
        ("UPDATE executions SET status = 'failed' WHERE execution_id = $1", id(0)),
        ("DELETE FROM executions WHERE execution_id = $1", id(1)),
        ("DELETE FROM endings WHERE execution_id = $1", id(2)),
        ("INSERT INTO endings VALUES ('oom', $1)", id(3)),
        ("UPDATE executions SET version = 7 WHERE execution_id = $1", id(5)),
        (
            "INSERT INTO dead_letters (execution_id, created_at, retry_count, tenant, job_type, error_type, \
             error_message) VALUES ($1, now(), 0, 'a', 'default', 'unknown', '')",
            id(7),
        ),
        (
            "INSERT INTO executions (execution_id, created_at, tenant, job_type, version, status) \
             VALUES ($1, now(), 'a', 'default', 1, 'queued')",
            Uuid::nil(),
        ),
    ];
    for (statement, execution_id) in damage {
        execute(&db, statement, execution_id).await;
    }
    let mut damaged = damage.map(|(_, execution_id)| execution_id).to_vec();
    damaged.sort_unstable();
    let rebuilt = rebuild(&db.store).await;
    assert_eq!((rebuilt.differing, rebuilt.first_differing), (7, damaged));
    let counted = db.store.projections().await.unwrap();
    assert_eq!((counted.version, counted.differing, counted.building), (3, Some(7), None));

    let cancelled = Filter { status: Some(Status::Cancelled), ..Filter::default() };
    assert_eq!(ids(&db.store.list(&cancelled, 10, 0).await.unwrap().records), [id(6), id(4), id(2), id(0)]);
    assert_eq!(db.store.list(&Filter::default(), 10, 0).await.unwrap().records.len(), 8);
    assert_eq!(rebuild(&db.store).await.differing, 0);
}

#[tokio::test]
async fn a_dead_letter_is_made_anew_as_it_was() {
    let db = db::fresh().await;
    let mut letters = Vec::new();
    for lease in 1..4 {
        let queued = submit_job(&db, job("a", "default", None)).await;
        letters.push(fail_for_good(&db, queued, lease).await);
    }
    let discarded = letters.pop().unwrap();
    let command = Command::DiscardDeadLetter { by: "test".into(), reason: None };
    let id = discarded.record.execution_id;
    carry_out(&db, id, Some(discarded), vec![command], (QueueChange::None, DeadLetterChange::Remove)).await;
    assert_eq!(rebuild(&db.store).await.differing, 0);

    let before = db.store.dead_letters(&DeadLetterFilter::default(), 10, 0).await.unwrap();
    assert_eq!(before.len(), 2);
    sqlx::query("DELETE FROM dead_letters").execute(&db.admin).await.unwrap();
    assert_eq!(rebuild(&db.store).await.differing, 2);
    assert_eq!(db.store.dead_letters(&DeadLetterFilter::default(), 10, 0).await.unwrap(), before);
}

async fn fail_for_good(db: &Db, queued: Stored, lease: i64) -> Stored {
    let id = queued.record.execution_id;
    let error = Failure {
        error_type: ErrorType::DockerError,
        message: "no daemon".into(),
        phase: Phase::Startup,
        exception: None,
    };
    let row = DeadLetterRow {
        execution_id: id,
        tenant: "a".into(),
        job_type: "default".into(),
        error_type: error.error_type.as_str().into(),
        error_message: error.message.clone(),
        retry_count: 0,
        created_at: now(),
        client_ip: None,
        correlation_id: Some("c".into()),
    };
    let claim = Claim { node_id: Uuid::nil(), slot: 0, lease };
    let commands = vec![Command::Dequeue { claim }, Command::FailAttempt { lease, error, retry: Retry::Never }];
    carry_out(db, id, Some(queued), commands, (QueueChange::Remove, DeadLetterChange::Insert(row))).await
}

#[tokio::test]
async fn the_tables_that_follow_are_the_same_tables() {
    let db = db::fresh().await;
    sqlx::query("GRANT SELECT ON endings TO PUBLIC").execute(&db.admin).await.unwrap();
    let shape = async || -> Vec<String> {
        let query = "SELECT concat_ws(' ', c.relname, c.reloptions, c.relpersistence, pg_get_userbyid(c.relowner), \
                            (SELECT array_agg(acl::text ORDER BY acl::text) FROM unnest(c.relacl) acl), \
                            (SELECT array_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), \
                                a.attnotnull, a.attcompression, a.attstorage, a.attcollation) ORDER BY a.attnum) \
                               FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0), \
                            (SELECT array_agg(pg_get_indexdef(i.indexrelid) ORDER BY 1) FROM pg_index i \
                              WHERE i.indrelid = c.oid), \
                            (SELECT array_agg(n.conname || ' ' || pg_get_constraintdef(n.oid) ORDER BY 1) \
                               FROM pg_constraint n WHERE n.conrelid = c.oid)) \
                       FROM pg_class c WHERE c.relname IN ('executions', 'endings', 'dead_letters') ORDER BY 1";
        sqlx::query_scalar(query).fetch_all(&db.admin).await.unwrap()
    };
    let before = shape().await;
    assert_eq!(before.len(), 3);
    rebuild(&db.store).await;
    rebuild(&db.store).await;
    assert_eq!(shape().await, before);
    assert_eq!(leftovers(&db).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_readers_of_every_node_go_on_while_tables_are_swapped() {
    let db = Arc::new(db::fresh().await);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        // A node of its own, whose connections keep their plans through every swap.
        let store = Store::connect(&Options { max_connections: 3, ..db.options.clone() }).await.unwrap();
        let (db, is_over) = (Arc::clone(&db), Arc::clone(&is_over));
        tasks.push(tokio::spawn(async move {
            let node = Db { store, options: db.options.clone(), admin: db.admin.clone() };
            let mut written = 0;
            while !is_over.load(Ordering::Relaxed) {
                let stored = submit_job(&node, job("a", "default", None)).await;
                let id = stored.record.execution_id;
                let queued = Filter { status: Some(Status::Queued), ..Filter::default() };
                let listed = node.store.list(&queued, 100, 0).await.unwrap();
                assert!(ids(&listed.records).contains(&id), "a job that was accepted is not listed");
                assert!(node.store.ended(&[id]).await.unwrap().is_empty());
                cancel(&node, stored).await;
                let cancelled = Filter { status: Some(Status::Cancelled), ..Filter::default() };
                let listed = node.store.list(&cancelled, 100, 0).await.unwrap();
                assert!(ids(&listed.records).contains(&id), "a job that was cancelled is not listed");
                assert_eq!(node.store.ended(&[id]).await.unwrap(), [id]);
                written += 1;
            }
            written
        }));
    }
    for round in 0..12 {
        let rebuilt = rebuild(&db.store).await;
        assert_eq!((rebuilt.differing, rebuilt.version), (0, round + 2), "{rebuilt:#?}");
    }
    is_over.store(true, Ordering::Relaxed);
    let mut written = 0;
    for task in tasks {
        written += task.await.unwrap();
    }
    let rebuilt = rebuild(&db.store).await;
    assert_eq!((rebuilt.differing, rebuilt.executions()), (0, written));
    assert_eq!(rebuilt.events, 3 * written);
    assert!(written > 12, "only {written} jobs were written meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_killed_changes_nothing_and_the_next_one_starts_over() {
    let db = Arc::new(db::fresh().await);
    let stored = submit_job(&db, job("a", "default", None)).await;
    let damaged = stored.record.execution_id;
    execute(&db, "UPDATE executions SET status = 'failed' WHERE execution_id = $1", damaged).await;
    let steps = [Rebuilding::Folding(1), Rebuilding::Indexing, Rebuilding::Comparing, Rebuilding::Swapping];
    for (number, step) in (2..).zip(steps) {
        let store = Store::connect(&db.options).await.unwrap();
        let killed = tokio::spawn(async move {
            store.rebuild_projections(&|reached| assert!(reached != step, "killed")).await.map(drop)
        });
        assert!(killed.await.unwrap_err().is_panic(), "{step:?}");
        let status: String = sqlx::query_scalar("SELECT status FROM executions").fetch_one(&db.admin).await.unwrap();
        assert_eq!(status, "failed", "{step:?}");
        let counted = db.store.projections().await.unwrap();
        assert_eq!((counted.version, counted.building.unwrap().version), (1, number), "{step:?}");
        // Nobody has to wait for it, and nothing else is left of those before.
        submit_job(&db, job("a", "default", None)).await;
        assert_eq!(leftovers(&db).await.iter().filter(|name| name.starts_with("executions_v")).count(), 1);
        execute(&db, "DELETE FROM executions WHERE execution_id <> $1", damaged).await;
        sqlx::query("DELETE FROM queue").execute(&db.admin).await.unwrap();
    }
    let rebuilt = rebuild(&db.store).await;
    assert_eq!((rebuilt.differing, rebuilt.executions(), rebuilt.version), (5, 5, 6));
    assert_eq!(leftovers(&db).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rebuild_at_a_time() {
    let db = Arc::new(db::fresh().await);
    submit_job(&db, job("a", "default", None)).await;
    let other = Store::connect(&db.options).await.unwrap();
    let refused = std::sync::Mutex::new(None);
    let runtime = tokio::runtime::Handle::current();
    let second = |step| {
        if step == Rebuilding::Comparing {
            let result = tokio::task::block_in_place(|| runtime.block_on(other.rebuild_projections(&|_| {})));
            *refused.lock().unwrap() = Some(result);
        }
    };
    let rebuilt = db.store.rebuild_projections(&second).await.unwrap();
    assert!(matches!(refused.into_inner().unwrap(), Some(Err(Error::RebuildRunning))));
    assert_eq!((rebuilt.version, rebuilt.differing), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_waits_for_readers_and_lets_appends_pass_meanwhile() {
    let db = Arc::new(db::fresh().await);
    submit_job(&db, job("a", "default", None)).await;
    let mut reader = db.admin.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM executions").execute(&mut *reader).await.unwrap();
    let (reached, mut swapping) = tokio::sync::mpsc::unbounded_channel();
    let store = db.store.clone();
    let rebuilding = tokio::spawn(async move {
        let progress = move |step| {
            if step == Rebuilding::Swapping {
                reached.send(()).unwrap();
            }
        };
        store.rebuild_projections(&progress).await
    });
    swapping.recv().await.unwrap();
    for _ in 0..5 {
        submit_job(&db, job("a", "default", None)).await;
    }
    assert!(!rebuilding.is_finished());
    reader.rollback().await.unwrap();
    let rebuilt = rebuilding.await.unwrap().unwrap();
    assert_eq!(rebuilt.differing, 0);
    assert_eq!(db.store.list(&Filter::default(), 10, 0).await.unwrap().records.len(), 6);
    assert_eq!(rebuild(&db.store).await.differing, 0);
}

#[tokio::test]
async fn a_stream_that_does_not_fold_leaves_the_tables_as_they_are() {
    let db = db::fresh().await;
    submit_job(&db, job("a", "default", None)).await;
    submitted(&db).await;
    let error = db.store.rebuild_projections(&|_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { table: "events", .. }), "{error}");
    assert_eq!(count(&db, "executions").await, 2);
    assert_eq!(leftovers(&db).await, Vec::<String>::new());
    assert_eq!(db.store.projections().await.unwrap().building, None);
}
