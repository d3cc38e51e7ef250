//! What somebody who may do anything to the database can do to the log, and how it is found.

use sqlx::{AssertSqlSafe, PgConnection};
use tako_vm::domain::Digest;
use tako_vm::store::audit::{Fault, Seal, Sealing, SigningKey, Trust, Verification, Verified, Wrong};
use tako_vm::store::chain;
use tako_vm::store::{Error, StoredEvent};
use uuid::Uuid;

use super::*;
use crate::db;

/// Four streams of five events, written in turns, in seals of six: positions 1 to 18 are sealed, 19
/// and 20 are not. Stream `n` has the positions `n + 1`, `n + 5`, and so on.
pub struct Log {
    pub db: Db,
    pub streams: Vec<Uuid>,
    pub key: SigningKey,
}

const STREAMS: usize = 4;
const SEAL: u32 = 6;

impl Log {
    pub async fn new() -> Self {
        let log = Self {
            db: db::fresh().await,
            streams: (0..STREAMS).map(|_| Uuid::now_v7()).collect(),
            key: SigningKey::of_seed([5; 32]),
        };
        let mut heads = vec![(0, None); STREAMS];
        for round in 0..5 {
            for (id, head) in log.streams.iter().zip(&mut heads) {
                let mut item = next(*id, "JobSubmitted");
                item.events[0].payload = format!(r#"{{"round": {round}, "of": "{id}"}}"#);
                (item.expected_version, item.prev_hash) = *head;
                let appended = appended(log.db.store.append(item).await.unwrap());
                *head = (appended.version, Some(appended.head_hash));
            }
        }
        for _ in 0..3 {
            log.seal_with(&log.key).await.expect("six events wait");
        }
        assert_eq!(log.seal_with(&log.key).await, None, "two are too few");
        log
    }

    pub async fn seal_with(&self, key: &SigningKey) -> Option<Seal> {
        let sealing = Sealing { key: Some(key), at: now(), at_least: SEAL, at_most: SEAL };
        self.db.store.seal_next(sealing).await.unwrap()
    }

    pub fn trust(&self) -> Trust {
        Trust { keys: vec![self.key.public_key()], ..Trust::default() }
    }

    async fn verify_with(&self, trust: Trust) -> Verified {
        let verification = Verification { trust, ..Verification::default() };
        self.db.store.verify_log(&verification, &|_| {}).await.unwrap()
    }

    async fn verify(&self) -> Verified {
        self.verify_with(self.trust()).await
    }

    /// The first thing found.
    async fn first(&self) -> Fault {
        self.verify().await.faults.into_iter().next().expect("it is found")
    }

    /// Runs statements as the superuser who has taken the triggers off.
    async fn tamper(&self, statements: &[&str]) {
        let mut connection = self.db.admin.acquire().await.unwrap();
        run(&mut connection, "SET session_replication_role = replica").await;
        for table in ["events", "seals"] {
            run(&mut connection, &format!("ALTER TABLE {table} DISABLE TRIGGER ALL")).await;
        }
        for statement in statements {
            let changed = run(&mut connection, statement).await;
            assert!(changed > 0, "{statement} changes nothing");
        }
        run(&mut connection, "RESET session_replication_role").await;
    }

    async fn events(&self) -> Vec<StoredEvent> {
        self.db.store.log_events(0, &[], 1000).await.unwrap()
    }

    /// Gives the events of a stream from a version on the hashes that fit what is stored.
    async fn rehash(&self, stream: Uuid, from: i32) {
        let events = self.db.store.stream_events(stream, 0, 100).await.unwrap();
        let mut previous: Option<Digest> = None;
        for event in events {
            let own = chain::hash(previous.as_ref(), &event.link());
            if event.version >= from {
                self.set_hashes(event.position, previous, own).await;
            }
            previous = Some(own);
        }
    }

    async fn set_hashes(&self, position: i64, previous: Option<Digest>, own: Digest) {
        let previous = previous.map_or("NULL".to_owned(), |previous| format!(r"'\x{previous}'"));
        let update = format!(r"UPDATE events SET prev_hash = {previous}, hash = '\x{own}' WHERE position = {position}");
        self.tamper(&[&update]).await;
    }
}

async fn run(connection: &mut PgConnection, statement: &str) -> u64 {
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(connection).await;
    let done = done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    if statement.starts_with("ALTER") || statement.contains("SET session") { 1 } else { done.rows_affected() }
}

impl Log {
    /// Makes an event that fits its own hash and begins a chain anew.
    pub async fn rehash_from_nothing(&self, position: i64) {
        let events = self.events().await;
        let event = events.iter().find(|event| event.position == position).unwrap();
        self.set_hashes(position, None, chain::hash(None, &event.link())).await;
    }
}

#[tokio::test]
async fn a_log_that_nobody_touched_verifies() {
    let log = Log::new().await;
    let verified = log.verify().await;
    assert!(verified.holds(), "{:#?}", verified.faults);
    assert_eq!((verified.events, verified.streams, verified.seals, verified.signed), (20, 4, 3, 3));
    assert_eq!((verified.sealed_through, verified.last_position, verified.complete), (18, 20, true));
    let newest = log.db.store.newest_seal().await.unwrap().unwrap();
    assert_eq!((newest.seal_no, newest.first_position, newest.last_position), (3, 13, 18));
    let anchored = Trust { anchors: vec![newest], ..log.trust() };
    assert!(log.verify_with(anchored).await.holds());
}

#[tokio::test]
async fn an_empty_log_verifies_and_has_nothing_to_seal() {
    let db = db::fresh().await;
    let sealing = Sealing { key: None, at: now(), at_least: 0, at_most: 10 };
    assert_eq!(db.store.seal_next(sealing).await.unwrap(), None);
    let verified = db.store.verify_log(&Verification::default(), &|_| {}).await.unwrap();
    assert!(verified.holds() && verified.complete);
}

#[tokio::test]
async fn an_edited_payload_is_found() {
    let log = Log::new().await;
    log.tamper(&[r#"UPDATE events SET payload = '{"round": 9}' WHERE position = 10"#]).await;
    let fault = log.first().await;
    assert_eq!((fault.position, fault.version, fault.wrong), (Some(10), Some(3), Wrong::Changed));
    assert_eq!(fault.stream_id, Some(log.streams[1]));
    // Even one that no seal covers yet.
    let log = Log::new().await;
    log.tamper(&["UPDATE events SET payload = ' {}' WHERE position = 20"]).await;
    assert_eq!(log.first().await.position, Some(20));
}

#[tokio::test]
async fn an_edit_of_any_column_is_found() {
    for (column, value) in [
        ("event_id", "gen_random_uuid()"),
        ("stream_id", "gen_random_uuid()"),
        ("recorded_at", "recorded_at + interval '1 microsecond'"),
        ("recorded_at", "'infinity'"),
        ("causation_id", "gen_random_uuid()"),
        ("version", "99"),
        ("schema_version", "2"),
        ("stream_kind", "2"),
        ("event_type", "'JobRejected'"),
        ("actor", "'somebody else'"),
        ("correlation_id", "NULL"),
        ("prev_hash", "NULL"),
        ("hash", r"decode(repeat('ab', 32), 'hex')"),
    ] {
        let log = Log::new().await;
        log.tamper(&[&format!("UPDATE events SET {column} = {value} WHERE position = 9")]).await;
        let fault = log.first().await;
        // The hash of an event does not cover its stream's kind; its leaf does.
        match column {
            "stream_kind" => {
                assert_eq!(fault.wrong, Wrong::NotTheSealed { first: 7, last: 12 });
                assert_eq!((fault.seal_no, fault.position), (Some(2), Some(7)));
            }
            _ => assert_eq!(fault.position, Some(9), "{column}: {fault}"),
        }
    }
}

#[tokio::test]
async fn an_edit_with_every_later_hash_of_its_stream_made_to_fit_is_found_by_the_seal() {
    let log = Log::new().await;
    log.tamper(&[r#"UPDATE events SET payload = '{"round": 9}' WHERE position = 10"#]).await;
    log.rehash(log.streams[1], 3).await;
    let verified = log.verify().await;
    let found: Vec<_> = verified.faults.iter().map(|fault| (fault.seal_no, fault.wrong.clone())).collect();
    // Positions 10, 14 and 18 have other hashes now.
    let wrong = |first, last| Wrong::NotTheSealed { first, last };
    assert_eq!(found, [(Some(2), wrong(7, 12)), (Some(3), wrong(13, 18))]);
    assert_eq!(verified.sealed_through, 6);
}

#[tokio::test]
async fn an_event_deleted_in_the_middle_is_found() {
    let log = Log::new().await;
    log.tamper(&["DELETE FROM events WHERE position = 7"]).await;
    let verified = log.verify().await;
    let [first, second, ..] = &verified.faults[..] else { panic!("{verified:#?}") };
    assert_eq!((first.position, &first.wrong), (Some(7), &Wrong::Missing { first: 7, last: 7 }));
    assert_eq!((second.position, &second.wrong), (Some(11), &Wrong::OutOfOrder { expected: 2, found: 3 }));
    // Later positions moved down over it, and the stream's versions and hashes made to fit.
    log.tamper(&[
        "UPDATE events SET position = -position WHERE position > 7",
        "UPDATE events SET position = -position - 1 WHERE position < 0",
    ])
    .await;
    let stream = format!("'{}'", log.streams[2]);
    log.tamper(&[
        &format!("UPDATE events SET version = version + 100 WHERE stream_id = {stream} AND version > 2"),
        &format!("UPDATE events SET version = version - 101 WHERE stream_id = {stream} AND version > 100"),
    ])
    .await;
    log.rehash(log.streams[2], 1).await;
    assert_eq!(log.first().await.wrong, Wrong::NotTheSealed { first: 7, last: 12 });
}

#[tokio::test]
async fn a_first_event_that_is_deleted_is_found() {
    let log = Log::new().await;
    log.tamper(&["DELETE FROM events WHERE position <= 4"]).await;
    let first = log.first().await;
    assert_eq!((first.position, first.wrong), (Some(1), Wrong::Missing { first: 1, last: 4 }));
}

#[tokio::test]
async fn a_tail_that_is_cut_off_is_found() {
    let log = Log::new().await;
    let anchor = log.db.store.newest_seal().await.unwrap().unwrap();
    log.tamper(&["DELETE FROM events WHERE position > 15"]).await;
    let fault = log.first().await;
    assert_eq!(fault.wrong, Wrong::CutOff { last: 18, log_end: 15 });
    assert_eq!((fault.seal_no, fault.position), (Some(3), Some(16)));
    // It is not sealed over either.
    let sealing = Sealing { key: Some(&log.key), at: now(), at_least: 1, at_most: 100 };
    assert!(matches!(log.db.store.seal_next(sealing).await, Err(Error::Corrupt { table: "seals", .. })));

    // With its seal gone too, only somebody who kept one knows.
    log.tamper(&["DELETE FROM seals WHERE seal_no = 3"]).await;
    assert!(log.verify().await.holds());
    let anchored = Trust { anchors: vec![anchor], ..log.trust() };
    let found = log.verify_with(anchored).await.faults;
    assert_eq!(found[0].wrong, Wrong::AnchorGone { last: 18 });
    assert_eq!((found.len(), found[0].seal_no, found[0].position), (1, Some(3), Some(13)));
}

#[tokio::test]
async fn a_history_made_anew_is_found_against_a_seal_kept_elsewhere() {
    let log = Log::new().await;
    let anchor = log.db.store.newest_seal().await.unwrap().unwrap();
    log.tamper(&[r#"UPDATE events SET payload = '{"round": 9}' WHERE position = 2"#, "DELETE FROM seals"]).await;
    log.rehash(log.streams[1], 1).await;
    // Whoever has the key can even sign it.
    while log.seal_with(&log.key).await.is_some() {}
    assert!(log.verify().await.holds());
    let anchored = Trust { anchors: vec![anchor.clone()], ..log.trust() };
    let found = log.verify_with(anchored).await.faults;
    assert_eq!((found[0].seal_no, &found[0].wrong), (Some(3), &Wrong::AnchorDiffers));
    // An anchor that somebody changed shows nothing.
    let forged = Seal { last_position: 17, ..anchor };
    let found = log.verify_with(Trust { anchors: vec![forged], ..log.trust() }).await.faults;
    assert_eq!(found[0].wrong, Wrong::AnchorBroken);
}

#[tokio::test]
async fn an_inserted_event_is_found() {
    // In a gap that was made for it.
    let forged = |log: &Log, position: i64| {
        format!(
            "INSERT INTO events SELECT {position}, gen_random_uuid(), '{}', recorded_at, NULL, 6, schema_version, \
             stream_kind, event_type, actor, correlation_id, hash, hash, payload FROM events WHERE position = 17",
            log.streams[0]
        )
    };
    let log = Log::new().await;
    log.tamper(&[
        "UPDATE events SET position = -position WHERE position > 17",
        "UPDATE events SET position = -position + 1 WHERE position < 0",
        &forged(&log, 18),
    ])
    .await;
    let first = log.first().await;
    assert_eq!((first.position, first.wrong), (Some(18), Wrong::Changed));
    // And with hashes that fit: what is sealed is not it.
    log.rehash(log.streams[0], 1).await;
    let first = log.first().await;
    assert_eq!((first.position, first.wrong), (Some(13), Wrong::NotTheSealed { first: 13, last: 18 }));

    // At a position that there is already, which takes the primary key away first.
    let log = Log::new().await;
    log.tamper(&["ALTER TABLE events_first DROP CONSTRAINT events_first_position", &forged(&log, 17)]).await;
    let first = log.first().await;
    assert_eq!((first.position, first.wrong), (Some(17), Wrong::Doubled));
}

#[tokio::test]
async fn positions_that_changed_places_are_found() {
    let swap = |one: i64, other: i64| {
        [
            format!("UPDATE events SET position = -1 WHERE position = {one}"),
            format!("UPDATE events SET position = {one} WHERE position = {other}"),
            format!("UPDATE events SET position = {other} WHERE position = -1"),
        ]
    };
    // Of different streams: both chains hold.
    let log = Log::new().await;
    log.tamper(&swap(8, 9).each_ref().map(String::as_str)).await;
    let first = log.first().await;
    assert_eq!((first.position, first.wrong), (Some(7), Wrong::NotTheSealed { first: 7, last: 12 }));
    // Of one stream.
    let log = Log::new().await;
    log.tamper(&swap(6, 10).each_ref().map(String::as_str)).await;
    let first = log.first().await;
    assert_eq!((first.position, first.wrong), (Some(6), Wrong::OutOfOrder { expected: 2, found: 3 }));
}

#[tokio::test]
async fn payloads_that_changed_places_are_found() {
    let log = Log::new().await;
    let swap = "UPDATE events e SET payload = o.payload FROM events o \
                 WHERE (e.position, o.position) IN ((5, 13), (13, 5))";
    log.tamper(&[swap]).await;
    let found = log.verify().await.faults;
    let found: Vec<_> = found.iter().map(|fault| (fault.position, &fault.wrong)).collect();
    assert_eq!(found, [(Some(5), &Wrong::Changed), (Some(13), &Wrong::Changed)]);
}

#[tokio::test]
async fn an_edited_seal_is_found() {
    for (column, value) in
        [("sealed_at", "sealed_at - interval '1 day'"), ("root", "hash"), ("previous_hash", "root"), ("hash", "root")]
    {
        let log = Log::new().await;
        log.tamper(&[&format!("UPDATE seals SET {column} = {value} WHERE seal_no = 2")]).await;
        let first = log.first().await;
        assert_eq!(first.seal_no, Some(2), "{column}: {first}");
    }
    let log = Log::new().await;
    log.tamper(&["UPDATE seals SET signature = decode(repeat('00', 64), 'hex') WHERE seal_no = 2"]).await;
    assert_eq!(log.first().await.wrong, Wrong::BadSignature);
    let log = Log::new().await;
    log.tamper(&["UPDATE seals SET signature = NULL, public_key = NULL WHERE seal_no = 2"]).await;
    assert_eq!(log.first().await.seal_no, Some(2));
}

#[tokio::test]
async fn a_removed_seal_is_found_in_the_middle_and_against_one_kept_elsewhere_at_the_end() {
    let log = Log::new().await;
    let anchor = log.db.store.newest_seal().await.unwrap().unwrap();
    log.tamper(&["DELETE FROM seals WHERE seal_no = 2"]).await;
    let first = log.first().await;
    assert_eq!((first.seal_no, first.wrong), (Some(2), Wrong::SealMissing));

    let log = Log::new().await;
    log.tamper(&["DELETE FROM seals WHERE seal_no = 3"]).await;
    let anchored = Trust { anchors: vec![anchor], ..log.trust() };
    let found = log.verify_with(anchored).await.faults;
    assert_eq!((found[0].seal_no, &found[0].wrong), (Some(3), &Wrong::AnchorGone { last: 18 }));
}

#[tokio::test]
async fn seals_signed_again_with_another_key_or_by_nobody_are_found() {
    let log = Log::new().await;
    let stranger = SigningKey::of_seed([6; 32]);
    log.tamper(&["DELETE FROM seals"]).await;
    while log.seal_with(&stranger).await.is_some() {}
    let fault = log.first().await;
    assert_eq!((fault.seal_no, fault.wrong), (Some(1), Wrong::UntrustedKey { key: stranger.public_key() }));
    // Who trusts nobody in particular learns only that one key signed.
    assert!(log.verify_with(Trust::default()).await.holds());

    log.tamper(&["DELETE FROM seals"]).await;
    let sealing = Sealing { key: None, at: now(), at_least: 1, at_most: 100 };
    log.db.store.seal_next(sealing).await.unwrap().unwrap();
    assert_eq!(log.first().await.wrong, Wrong::Unsigned);
    assert!(log.verify_with(Trust { allow_unsigned: true, ..log.trust() }).await.holds());
}

#[tokio::test]
async fn changing_removing_and_truncating_seals_is_refused_for_everyone() {
    let log = Log::new().await;
    for statement in ["UPDATE seals SET seal_no = 9 WHERE false", "DELETE FROM seals", "TRUNCATE seals"] {
        let error = sqlx::query(statement).execute(&log.db.admin).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{statement}: {error}");
    }
    let may: Vec<bool> = sqlx::query_scalar(
        "SELECT has_table_privilege('tako_vm_app', 'seals', p) FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) p",
    )
    .fetch_all(&log.db.admin)
    .await
    .unwrap();
    assert_eq!(may, [false; 3]);
}
