//! Claims, leases and signs of life.

use std::collections::HashSet;
use std::time::Duration;

use tako_vm::store::{Outcome, QueueStats};
use uuid::Uuid;

use super::*;
use crate::db;

async fn node(db: &Db) -> Uuid {
    let node = Uuid::now_v7();
    db.store.register_node(node, 4, "1.0").await.unwrap();
    node
}

async fn submit_at(db: &Db, priority: i16) -> Uuid {
    let mut item = submit(Uuid::now_v7());
    item.queue = enqueue(priority);
    let id = item.stream_id;
    appended(db.store.append(item).await.unwrap());
    id
}

async fn claimed(db: &Db, node: Uuid, limit: usize) -> Vec<Uuid> {
    db.store.claim(node, limit).await.unwrap().into_iter().map(|claim| claim.execution_id).collect()
}

#[tokio::test]
async fn the_most_urgent_job_is_claimed_first_and_of_these_the_oldest() {
    let db = db::fresh().await;
    let node = node(&db).await;
    assert!(claimed(&db, node, 9).await.is_empty());
    let low = submit_at(&db, 0).await;
    let one = submit_at(&db, 5).await;
    let two = submit_at(&db, 5).await;
    let high = submit_at(&db, 9).await;
    assert_eq!(db.store.queue_position(two).await.unwrap(), Some(3));
    assert_eq!(claimed(&db, node, 3).await, [high, one, two]);
    assert_eq!(db.store.queue_position(two).await.unwrap(), None);
    // More urgent work that comes later still comes first.
    let later = submit_at(&db, 7).await;
    assert_eq!(claimed(&db, node, 3).await, [later, low]);
    assert_eq!(db.store.queue_stats().await.unwrap(), QueueStats { pending: 0, delayed: 0, running: 5 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_never_claim_the_same_job() {
    let db = db::fresh().await;
    for _ in 0..10 {
        let items = (0..50).map(|_| submit(Uuid::now_v7())).collect();
        append_all(&db, items).await;
    }
    let mut claimants = Vec::new();
    for _ in 0..6 {
        // A store of its own: another process.
        let store = tako_vm::store::Store::connect(&db.options).await.unwrap();
        let node = node(&db).await;
        claimants.push(tokio::spawn(async move {
            let mut claims = Vec::new();
            while store.queue_stats().await.unwrap().pending > 0 {
                claims.extend(store.claim(node, 7).await.unwrap());
            }
            claims
        }));
    }
    let mut claims = Vec::new();
    for claimant in claimants {
        claims.extend(claimant.await.unwrap());
    }
    let jobs: HashSet<_> = claims.iter().map(|claim| claim.execution_id).collect();
    let leases: HashSet<_> = claims.iter().map(|claim| claim.lease).collect();
    assert_eq!((claims.len(), jobs.len(), leases.len()), (500, 500, 500));
}

#[tokio::test]
async fn a_job_that_another_claim_gives_back_is_not_skipped() {
    let db = db::fresh().await;
    let node = node(&db).await;
    let first = submit_at(&db, 5).await;
    let second = submit_at(&db, 5).await;
    // A claim under way on another connection, which sees the first job and comes to nothing.
    let mut other = db.admin.begin().await.unwrap();
    let locked = "SELECT execution_id FROM queue ORDER BY seq LIMIT 1 FOR UPDATE";
    let seen: Uuid = sqlx::query_scalar(locked).fetch_one(&mut *other).await.unwrap();
    assert_eq!(seen, first);
    assert_eq!(claimed(&db, node, 5).await, [second]);
    assert!(claimed(&db, node, 5).await.is_empty());
    other.rollback().await.unwrap();
    assert_eq!(claimed(&db, node, 5).await, [first]);
}

#[tokio::test]
async fn a_released_job_goes_to_the_end_and_is_claimed_again_under_a_greater_lease() {
    let db = db::fresh().await;
    let node = node(&db).await;
    let (id, first) = submitted(&db).await;
    let claim = db.store.claim(node, 1).await.unwrap().remove(0);
    assert_eq!((claim.execution_id, claim.attempt), (id, 1));
    let other = submit_at(&db, 5).await;
    assert_eq!(claimed(&db, node, 1).await, [other]);
    let mut release = next(id, "LeaseExpired").after(1, first.head_hash);
    release.lease = Some(claim.lease);
    release.queue = QueueChange::Release { not_before: None, attempt: 1 };
    appended(db.store.append(release).await.unwrap());
    let again = db.store.claim(node, 5).await.unwrap();
    assert_eq!((again.len(), again[0].execution_id, again[0].attempt), (1, id, 2));
    assert!(again[0].lease > claim.lease);

    // A claim the log knows nothing of goes back the same way, once.
    assert!(db.store.release_claim(id, again[0].lease).await.unwrap());
    assert!(!db.store.release_claim(id, again[0].lease).await.unwrap());
    let third = db.store.claim(node, 5).await.unwrap();
    assert_eq!((third.len(), third[0].execution_id, third[0].attempt), (1, id, 2));
}

#[tokio::test]
async fn a_delayed_job_is_not_claimed_before_its_time() {
    let db = db::fresh().await;
    let node = node(&db).await;
    let not_before = now() + Duration::from_secs(3600);
    let not_before = chrono::SubsecRound::trunc_subsecs(not_before, 6);
    let mut item = submit(Uuid::now_v7());
    let id = item.stream_id;
    item.queue = QueueChange::Enqueue {
        tenant: "default".into(),
        job_type: "default".into(),
        priority: 5,
        not_before: Some(not_before),
        is_keyed: false,
    };
    appended(db.store.append(item).await.unwrap());
    let ready = submit_at(&db, 5).await;
    assert_eq!(claimed(&db, node, 5).await, [ready]);
    assert!(claimed(&db, node, 5).await.is_empty());
    assert_eq!(db.store.next_not_before().await.unwrap(), Some(not_before));
    assert_eq!(db.store.queue_stats().await.unwrap(), QueueStats { pending: 0, delayed: 1, running: 1 });
    // Its time has come: the clock is the database's, so the row is moved instead.
    let past = "UPDATE queue SET not_before = now() - interval '1 s' WHERE not_before IS NOT NULL";
    sqlx::query(past).execute(&db.admin).await.unwrap();
    let urgent = submit_at(&db, 6).await;
    assert_eq!(claimed(&db, node, 5).await, [urgent, id]);
    assert_eq!(db.store.next_not_before().await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_lease_appends_nothing() {
    let db = db::fresh().await;
    let node = node(&db).await;
    let (id, first) = submitted(&db).await;
    let lost = db.store.claim(node, 1).await.unwrap().remove(0).lease;
    assert!(db.store.release_claim(id, lost).await.unwrap());
    let mut item = next(id, "JobDequeued").after(1, first.head_hash);
    item.lease = Some(lost);
    item.record = Some(row("running"));
    assert_eq!(db.store.append(item.clone()).await.unwrap(), Outcome::LeaseLost { held: None });
    let held = db.store.claim(node, 1).await.unwrap().remove(0).lease;
    assert_eq!(db.store.append(item.clone()).await.unwrap(), Outcome::LeaseLost { held: Some(held) });
    assert_eq!(count(&db, "events").await, 1);
    item.lease = Some(held);
    appended(db.store.append(item).await.unwrap());
}

/// Until the database runs for so long: before, it gives every node its time.
async fn wait_for_age(db: &db::Db, age: Duration) {
    let is_older = "SELECT pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => $1)";
    while !sqlx::query_scalar::<_, bool>(is_older).bind(age.as_secs_f64()).fetch_one(&db.admin).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn only_claims_of_silent_nodes_expire() {
    let db = db::fresh().await;
    let (silent, alive) = (node(&db).await, node(&db).await);
    let (one, two) = (submit_at(&db, 5).await, submit_at(&db, 5).await);
    let claim = db.store.claim(silent, 1).await.unwrap().remove(0);
    assert_eq!((claim.execution_id, claimed(&db, alive, 1).await), (one, vec![two]));
    assert_eq!(
        db.store.expired_claims(Duration::from_secs(600)).await.unwrap(),
        [],
        "the cluster is younger than that"
    );
    let dead_after = Duration::from_secs(3);
    wait_for_age(&db, dead_after).await;
    db.store.heartbeat(silent).await.unwrap();
    db.store.heartbeat(alive).await.unwrap();
    assert_eq!(db.store.expired_claims(dead_after).await.unwrap(), []);
    let older = "UPDATE nodes SET heartbeat_at = now() - interval '600 s'";
    sqlx::query(older).execute(&db.admin).await.unwrap();
    db.store.heartbeat(alive).await.unwrap();
    let expired = db.store.expired_claims(dead_after).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!((expired[0].execution_id, expired[0].lease, expired[0].node_id), (one, claim.lease, silent));
    assert_eq!(db.store.claims_of(silent).await.unwrap(), expired);
    sqlx::query("DELETE FROM nodes WHERE node_id = $1").bind(alive).execute(&db.admin).await.unwrap();
    assert_eq!(db.store.expired_claims(dead_after).await.unwrap().len(), 2, "nobody knows the other node");
    assert!(db.store.heartbeat(alive).await.is_err());
}

#[tokio::test]
async fn a_node_that_is_not_running_claims_nothing() {
    let db = db::fresh().await;
    let id = submit_at(&db, 5).await;
    assert!(db.store.claim(Uuid::now_v7(), 1).await.is_err());
    let node = node(&db).await;
    db.store.set_node_state(node, tako_vm::store::NodeState::Draining).await.unwrap();
    assert!(db.store.claim(node, 1).await.is_err());
    db.store.register_node(node, 4, "1.0").await.unwrap();
    let other = ["other".to_owned()];
    assert_eq!(db.store.claim_of(node, 1, &other).await.unwrap(), []);
    assert_eq!(claimed(&db, node, 1).await, [id]);
    assert_eq!(db.store.nodes().await.unwrap()[0].state, "running");
}

#[tokio::test]
async fn a_cancel_reaches_the_node_that_holds_the_job() {
    let db = db::fresh().await;
    let node = node(&db).await;
    let (id, first) = submitted(&db).await;
    assert_eq!(claimed(&db, node, 1).await, [id]);
    assert!(db.store.cancel_requested(node).await.unwrap().is_empty());
    let mut cancel = next(id, "CancelRequested").after(1, first.head_hash);
    cancel.queue = QueueChange::FlagCancel;
    appended(db.store.append(cancel).await.unwrap());
    assert_eq!(db.store.cancel_requested(node).await.unwrap(), [id]);
    assert!(db.store.cancel_requested(Uuid::now_v7()).await.unwrap().is_empty());
}
