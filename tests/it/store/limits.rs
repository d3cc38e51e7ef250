//! Which job may be claimed next, and by whom: limits, turns, ageing, placement.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tako_vm::store::{Advert, Claim, ClaimSettings, JobTypeRule, Store};
use uuid::Uuid;

use super::*;
use crate::db;

async fn node(db: &Db) -> Uuid {
    let node = Uuid::now_v7();
    db.store.register_node(node, 4, "1.0").await.unwrap();
    node
}

fn settings() -> ClaimSettings {
    ClaimSettings {
        ageing: Duration::ZERO,
        warm_grace: Duration::ZERO,
        dead_after: Duration::from_secs(10),
        tenant_limit: 0,
        tenant_limits: BTreeMap::new(),
    }
}

/// A job of a tenant and type, with a key of a limit if one is given.
fn job(tenant: &str, job_type: &str, priority: i16, key: Option<(&str, u32)>) -> Append {
    let mut item = submit(Uuid::now_v7());
    if let Some((key, limit)) = key {
        item.events[0].payload = format!(r#"{{"concurrency":{{"key":"{key}","limit":{limit}}}}}"#);
    }
    item.queue = QueueChange::Enqueue {
        tenant: tenant.into(),
        job_type: job_type.into(),
        priority,
        not_before: None,
        is_keyed: key.is_some(),
    };
    item
}

async fn submit_one(db: &Db, item: Append) -> Uuid {
    let id = item.stream_id;
    appended(db.store.append(item).await.unwrap());
    id
}

async fn claimed(db: &Db, node: Uuid, limit: usize) -> Vec<Claim> {
    db.store.claim(node, limit).await.unwrap()
}

fn ids(claims: &[Claim]) -> Vec<Uuid> {
    claims.iter().map(|claim| claim.execution_id).collect()
}

/// Ends a claimed job, of whose claim the log may know nothing here.
async fn end(store: &Store, claim: &Claim) {
    let (head, version) = {
        let events = store.stream_events(claim.execution_id, 0, 10).await.unwrap();
        let last = events.last().unwrap();
        (last.hash, last.version)
    };
    let mut item = next(claim.execution_id, "ExecutionSucceeded").after(version, head);
    item.lease = Some(claim.lease);
    item.record = Some(row("succeeded"));
    item.queue = QueueChange::Remove;
    appended(store.append(item).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_limit_is_exceeded_though_many_nodes_claim_at_once() {
    let db = db::fresh().await;
    let tenant_limits = BTreeMap::from([("small".to_owned(), 2)]);
    db.store.put_claim_settings(&ClaimSettings { tenant_limits, ..settings() }).await.unwrap();
    let rule = JobTypeRule { job_type: "heavy".into(), concurrency: Some(3), ..JobTypeRule::default() };
    db.store.put_job_type_rules(&[rule]).await.unwrap();
    let mut items = Vec::new();
    for number in 0..60 {
        items.push(job("small", "light", 5, None));
        items.push(job("large", "heavy", 5, None));
        items.push(job("large", "light", 5, Some((if number % 2 == 0 { "even" } else { "odd" }, 1))));
        items.push(job("large", "light", 5, None));
    }
    append_all(&db, items).await;
    // Samples what runs, in one snapshot each, for as long as the nodes work.
    let admin = db.admin.clone();
    let watch = tokio::spawn(async move {
        let mut most: HashMap<String, i64> = HashMap::new();
        loop {
            let running: Vec<(String, i64)> = sqlx::query_as(
                "SELECT unnest(ARRAY[tenant, job_type, limit_key]) AS name, count(*) FROM queue \
                  WHERE lease IS NOT NULL GROUP BY 1",
            )
            .fetch_all(&admin)
            .await
            .map(|rows: Vec<(Option<String>, i64)>| {
                rows.into_iter().filter_map(|(name, count)| Some((name?, count))).collect()
            })
            .unwrap();
            for (name, count) in running {
                let seen = most.entry(name).or_default();
                *seen = count.max(*seen);
            }
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&admin).await.unwrap();
            if left == 0 {
                return most;
            }
        }
    });
    let mut nodes = Vec::new();
    for _ in 0..4 {
        let store = Store::connect(&db.options).await.unwrap();
        let node = node(&db).await;
        nodes.push(tokio::spawn(async move {
            let mut done = 0;
            loop {
                let claims = store.claim(node, 5).await.unwrap();
                for claim in &claims {
                    end(&store, claim).await;
                }
                done += claims.len();
                let stats = store.queue_stats().await.unwrap();
                if stats.pending + stats.running == 0 {
                    return done;
                }
            }
        }));
    }
    let mut done = 0;
    for node in nodes {
        done += node.await.unwrap();
    }
    let most = watch.await.unwrap();
    assert_eq!(done, 240, "every job ran once");
    for (name, limit) in [("small", 2), ("heavy", 3), ("even", 1), ("odd", 1)] {
        let seen = most.get(name).copied().unwrap_or_default();
        assert!((1..=limit).contains(&seen), "{name}: {seen} of at most {limit}: {most:?}");
    }
    assert!(most["large"] > 3, "what has no limit is not held up: {most:?}");
}

#[tokio::test]
async fn a_full_group_holds_up_nobody_behind_it() {
    let db = db::fresh().await;
    let node = node(&db).await;
    append_all(&db, (0..300).map(|_| job("a", "default", 5, Some(("k", 2)))).collect()).await;
    let other_key = submit_one(&db, job("a", "default", 5, Some(("l", 1)))).await;
    let no_key = submit_one(&db, job("a", "default", 5, None)).await;
    let low = submit_one(&db, job("a", "default", 0, None)).await;
    // Another tenant's key of the same name is another key.
    let other_tenant = submit_one(&db, job("b", "default", 0, Some(("k", 1)))).await;
    let claims = claimed(&db, node, 10).await;
    let of_k: Vec<_> = claims.iter().filter(|claim| claim.priority == 5 && claim.tenant == "a").collect();
    assert_eq!(of_k.len(), 4, "two of the full key, and the two behind them");
    for id in [other_key, no_key, low, other_tenant] {
        assert!(ids(&claims).contains(&id), "{claims:?}");
    }
    assert_eq!(claimed(&db, node, 10).await, []);
    let first = claims.iter().find(|claim| ![other_key, no_key, low, other_tenant].contains(&claim.execution_id));
    end(&db.store, first.unwrap()).await;
    assert_eq!(claimed(&db, node, 10).await.len(), 1, "one ended, one follows");
}

#[tokio::test]
async fn a_limit_of_a_job_type_counts_delayed_jobs_whose_time_has_come() {
    let db = db::fresh().await;
    let node = node(&db).await;
    let rule = |limit| JobTypeRule { job_type: "heavy".into(), concurrency: limit, ..JobTypeRule::default() };
    db.store.put_job_type_rules(&[rule(Some(1))]).await.unwrap();
    for _ in 0..3 {
        submit_one(&db, job("a", "heavy", 5, None)).await;
    }
    sqlx::query("UPDATE queue SET not_before = now() - interval '1 s'").execute(&db.admin).await.unwrap();
    let light = submit_one(&db, job("a", "light", 5, None)).await;
    let claims = claimed(&db, node, 9).await;
    assert_eq!(claims.len(), 2);
    assert!(ids(&claims).contains(&light));
    assert_eq!(claimed(&db, node, 9).await, []);
    db.store.put_job_type_rules(&[rule(None)]).await.unwrap();
    assert_eq!(claimed(&db, node, 9).await.len(), 2, "the limit is gone");
}

#[tokio::test]
async fn tenants_of_one_priority_take_turns() {
    let db = db::fresh().await;
    let node = node(&db).await;
    for _ in 0..20 {
        append_all(&db, (0..50).map(|_| job("many", "default", 5, None)).collect()).await;
    }
    assert_eq!(claimed(&db, node, 3).await.len(), 3);
    let one = submit_one(&db, job("few", "default", 5, None)).await;
    let two = submit_one(&db, job("few", "other", 5, None)).await;
    let urgent = submit_one(&db, job("many", "default", 6, None)).await;
    assert_eq!(ids(&claimed(&db, node, 1).await), [urgent], "priority comes first");
    assert_eq!(ids(&claimed(&db, node, 1).await), [one], "then who has the fewest at work");
    assert_eq!(ids(&claimed(&db, node, 1).await), [two]);
    let claims = claimed(&db, node, 5).await;
    assert!(claims.len() == 5 && claims.iter().all(|claim| claim.tenant == "many"));
}

#[tokio::test]
async fn a_job_that_waited_long_goes_before_more_urgent_ones() {
    let db = db::fresh().await;
    let node = node(&db).await;
    db.store.put_claim_settings(&ClaimSettings { ageing: Duration::from_secs(60), ..settings() }).await.unwrap();
    let low = submit_one(&db, job("a", "default", 0, None)).await;
    let delayed = submit_one(&db, job("a", "default", 1, None)).await;
    let waited = |seconds: i32, id: Uuid| {
        sqlx::query("UPDATE queue SET queued_at = now() - make_interval(secs => $1) WHERE execution_id = $2")
            .bind(f64::from(seconds))
            .bind(id)
            .execute(&db.admin)
    };
    waited(8 * 60, low).await.unwrap();
    let high = submit_one(&db, job("a", "default", 9, None)).await;
    assert_eq!(ids(&claimed(&db, node, 1).await), [high], "eight steps are not nine");
    submit_one(&db, job("a", "default", 9, None)).await;
    waited(9 * 60 + 1, low).await.unwrap();
    assert_eq!(ids(&claimed(&db, node, 1).await), [low]);
    // One that was delayed waits from its time on.
    let due = "UPDATE queue SET not_before = now() - make_interval(secs => $1) WHERE execution_id = $2";
    waited(3600, delayed).await.unwrap();
    sqlx::query(due).bind(500.0).bind(delayed).execute(&db.admin).await.unwrap();
    assert_eq!(ids(&claimed(&db, node, 1).await), [delayed]);
    db.store.put_claim_settings(&settings()).await.unwrap();
    let low = submit_one(&db, job("a", "default", 0, None)).await;
    waited(9000, low).await.unwrap();
    assert_eq!(claimed(&db, node, 1).await[0].priority, 9, "without ageing, priority alone counts");
}

#[tokio::test]
async fn only_a_node_that_has_what_a_job_type_asks_for_claims_its_jobs() {
    let db = db::fresh().await;
    let (plain, able) = (node(&db).await, node(&db).await);
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let more = BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("disk".to_owned(), "fast".to_owned())]);
    let advert = |runtime: &str, labels: &BTreeMap<String, String>, gpus: &[&str]| Advert {
        engine: "docker".into(),
        runtime: runtime.into(),
        labels: labels.clone(),
        gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
    };
    db.store.advertise(plain, &advert("runc", &BTreeMap::new(), &[])).await.unwrap();
    db.store.advertise(able, &advert("runsc", &more, &["nvidia"])).await.unwrap();
    let rule = |name: &str| JobTypeRule { job_type: name.into(), ..JobTypeRule::default() };
    db.store
        .put_job_type_rules(&[
            JobTypeRule { runtime: Some("runsc".into()), ..rule("safe") },
            JobTypeRule { labels, ..rule("near") },
            JobTypeRule { gpu: Some("nvidia".into()), ..rule("gpu") },
            JobTypeRule { runtime: Some("docker".into()), ..rule("any") },
        ])
        .await
        .unwrap();
    for name in ["safe", "near", "gpu", "any"] {
        submit_one(&db, job("a", name, 5, None)).await;
    }
    let of = |claims: Vec<Claim>| claims.into_iter().map(|claim| claim.job_type).collect::<Vec<_>>();
    assert_eq!(of(claimed(&db, plain, 9).await), ["any"]);
    assert_eq!(of(claimed(&db, able, 9).await), ["safe", "near", "gpu"]);
}

#[tokio::test]
async fn a_node_leaves_jobs_for_a_while_to_nodes_that_have_their_image() {
    let db = db::fresh().await;
    let (cold, warm) = (node(&db).await, node(&db).await);
    db.store.put_claim_settings(&ClaimSettings { warm_grace: Duration::from_secs(60), ..settings() }).await.unwrap();
    db.store.advertise_warm(warm, &["built".to_owned()]).await.unwrap();
    let first = submit_one(&db, job("a", "built", 5, None)).await;
    let other = submit_one(&db, job("a", "other", 5, None)).await;
    assert_eq!(ids(&claimed(&db, cold, 9).await), [other]);
    assert_eq!(ids(&claimed(&db, warm, 9).await), [first]);
    let late = submit_one(&db, job("a", "built", 5, None)).await;
    assert_eq!(claimed(&db, cold, 9).await, []);
    let longer = "UPDATE queue SET queued_at = now() - interval '61 s' WHERE lease IS NULL";
    sqlx::query(longer).execute(&db.admin).await.unwrap();
    assert_eq!(ids(&claimed(&db, cold, 9).await), [late], "the grace has passed");
    let gone = submit_one(&db, job("a", "built", 5, None)).await;
    let silent = "UPDATE nodes SET heartbeat_at = now() - interval '11 s' WHERE node_id = $1";
    sqlx::query(silent).bind(warm).execute(&db.admin).await.unwrap();
    assert_eq!(ids(&claimed(&db, cold, 9).await), [gone], "a dead node is waited for by nobody");
}
