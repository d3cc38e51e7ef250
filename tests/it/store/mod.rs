//! Laws of the store.

use chrono::Utc;
use sqlx::Row;
use tako_vm::domain::Digest;
use tako_vm::store::{
    Append, Appended, Blob, DeadLetterChange, DeadLetterRow, Idempotency, NewEvent, Outcome, QueueChange, RecordRow,
    StreamKind,
};
use uuid::Uuid;

use crate::db;

fn event(event_type: &'static str, payload: &str) -> NewEvent {
    NewEvent {
        event_id: Uuid::now_v7(),
        event_type: event_type.into(),
        schema_version: 1,
        recorded_at: Utc::now(),
        actor: "intake@test".into(),
        correlation_id: Some("request-1".into()),
        causation_id: None,
        payload: payload.into(),
    }
}

fn record(status: &str) -> RecordRow {
    RecordRow {
        tenant: "default".into(),
        status: status.into(),
        job_type: "default".into(),
        created_at: Utc::now(),
        ended_at: (status == "succeeded" || status == "failed").then(Utc::now),
        code_hash: Some(Digest::of(b"code")),
        input_hash: Some(Digest::of(b"input")),
        parent_execution_id: None,
        relationship: None,
        error_type: None,
        record: format!(r#"{{"status":"{status}"}}"#),
    }
}

fn enqueue() -> QueueChange {
    QueueChange::Enqueue { tenant: "default".into(), job_type: "default".into(), priority: 5, not_before: None }
}

fn submit(execution_id: Uuid) -> Append {
    let mut item =
        Append::events(execution_id, StreamKind::Execution, vec![event("JobSubmitted", r#"{"job_type":"default"}"#)]);
    item.record = Some(record("queued"));
    item.queue = enqueue();
    item
}

#[track_caller]
fn appended(outcome: Outcome) -> Appended {
    match outcome {
        Outcome::Appended(appended) => appended,
        other => panic!("not appended: {other:?}"),
    }
}

async fn count(db: &db::Db, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query(sql).fetch_one(&db.admin).await.unwrap().get(0)
}

#[tokio::test]
async fn record_and_queue_row_commit_together_with_the_events() {
    let db = db::fresh().await;
    let log = &db.store;
    let id = Uuid::now_v7();
    let first = appended(log.append(submit(id)).await.unwrap());
    assert_eq!((first.first_position, first.last_position, first.version), (1, 1, 1));
    for table in ["events", "executions", "queue"] {
        assert_eq!(count(&db, table).await, 1, "{table}");
    }

    // A queue row that exists already spoils the whole item.
    let mut again =
        Append::events(id, StreamKind::Execution, vec![event("JobDequeued", "{}")]).after(1, first.head_hash);
    again.queue = enqueue();
    again.record = Some(record("running"));
    let error = log.append(again).await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    assert_eq!(count(&db, "events").await, 1);
    let status: String = sqlx::query("SELECT status FROM executions").fetch_one(&db.admin).await.unwrap().get(0);
    assert_eq!(status, "queued");
}
