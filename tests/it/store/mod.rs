//! Laws of the store.

mod append;
mod archive;
mod audit;
mod followed;
mod invariants;
mod limits;
mod log;
mod partitions;
mod queue;
mod rebuild;
mod records;
mod schema;
mod sealed;
mod upgrade;

use chrono::{DateTime, Utc};
use tako_vm::store::{Append, Appended, NewEvent, Outcome, QueueChange, RecordRow, StreamKind};
use uuid::Uuid;

use crate::db::Db;

#[expect(clippy::disallowed_methods, reason = "events are told their time; these tests ask for none")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

fn event(event_type: &'static str, payload: &str) -> NewEvent {
    NewEvent {
        event_id: Uuid::now_v7(),
        event_type: event_type.into(),
        schema_version: 1,
        recorded_at: now(),
        actor: "intake@test".into(),
        correlation_id: Some("request-1".into()),
        causation_id: None,
        payload: payload.into(),
    }
}

fn row(status: &str) -> RecordRow {
    RecordRow {
        tenant: "default".into(),
        job_type: "default".into(),
        created_at: now(),
        parent_execution_id: None,
        status: status.into(),
        ended_at: (status == "succeeded" || status == "failed").then(now),
    }
}

fn enqueue(priority: i16) -> QueueChange {
    QueueChange::Enqueue {
        tenant: "default".into(),
        job_type: "default".into(),
        priority,
        not_before: None,
        is_keyed: false,
    }
}

/// The first append of an execution, with a payload that no fold will read.
fn submit(execution_id: Uuid) -> Append {
    let mut item = next(execution_id, "JobSubmitted");
    item.record = Some(row("queued"));
    item.queue = enqueue(5);
    item
}

/// One event that begins a stream.
fn next(stream_id: Uuid, event_type: &'static str) -> Append {
    Append::events(stream_id, StreamKind::Execution, vec![event(event_type, r#"{"n":1}"#)])
}

#[track_caller]
fn appended(outcome: Outcome) -> Appended {
    match outcome {
        Outcome::Appended(appended) => appended,
        other => panic!("not appended: {other:?}"),
    }
}

async fn submitted(db: &Db) -> (Uuid, Appended) {
    let id = Uuid::now_v7();
    (id, appended(db.store.append(submit(id)).await.unwrap()))
}

async fn append_all(db: &Db, items: Vec<Append>) {
    for result in db.store.append_batch(items).await {
        appended(result.unwrap());
    }
}

async fn count(db: &Db, table: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(sql).fetch_one(&db.admin).await.unwrap()
}
