//! The log in partitions: one for each stream, and old ones that are archived and dropped.

use chrono::TimeDelta;
use sqlx::{AssertSqlSafe, Executor as _};
use tako_vm::domain::Digest;
use tako_vm::store::audit::{Sealing, SigningKey, Trust, Verification, Verified, Wrong, verify_archives};
use tako_vm::store::{NewEvent, Partition};
use uuid::Uuid;

use super::*;
use crate::db;
use crate::past::{age, id_of};

/// Two streams of an earlier month and one of this, which have partitions of their own: positions 1 to 6 are the
/// old ones', 7 to 12 both partitions', 13 to 18 the later one's. Three seals of six.
struct Aged {
    db: Db,
    old: [Uuid; 2],
    late: Uuid,
    late_head: Digest,
    key: SigningKey,
}

impl Aged {
    async fn new() -> Self {
        let db = db::fresh().await;
        age(&db).await;
        let old = [40, 50].map(|days| id_of(now() - TimeDelta::days(days)));
        let late = Uuid::now_v7();
        let mut heads = std::collections::HashMap::new();
        let mixed = [old[0], late, old[1], late, old[0], late];
        for id in [old[0], old[1]].into_iter().cycle().take(6).chain(mixed).chain([late; 6]) {
            let mut item = next(id, "JobSubmitted");
            (item.expected_version, item.prev_hash) = heads.get(&id).copied().unwrap_or((0, None));
            let appended = appended(db.store.append(item).await.unwrap());
            heads.insert(id, (appended.version, Some(appended.head_hash)));
        }
        let aged = Self { db, old, late, late_head: heads[&late].1.unwrap(), key: SigningKey::of_seed([5; 32]) };
        for _ in 0..3 {
            aged.seal().await;
        }
        aged
    }

    async fn seal(&self) {
        let sealing = Sealing { key: Some(&self.key), at: now(), at_least: 1, at_most: 6 };
        self.db.store.seal_next(sealing).await.unwrap().expect("something waits");
    }

    fn trust(&self) -> Trust {
        Trust { keys: vec![self.key.public_key()], ..Trust::default() }
    }

    async fn verify(&self) -> Verified {
        let verification = Verification { trust: self.trust(), ..Verification::default() };
        self.db.store.verify_log(&verification, &|_| {}).await.unwrap()
    }

    async fn partitions(&self) -> Vec<Partition> {
        let mut all = self.db.store.partitions_before(Uuid::max()).await.unwrap();
        all.truncate(1);
        all
    }

    async fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.db.store.export_streams(self.partitions().await[0].to_stream, &mut out).await.unwrap();
        out
    }

    async fn drop_first(&self) {
        let partitions = self.partitions().await;
        let held = self.db.store.drop_partitions(&partitions, 9, said()).await.unwrap();
        assert_eq!(held, None);
    }

    async fn run(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&self.db.admin).await.unwrap();
    }
}

fn said() -> NewEvent {
    event("LogArchived", "{}")
}

#[tokio::test]
async fn a_stream_is_in_one_partition_and_any_id_has_one() {
    let db = db::fresh().await;
    let ids = [Uuid::now_v7(), id_of(now() + TimeDelta::days(45)), Uuid::from_u128(1), Uuid::max()];
    for id in ids {
        let first = appended(db.store.append(submit(id)).await.unwrap());
        appended(db.store.append(next(id, "CancelRequested").after(1, first.head_hash)).await.unwrap());
    }
    let spread: Vec<(Uuid, i64)> =
        sqlx::query_as("SELECT stream_id, count(DISTINCT tableoid) FROM events GROUP BY stream_id")
            .fetch_all(&db.admin)
            .await
            .unwrap();
    assert_eq!(spread.len(), 4);
    assert!(spread.iter().all(|(_, partitions)| *partitions == 1), "{spread:?}");
    assert_eq!(count(&db, "events_other").await, 2);
    assert_eq!(db.store.make_partitions(3).await.unwrap(), 0, "the migration has made them");
    assert_eq!(db.store.make_partitions(5).await.unwrap(), 2);
}

#[tokio::test]
async fn a_partition_refuses_changes_as_the_log_does() {
    let aged = Aged::new().await;
    let partitions: Vec<String> =
        sqlx::query_scalar("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
            .fetch_all(&aged.db.admin)
            .await
            .unwrap();
    assert!(partitions.len() >= 5, "{partitions:?}");
    for partition in partitions {
        for statement in [format!("DELETE FROM {partition}"), format!("TRUNCATE {partition}")] {
            let refused = sqlx::query(AssertSqlSafe(statement)).execute(&aged.db.admin).await.unwrap_err();
            assert!(refused.to_string().contains("append-only"), "{partition}: {refused}");
        }
        for right in ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"] {
            let may: bool = sqlx::query_scalar("SELECT has_table_privilege('tako_vm_app', $1, $2)")
                .bind(&partition)
                .bind(right)
                .fetch_one(&aged.db.admin)
                .await
                .unwrap();
            assert!(!may, "{right} on {partition}");
        }
    }
}

#[tokio::test]
async fn an_archive_of_old_streams_verifies_with_leaves_for_the_others() {
    let aged = Aged::new().await;
    let archive = aged.archive().await;
    let verified = verify_archives([archive.as_slice()], &aged.trust(), &|_| {}).unwrap();
    assert!(verified.holds(), "{:#?}", verified.faults);
    assert_eq!((verified.events, verified.archived, verified.seals, verified.streams), (9, 3, 2, 2));
    // What stands for an event must be its leaf.
    let text = String::from_utf8(archive).unwrap();
    let leaf = text.lines().find(|line| line.starts_with(r#"{"leaf""#)).unwrap();
    let forged = leaf.replacen(r#""stream_kind":1"#, r#""stream_kind":2"#, 1);
    let forged = text.replace(leaf, &forged);
    let found = verify_archives([forged.as_bytes()], &aged.trust(), &|_| {}).unwrap();
    assert_eq!(found.faults[0].wrong, Wrong::NotTheSealed { first: 7, last: 12 });
}

#[tokio::test]
async fn a_log_whose_oldest_partition_was_dropped_verifies_and_goes_on() {
    let aged = Aged::new().await;
    let store = &aged.db.store;
    aged.drop_first().await;
    for id in aged.old {
        assert_eq!(store.stream_events(id, 0, 10).await.unwrap(), []);
    }
    let verified = aged.verify().await;
    assert!(verified.holds(), "{:#?}", verified.faults);
    // Nine of the later stream, and the one that says what was done.
    assert_eq!((verified.events, verified.archived, verified.last_position), (10, 9, 19));
    assert_eq!((count(&aged.db, "archived_leaves").await, count(&aged.db, "archived_seals").await), (3, 1));
    let proof = store.proof(aged.late).await.unwrap().unwrap();
    assert_eq!(proof.check(&aged.trust()).unwrap().sealed, 9);

    // Positions go on behind the last there ever was, and streams behind their heads.
    let later = appended(store.append(next(aged.late, "CancelRequested").after(9, aged.late_head)).await.unwrap());
    assert_eq!(later.first_position, 20);
    appended(store.append(submit(Uuid::now_v7())).await.unwrap());
    aged.seal().await;
    assert!(aged.verify().await.holds());
    // The whole log, as far as it is here, is an archive as well.
    let mut out = Vec::new();
    store.export_archive(0, &mut out).await.unwrap();
    let whole = verify_archives([out.as_slice()], &aged.trust(), &|_| {}).unwrap();
    assert!(whole.holds(), "{:#?}", whole.faults);
    assert_eq!((whole.events, whole.archived), (12, 9));
}

#[tokio::test]
async fn what_is_done_to_a_log_beside_a_dropped_partition_is_found() {
    for (statement, wrong) in [
        ("UPDATE archived_leaves SET stream_kind = 2 WHERE position = 7", Wrong::NotTheSealed { first: 7, last: 12 }),
        ("DELETE FROM archived_leaves WHERE position = 9", Wrong::Missing { first: 9, last: 9 }),
        ("DELETE FROM archived_seals", Wrong::Missing { first: 1, last: 6 }),
        ("DELETE FROM events WHERE position = 8", Wrong::Missing { first: 8, last: 8 }),
    ] {
        let aged = Aged::new().await;
        aged.drop_first().await;
        aged.run("ALTER TABLE events DISABLE TRIGGER ALL").await;
        aged.run(statement).await;
        assert_eq!(aged.verify().await.faults[0].wrong, wrong, "{statement}");
    }
}

#[tokio::test]
async fn streams_that_somebody_still_needs_are_not_dropped() {
    let aged = Aged::new().await;
    let partitions = aged.partitions().await;
    let id = id_of(now() - TimeDelta::days(40));
    appended(aged.db.store.append(submit(id)).await.unwrap());
    let held = aged.db.store.drop_partitions(&partitions, 10, said()).await.unwrap().unwrap();
    assert_eq!((held.records, held.unsealed, held.events), (1, 1, 10));
    aged.seal().await;
    let held = aged.db.store.drop_partitions(&partitions, 10, said()).await.unwrap().unwrap();
    assert_eq!((held.records, held.unsealed), (1, 0), "{held}");
    let node = id_of(now() - TimeDelta::days(40));
    aged.db.store.register_node(node, 1, "test").await.unwrap();
    aged.run(&format!("DELETE FROM executions WHERE execution_id = '{id}'")).await;
    let held = aged.db.store.drop_partitions(&partitions, 10, said()).await.unwrap().unwrap();
    assert_eq!((held.records, held.nodes), (0, 1), "{held}");
    aged.run("UPDATE nodes SET state = 'stopped'").await;
    // Streams may still begin in this month's.
    let all = aged.db.store.partitions_before(Uuid::max()).await.unwrap();
    let held = aged.db.store.drop_partitions(&all[1..2], 9, said()).await.unwrap().unwrap();
    assert!(!held.is_past);
    // Something was appended after the archive was written.
    assert!(aged.db.store.drop_partitions(&partitions, 9, said()).await.unwrap().is_some());
    assert_eq!(aged.db.store.drop_partitions(&partitions, 10, said()).await.unwrap(), None);
    assert!(aged.verify().await.holds());
}

#[tokio::test]
async fn an_append_reads_the_partition_of_its_stream_alone() {
    let aged = Aged::new().await;
    let mut connection = aged.db.admin.acquire().await.unwrap();
    for setting in ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"] {
        let off = format!("SET {setting} = off");
        sqlx::query(AssertSqlSafe(off)).execute(&mut *connection).await.unwrap();
    }
    // The look-ups of append_events, for a stream that begins.
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) \
         SELECT h.version, f.position FROM unnest(ARRAY['{}'::uuid], ARRAY[gen_random_uuid()]) AS i (stream, event) \
           LEFT JOIN events f ON f.stream_id = i.stream AND f.event_id = i.event \
           LEFT JOIN LATERAL (SELECT e.version FROM events e WHERE e.stream_id = i.stream \
                               ORDER BY e.version DESC LIMIT 1) h ON true",
        aged.late
    )))
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let read =
        plan.iter().filter(|line| line.contains("Index") && line.contains("Scan") && !line.contains("never")).count();
    assert_eq!(read, 2, "{plan:#?}");
    // The end of the log, and a page of it, are read from the partitions' own indexes, in order.
    for statement in [
        "SELECT coalesce(max(position), 0) FROM events",
        "SELECT * FROM events WHERE position > 3 ORDER BY position LIMIT 5",
    ] {
        let explain = AssertSqlSafe(format!("EXPLAIN (COSTS off) {statement}"));
        let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
        let walks =
            plan.iter().any(|line| line.contains("Seq Scan") || line.contains("Sort (") || line.trim() == "->  Sort");
        assert!(!walks && plan.iter().any(|line| line.contains("_position")), "{plan:#?}");
    }
}

#[tokio::test]
async fn a_log_of_before_there_were_partitions_becomes_the_first_one() {
    for (id, partitions) in [(Uuid::now_v7(), 5), (Uuid::from_u128(u128::MAX - 1), 2)] {
        let options = db::empty().await;
        let admin = sqlx::PgPool::connect(&options.url).await.unwrap();
        let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        admin.execute("CREATE TABLE _sqlx_migrations ()").await.unwrap();
        for (number, file) in (1..).zip(&files) {
            if number == 8 {
                let insert = "INSERT INTO events (position, event_id, stream_id, version, recorded_at, schema_version, \
                              stream_kind, event_type, actor, hash, payload) VALUES (1, gen_random_uuid(), $1, 1, \
                              now(), 1, 1, 'X', '', decode(repeat('00', 32), 'hex'), '{}')";
                sqlx::query(insert).bind(id).execute(&admin).await.unwrap();
            }
            let text = std::fs::read_to_string(file).unwrap();
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&admin).await.unwrap();
        }
        let found: (String, i64) =
            sqlx::query_as("SELECT tableoid::regclass::text, position FROM events").fetch_one(&admin).await.unwrap();
        assert_eq!(found, ("events_first".to_owned(), 1));
        let made: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")
            .fetch_one(&admin)
            .await
            .unwrap();
        assert_eq!(made, partitions);
        admin.close().await;
    }
}
