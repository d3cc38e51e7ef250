//! Tables that follow from events in the transaction that appends them.

use chrono::TimeDelta;
use serde_json::{Value, json};
use tako_vm::domain::{Digest, Envelope, Event, ExecutionExpired, ExecutionRecord, JobTypeDefined};
use tako_vm::store::audit::{Sealing, SigningKey};
use tako_vm::store::{self, Append, RecordRow, StreamKind};
use uuid::Uuid;

use super::*;
use crate::db;
use crate::past::{Past, age, id_of};
use crate::world::{World, scripted};

fn stored(stream_id: Uuid, version: i32, event: Event) -> (Envelope, Vec<store::NewEvent>) {
    let (event_id, recorded_at) = (Uuid::now_v7(), now());
    let envelope = Envelope { event_id, stream_id, version, recorded_at, correlation_id: None, event };
    let events = store::new_events([(&envelope, "test@node")]).unwrap();
    (envelope, events)
}

#[tokio::test]
async fn an_expired_execution_has_no_rows_from_the_moment_that_its_event_is_there() {
    let db = db::fresh().await;
    let old = Past { days: 100, idempotency_key: Some("order-1"), ..Past::default() }.append(&db).await;
    let kept = Past { days: 90, idempotency_key: Some("order-2"), ..Past::default() }.append(&db).await;
    let events = db.store.stream_events(old, 0, 10).await.unwrap();
    let (expired, stored) = stored(old, 5, ExecutionExpired { records_days: 90 }.into());
    let told: Vec<_> = events.iter().map(|event| event.envelope().unwrap()).chain([expired]).collect();
    let mut append = Append::events(old, StreamKind::Execution, stored);
    (append.expected_version, append.prev_hash) = (4, Some(events[3].hash));
    append.record = Some(RecordRow::of(&ExecutionRecord::fold(&told).unwrap().unwrap()));
    appended(db.store.append(append).await.unwrap());
    for table in ["executions", "endings", "idempotency_keys"] {
        let rows = format!("SELECT execution_id FROM {table}");
        let rows: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_all(&db.admin).await.unwrap();
        assert_eq!(rows, [kept], "{table}");
    }
    let checked = db.store.check_invariants(false, &|_| {}).await.unwrap();
    assert_eq!(checked.violation_count, 0, "{:#?}", checked.violations);
    assert_eq!(db.store.rebuild_projections(&|_| {}).await.unwrap().differing, 0);
}

fn defined(definition: &str, by: &str) -> Event {
    let definition = Digest::of(definition.as_bytes());
    let (name, python_version) = ("report".to_owned(), "3.11".to_owned());
    JobTypeDefined { name, definition, python_version, requirements: Vec::new(), by: by.to_owned() }.into()
}

async fn define(
    db: &Db,
    stream_id: Uuid,
    version: i32,
    prev_hash: Option<Digest>,
    definition: &str,
    by: &str,
) -> Digest {
    let digest = Digest::of(definition.as_bytes()).to_string();
    db.store.put_job_type_definition(&digest, definition).await.unwrap();
    let (_, stored) = stored(stream_id, version, defined(definition, by));
    let mut append = Append::events(stream_id, StreamKind::JobType, stored);
    (append.expected_version, append.prev_hash) = (version - 1, prev_hash);
    appended(db.store.append(append).await.unwrap()).head_hash
}

/// A log in which a job type was defined twice, of which events nothing is left but the archive.
async fn dropped() -> (Db, Uuid) {
    let db = db::fresh().await;
    age(&db).await;
    let old = id_of(now() - TimeDelta::days(40));
    let first = define(&db, old, 1, None, r#"{"name": "report", "memory_limit": "128m"}"#, "ann").await;
    define(&db, old, 2, Some(first), r#"{"name": "report", "memory_limit": "256m"}"#, "ben").await;
    let key = SigningKey::of_seed([5; 32]);
    let sealing = Sealing { key: Some(&key), at: now(), at_least: 1, at_most: 10 };
    db.store.seal_next(sealing).await.unwrap().expect("two events wait");
    let mut partitions = db.store.partitions_before(Uuid::max()).await.unwrap();
    partitions.truncate(1);
    assert_eq!(db.store.drop_partitions(&partitions, 2, event("LogArchived", "{}")).await.unwrap(), None);
    assert_eq!(db.store.stream_events(old, 0, 10).await.unwrap(), []);
    (db, old)
}

#[tokio::test]
async fn a_job_type_stays_when_the_events_that_define_it_are_dropped() {
    let (db, old) = dropped().await;
    let [kept] = &db.store.defined_job_types().await.unwrap()[..] else { panic!("it is gone") };
    assert_eq!((kept.name.as_str(), kept.revision, kept.defined_by.as_str()), ("report", 2, "ben"));
    assert_eq!(kept.stream_id, old);
    assert!(kept.definition.contains("256m"), "{kept:?}");
    // It goes on in another stream, which is then the one that counts.
    let next = Uuid::now_v7();
    define(&db, next, 1, None, "{}", "cy").await;
    define(&db, Uuid::now_v7(), 1, None, "[]", "too late").await;
    let [kept] = &db.store.defined_job_types().await.unwrap()[..] else { panic!("it is gone") };
    assert_eq!((kept.stream_id, kept.revision, kept.defined_by.as_str()), (next, 3, "cy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_with_a_job_type_whose_events_were_dropped() {
    let (db, old) = dropped().await;
    let mut world = World::start_on(db, |_| {}, scripted());
    // Its seals begin where another's key ended.
    world.is_checked = false;
    let (status, kept) = world.get("/job-types/report").await;
    assert_eq!((status, &kept["memory_limit"], &kept["revision"]), (200, &json!("256m"), &json!(2)), "{kept:#}");
    for (memory, revision) in [("512m", 3), ("1g", 4)] {
        let put = world.http.put(format!("{}/job-types/report", world.url)).json(&json!({"memory_limit": memory}));
        let answer: Value = put.send().await.unwrap().json().await.unwrap();
        assert_eq!((&answer["memory_limit"], &answer["revision"]), (&json!(memory), &json!(revision)), "{answer:#}");
    }
    let [kept] = &world.store().defined_job_types().await.unwrap()[..] else { panic!("it is gone") };
    assert_ne!(kept.stream_id, old);
    assert_eq!(world.store().stream_events(kept.stream_id, 0, 10).await.unwrap().len(), 2);
}
