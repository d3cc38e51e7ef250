//! What one append does, and what it leaves alone.

use std::sync::Arc;

use tako_vm::domain::Digest;
use tako_vm::store::{Blob, DeadLetterChange, DeadLetterRow, Error, Idempotency, Outcome, QueueChange, chain};
use tokio::sync::Barrier;
use uuid::Uuid;

use super::*;
use crate::db;

#[tokio::test]
async fn events_row_queue_row_and_blobs_commit_together() {
    let db = db::fresh().await;
    let id = Uuid::now_v7();
    let mut item = submit(id);
    item.blobs = vec![Blob::new("print(1)")];
    let first = appended(db.store.append(item).await.unwrap());
    assert_eq!((first.first_position, first.last_position, first.version), (1, 1, 1));
    for table in ["events", "executions", "queue", "blobs"] {
        assert_eq!(count(&db, table).await, 1, "{table}");
    }

    // A queue row that is there already spoils the whole item.
    let mut again = next(id, "JobDequeued").after(1, first.head_hash);
    again.queue = enqueue(5);
    again.record = Some(row("running"));
    again.blobs = vec![Blob::new("other")];
    let error = db.store.append(again).await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    assert_eq!((count(&db, "events").await, count(&db, "blobs").await), (1, 1));
    let status: String = sqlx::query_scalar("SELECT status FROM executions").fetch_one(&db.admin).await.unwrap();
    assert_eq!(status, "queued");

    let mut end = next(id, "ExecutionSucceeded").after(1, first.head_hash);
    end.queue = QueueChange::Remove;
    end.record = Some(row("succeeded"));
    appended(db.store.append(end).await.unwrap());
    assert_eq!((count(&db, "queue").await, count(&db, "endings").await), (0, 1));
    assert_eq!(db.store.ended(&[id, Uuid::nil()]).await.unwrap(), [id]);
}

#[tokio::test]
async fn a_change_of_a_row_that_is_not_there_is_an_error() {
    let db = db::fresh().await;
    let (id, first) = submitted(&db).await;
    for change in [QueueChange::Remove, QueueChange::FlagCancel, QueueChange::Release { not_before: None, attempt: 1 }]
    {
        let other = Uuid::now_v7();
        let mut item = next(other, "JobSubmitted");
        item.queue = change;
        let error = db.store.append(item).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
    let mut item = next(id, "DeadLetterDiscarded").after(1, first.head_hash);
    item.dead_letter = DeadLetterChange::Remove;
    assert!(db.store.append(item).await.is_err());
    assert_eq!(count(&db, "events").await, 1);
}

#[tokio::test]
async fn a_stale_version_appends_nothing() {
    let db = db::fresh().await;
    let (id, first) = submitted(&db).await;
    let second = next(id, "JobDequeued").after(1, first.head_hash);
    let head = appended(db.store.append(second).await.unwrap()).head_hash;

    let stale = next(id, "CancelRequested").after(1, first.head_hash);
    let conflict = Outcome::VersionConflict { expected: 1, actual: 2 };
    assert_eq!(db.store.append(stale).await.unwrap(), conflict);
    let anew = db.store.append(submit(id)).await.unwrap();
    assert_eq!(anew, Outcome::VersionConflict { expected: 0, actual: 2 });
    let ahead = next(id, "JobDequeued").after(3, head);
    assert_eq!(db.store.append(ahead).await.unwrap(), Outcome::VersionConflict { expected: 3, actual: 2 });
    // The right version after another history is as stale.
    let forged = next(id, "JobDequeued").after(2, Digest::of(b"another history"));
    assert_eq!(db.store.append(forged).await.unwrap(), Outcome::VersionConflict { expected: 2, actual: 2 });
    assert_eq!((count(&db, "events").await, count(&db, "queue").await), (2, 1));
}

#[tokio::test]
async fn a_repeated_event_id_returns_the_first_result() {
    let db = db::fresh().await;
    let id = Uuid::now_v7();
    let mut item = submit(id);
    item.events.push(event("JobDequeued", "{}"));
    let first = appended(db.store.append(item.clone()).await.unwrap());
    assert_eq!((first.first_position, first.last_position, first.version), (1, 2, 2));
    appended(db.store.append(next(id, "CancelRequested").after(2, first.head_hash)).await.unwrap());

    assert_eq!(db.store.append(item.clone()).await.unwrap(), Outcome::Duplicate(first));
    // Twice in one batch, after a batch that failed halfway, and with another expectation.
    let results = db.store.append_batch(vec![item.clone(), item.clone()]).await;
    for result in results {
        assert_eq!(result.unwrap(), Outcome::Duplicate(first));
    }
    assert_eq!(db.store.append(item.after(9, first.head_hash)).await.unwrap(), Outcome::Duplicate(first));
    assert_eq!(count(&db, "events").await, 3);

    let other = submit(Uuid::now_v7());
    let results = db.store.append_batch(vec![other.clone(), other]).await;
    let outcomes: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes[1], Outcome::Duplicate(appended(outcomes[0])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_racing_clients_with_one_key_make_one_execution() {
    let db = db::fresh().await;
    let barrier = Arc::new(Barrier::new(50));
    let clients: Vec<_> = (0..50_u8)
        .map(|client| {
            let (store, barrier) = (db.store.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                let mut item = submit(Uuid::now_v7());
                let fingerprint = Digest::of(&[client]);
                item.idempotency = Some(Idempotency { tenant: "t".into(), key: "k".into(), fingerprint });
                let (id, fingerprint) = (item.stream_id, fingerprint);
                barrier.wait().await;
                (id, fingerprint, store.append(item).await.unwrap())
            })
        })
        .collect();
    let mut winner = None;
    let mut told = Vec::new();
    for client in clients {
        match client.await.unwrap() {
            (id, fingerprint, Outcome::Appended(_)) => assert_eq!(winner.replace((id, fingerprint)), None),
            (_, _, Outcome::IdempotencyTaken { execution_id, fingerprint }) => told.push((execution_id, fingerprint)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, vec![winner.unwrap(); 49]);
    assert_eq!((count(&db, "events").await, count(&db, "queue").await), (1, 1));
    assert_eq!(db.store.idempotency_key("t", "k").await.unwrap(), winner);
    assert_eq!(db.store.idempotency_key("u", "k").await.unwrap(), None);
}

#[tokio::test]
async fn items_of_one_batch_that_share_a_key_or_a_stream_are_judged_in_order() {
    let db = db::fresh().await;
    let fingerprint = Digest::of(b"payload");
    let key = Some(Idempotency { tenant: "t".into(), key: "k".into(), fingerprint });
    let mut one = submit(Uuid::now_v7());
    one.idempotency = key.clone();
    let mut two = submit(Uuid::now_v7());
    two.idempotency = key;
    let execution_id = one.stream_id;
    let mut results = db.store.append_batch(vec![one, two]).await.into_iter().map(Result::unwrap);
    let first = appended(results.next().unwrap());
    assert_eq!(results.next(), Some(Outcome::IdempotencyTaken { execution_id, fingerprint }));

    // Two rivals for one version: the earlier wins. A third event that fits is in another batch.
    let rivals = ["JobDequeued", "CancelRequested"].map(|kind| next(execution_id, kind).after(1, first.head_hash));
    let mut results = db.store.append_batch(rivals.to_vec()).await.into_iter().map(Result::unwrap);
    let second = appended(results.next().unwrap());
    assert_eq!(results.next(), Some(Outcome::VersionConflict { expected: 1, actual: 2 }));

    // A follower goes into the batch of what it follows: its hash is known before it is stored.
    let mut third = next(execution_id, "LeaseExpired").after(2, second.head_hash);
    third.events[0].recorded_at = chrono::DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap();
    let link = chain::Link {
        stream_id: execution_id,
        version: 3,
        event_id: third.events[0].event_id,
        event_type: "LeaseExpired",
        schema_version: 1,
        recorded_at: third.events[0].recorded_at,
        actor: &third.events[0].actor,
        correlation_id: third.events[0].correlation_id.as_deref(),
        causation_id: None,
        payload: &third.events[0].payload,
    };
    let head = chain::hash(Some(&second.head_hash), &link);
    let fourth = next(execution_id, "JobDequeued").after(3, head);
    let results = db.store.append_batch(vec![third.clone(), submit(Uuid::now_v7()), fourth]).await;
    let positions: Vec<_> = results.into_iter().map(|result| appended(result.unwrap()).first_position).collect();
    // The follower is written after everything that waits for nothing.
    assert_eq!(positions, [3, 4, 5]);
    assert_eq!(db.store.stream_events(execution_id, 2, 10).await.unwrap()[0].hash, head);
}

#[tokio::test]
async fn one_bad_item_never_fails_its_batch() {
    let db = db::fresh().await;
    let mut items: Vec<_> = (0..20).map(|_| submit(Uuid::now_v7())).collect();
    items[3].events[0].payload = "{not json".into();
    items[4].events[0].actor = "a\0b".into();
    items[11].events[0].schema_version = 0;
    items[12].queue = QueueChange::Remove;
    items[17].events.clear();
    items[19].queue = enqueue(10);
    let bad = [3, 4, 11, 12, 17, 19];
    let results = db.store.append_batch(items).await;
    assert_eq!(results.len(), 20);
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(Outcome::Appended(_)) => assert!(!bad.contains(&number), "{number}"),
            Err(error) => assert!(bad.contains(&number) && !error.is_transient(), "{number}: {error:?}"),
            other => panic!("{number}: {other:?}"),
        }
    }
    for table in ["events", "executions", "queue"] {
        assert_eq!(count(&db, table).await, 14, "{table}");
    }
}

#[tokio::test]
async fn refusals_leave_the_other_items_alone() {
    let db = db::fresh().await;
    let (id, first) = submitted(&db).await;
    let stale = submit(id);
    let mut lost = next(id, "ExecutionStarted").after(1, first.head_hash);
    lost.lease = Some(77);
    let results = db.store.append_batch(vec![submit(Uuid::now_v7()), stale, lost, submit(Uuid::now_v7())]).await;
    let outcomes: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(appended(outcomes[0]).first_position, 2);
    assert_eq!(outcomes[1], Outcome::VersionConflict { expected: 0, actual: 1 });
    assert_eq!(outcomes[2], Outcome::LeaseLost { held: None });
    assert_eq!(appended(outcomes[3]).first_position, 3);
}

#[tokio::test]
async fn a_dead_letter_comes_and_goes_with_its_events() {
    let db = db::fresh().await;
    let (id, first) = submitted(&db).await;
    let letter = DeadLetterRow {
        execution_id: id,
        tenant: "default".into(),
        job_type: "default".into(),
        error_type: "docker_error".into(),
        error_message: "said \0 nothing".into(),
        retry_count: 2,
        created_at: chrono::DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap(),
        client_ip: None,
        correlation_id: Some("c".into()),
    };
    let mut item = next(id, "JobDeadLettered").after(1, first.head_hash);
    item.dead_letter = DeadLetterChange::Insert(letter.clone());
    let second = appended(db.store.append(item).await.unwrap());

    let shown = DeadLetterRow { error_message: "said \u{fffd} nothing".into(), ..letter };
    assert_eq!(db.store.dead_letter(id).await.unwrap(), Some(shown.clone()));
    assert_eq!(db.store.dead_letters(&Default::default(), 10, 0).await.unwrap(), [shown]);
    assert_eq!(db.store.dead_letter_counts(Some("default")).await.unwrap(), [("docker_error".to_owned(), 1)]);
    assert_eq!(db.store.dead_letter_counts(Some("other")).await.unwrap(), []);

    let mut item = next(id, "DeadLetterRequeued").after(2, second.head_hash);
    item.dead_letter = DeadLetterChange::Remove;
    appended(db.store.append(item).await.unwrap());
    assert_eq!(db.store.dead_letter(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_database_that_is_gone_is_a_transient_error() {
    let db = db::fresh().await;
    db.store.close().await;
    let error = db.store.append(submit(Uuid::now_v7())).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}
