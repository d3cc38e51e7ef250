//! The log as readers and auditors see it.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Connection;
use tako_vm::domain::EventKind;
use tako_vm::store::chain::{Broken, Verifier};
use tako_vm::store::{StoredEvent, Wake};
use uuid::Uuid;

use super::*;
use crate::db;

fn verify(events: &[StoredEvent]) -> Result<(), Broken> {
    let mut verifier = Verifier::default();
    events.iter().try_for_each(|event| verifier.push(&event.link(), event.prev_hash.as_ref(), &event.hash))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_polling_reader_never_skips_a_position() {
    const WRITERS: i64 = 8;
    const BATCHES: i64 = 20;
    const SLOW: i64 = 6;
    let db = db::fresh().await;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let store = db.store.clone();
        writers.push(tokio::spawn(async move {
            for _ in 0..BATCHES {
                let bad = Append { events: vec![event("JobSubmitted", "{bad")], ..submit(Uuid::now_v7()) };
                let results = store.append_batch(vec![submit(Uuid::now_v7()), bad, submit(Uuid::now_v7())]).await;
                assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
            }
        }));
    }
    // Transactions that keep their append open, half of which come to nothing.
    for number in 0..SLOW {
        let mut connection = sqlx::PgConnection::connect(&db.options.url).await.unwrap();
        writers.push(tokio::spawn(async move {
            let mut transaction = connection.begin().await.unwrap();
            sqlx::query("SELECT lock_log()").execute(&mut *transaction).await.unwrap();
            sqlx::query(
                "INSERT INTO events (position, event_id, stream_id, version, recorded_at, schema_version, \
                     stream_kind, event_type, actor, hash, payload) \
                 SELECT max(position) + 1, gen_random_uuid(), gen_random_uuid(), 1, now(), 1, 1, 'X', '', \
                     decode(repeat('00', 32), 'hex'), '{}' FROM (SELECT position FROM events UNION SELECT 0) p",
            )
            .execute(&mut *transaction)
            .await
            .unwrap();
            sqlx::query("SELECT pg_sleep(0.05)").execute(&mut *transaction).await.unwrap();
            match number % 2 {
                0 => transaction.commit().await.unwrap(),
                _ => transaction.rollback().await.unwrap(),
            }
        }));
    }
    let total = WRITERS * BATCHES * 2 + SLOW / 2;
    let mut seen = 0;
    while seen < total {
        for event in db.store.log_events(seen, &[], 7).await.unwrap() {
            assert_eq!(event.position, seen + 1, "a position was skipped");
            seen = event.position;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(db.store.last_position().await.unwrap(), total);
}

#[tokio::test]
async fn the_log_is_read_by_stream_and_by_kind() {
    let db = db::fresh().await;
    let (id, first) = submitted(&db).await;
    submitted(&db).await;
    appended(db.store.append(next(id, "JobDequeued").after(1, first.head_hash)).await.unwrap());
    let stream = db.store.stream_events(id, 0, 10).await.unwrap();
    let read: Vec<_> = stream.iter().map(|event| (event.position, event.version, event.event_type.as_str())).collect();
    assert_eq!(read, [(1, 1, "JobSubmitted"), (3, 2, "JobDequeued")]);
    assert_eq!(stream[1].prev_hash, Some(first.head_hash));
    let kinds = [EventKind::JobDequeued];
    let found = db.store.log_events(0, &kinds, 10).await.unwrap();
    assert_eq!(found, stream[1..]);
    assert_eq!(db.store.log_events(3, &kinds, 10).await.unwrap(), []);
}

#[tokio::test]
async fn changing_removing_and_truncating_events_is_refused_for_everyone() {
    let db = db::fresh().await;
    submitted(&db).await;
    for statement in ["UPDATE events SET actor = 'x'", "DELETE FROM events WHERE false", "TRUNCATE events"] {
        // The cluster's superuser, and the same on a replication role.
        for role in ["SET session_replication_role = origin", "SET session_replication_role = replica"] {
            let mut connection = db.admin.acquire().await.unwrap();
            sqlx::query(role).execute(&mut *connection).await.unwrap();
            let error = sqlx::query(statement).execute(&mut *connection).await.unwrap_err();
            assert!(error.to_string().contains("append-only"), "{statement}: {error}");
            sqlx::query("RESET session_replication_role").execute(&mut *connection).await.unwrap();
        }
        let mut connection = db.admin.acquire().await.unwrap();
        sqlx::query("SET ROLE tako_vm_app").execute(&mut *connection).await.unwrap();
        let error = sqlx::query(statement).execute(&mut *connection).await.unwrap_err();
        assert!(error.to_string().contains("permission denied"), "{statement}: {error}");
        sqlx::query("RESET ROLE").execute(&mut *connection).await.unwrap();
    }
    assert_eq!(count(&db, "events").await, 1);
}

#[tokio::test]
async fn a_chain_verifies_and_an_edit_of_any_event_is_found() {
    let db = db::fresh().await;
    let id = Uuid::now_v7();
    let mut item = submit(id);
    item.events.push(event("JobDequeued", r#"{"lease": 1}"#));
    let head = appended(db.store.append(item).await.unwrap());
    let third = next(id, "ExecutionStarted").after(2, head.head_hash);
    appended(db.store.append(third).await.unwrap());
    assert_eq!(verify(&db.store.stream_events(id, 0, 10).await.unwrap()), Ok(()));

    // Whoever owns the table can take the trigger off; the chain tells it.
    sqlx::query("ALTER TABLE events DISABLE TRIGGER ALL").execute(&db.admin).await.unwrap();
    let edit = "UPDATE events SET payload = '{\"lease\":1}' WHERE version = 2";
    sqlx::query(edit).execute(&db.admin).await.unwrap();
    let found = verify(&db.store.stream_events(id, 0, 10).await.unwrap());
    assert_eq!(found, Err(Broken::Content { stream_id: id, version: 2 }));

    sqlx::query("DELETE FROM events WHERE version = 2").execute(&db.admin).await.unwrap();
    let found = verify(&db.store.stream_events(id, 0, 10).await.unwrap());
    let gap = Broken::Version { stream_id: id, expected: 2, found: 3 };
    assert_eq!(found, Err(gap));
}

#[tokio::test]
async fn escaped_nuls_lone_surrogates_and_spacing_survive_to_the_byte() {
    let db = db::fresh().await;
    let payload =
        "{ \"nul\":\"\\u0000\", \"lone\":\"\\ud800\",\"dup\":1,\"dup\":2, \"big\":1e999, \"é\\/\":\"\\u00e9\"}";
    let id = Uuid::now_v7();
    let mut item = submit(id);
    item.events = vec![event("JobSubmitted", payload)];
    appended(db.store.append(item).await.unwrap());
    let events = db.store.stream_events(id, 0, 10).await.unwrap();
    assert_eq!(events[0].payload, payload);
    assert_eq!(verify(&events), Ok(()));
}

#[tokio::test]
async fn a_batch_wakes_listeners_once_and_a_lost_connection_wakes_them_too() {
    let db = db::fresh().await;
    let mut listener = db.store.listener();
    let next_wake = async |listener: &mut tako_vm::store::Listener| {
        tokio::time::timeout(Duration::from_secs(20), listener.next()).await.expect("a wake-up")
    };
    let all = Wake {
        node: String::new(),
        queue: true,
        ended: true,
        cancel: true,
        dependents: true,
        watch: true,
        build: true,
    };
    assert_eq!(next_wake(&mut listener).await, all);

    let items = (0..10).map(|_| submit(Uuid::now_v7())).collect();
    append_all(&db, items).await;
    let (id, first) = submitted(&db).await;
    let mut end = next(id, "CancelRequested").after(1, first.head_hash);
    end.record = Some(row("queued"));
    end.queue = QueueChange::FlagCancel;
    appended(db.store.append(end).await.unwrap());
    let queue = Wake {
        node: "test".into(),
        queue: true,
        ended: false,
        cancel: false,
        dependents: false,
        watch: false,
        build: false,
    };
    let cancel = Wake { queue: false, cancel: true, ..queue.clone() };
    assert_eq!(next_wake(&mut listener).await, queue, "of the ten");
    assert_eq!(next_wake(&mut listener).await, queue, "of the one");
    assert_eq!(next_wake(&mut listener).await, cancel);

    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' \
                 AND datname = current_database()";
    let pids: Vec<bool> = sqlx::query_scalar(ended).fetch_all(&db.admin).await.unwrap();
    assert_eq!(pids, [true]);
    assert_eq!(next_wake(&mut listener).await, all);
    submitted(&db).await;
    assert_eq!(next_wake(&mut listener).await, queue);
}

#[tokio::test]
async fn blobs_are_kept_once_and_a_changed_one_is_found() {
    use tako_vm::store::Blob;
    let db = db::fresh().await;
    let (one, two) = (Blob::new(vec![1; 100_000]), Blob::new("two"));
    let _ = db.store.put_blobs(&[one.clone(), two.clone(), one.clone()]).await.unwrap();
    let kept = db.store.blobs(&[one.hash(), two.hash()]).await.unwrap();
    assert_eq!((&kept[&one.hash()], &kept[&two.hash()]), (one.bytes(), two.bytes()));
    let none = Blob::new("none").hash();
    assert_eq!(db.store.blob(none).await.unwrap(), None);
    assert_eq!(db.store.missing_blobs(&[one.hash(), none]).await.unwrap(), [none]);
    sqlx::query("UPDATE blobs SET bytes = 'x' WHERE size = 3").execute(&db.admin).await.unwrap();
    assert!(matches!(db.store.blob(two.hash()).await, Err(tako_vm::store::Error::Corrupt { .. })));
    let sizes: BTreeSet<i64> =
        sqlx::query_scalar("SELECT size FROM blobs").fetch_all(&db.admin).await.unwrap().into_iter().collect();
    assert_eq!(sizes, BTreeSet::from([3, 100_000]));
}
