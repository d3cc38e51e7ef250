//! Making seals, verifying in parts, and proofs.

use std::collections::BTreeSet;

use tako_vm::domain::Digest;
use tako_vm::store::audit::{Proof, Sealing, SigningKey, Trust, Verification, Wrong};
use uuid::Uuid;

use super::audit::Log;
use super::*;
use crate::db;

#[tokio::test]
async fn a_log_verified_in_parts_is_verified_whole() {
    let log = Log::new().await;
    let mut since_seal = 0;
    let mut positions = BTreeSet::new();
    loop {
        let verification = Verification { trust: log.trust(), since_seal, at_most: 7, lanes: 1 };
        let part = log.db.store.verify_log(&verification, &|_| {}).await.unwrap();
        assert!(part.holds(), "{:#?}", part.faults);
        assert_eq!(part.first_position, positions.len() as i64 + 1);
        positions.extend(part.first_position..=part.last_position);
        if part.complete {
            break;
        }
        assert!(part.last_seal > since_seal);
        since_seal = part.last_seal;
    }
    assert_eq!(positions.len(), 20);
    // What is behind the seal is held against what stands before it.
    log.rehash_from_nothing(14).await;
    let verification = Verification { trust: log.trust(), since_seal: 2, ..Verification::default() };
    let part = log.db.store.verify_log(&verification, &|_| {}).await.unwrap();
    assert_eq!((part.faults[0].position, &part.faults[0].wrong), (Some(14), &Wrong::Unlinked));
    let absent = Verification { since_seal: 99, ..verification };
    let part = log.db.store.verify_log(&absent, &|_| {}).await.unwrap();
    assert_eq!((part.faults[0].seal_no, &part.faults[0].wrong), (Some(99), &Wrong::SealMissing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sealing_while_writers_race_never_skips_an_event() {
    const WRITERS: usize = 6;
    const BATCHES: usize = 25;
    let db = db::fresh().await;
    let key = SigningKey::of_seed([1; 32]);
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = db.store.clone();
            tokio::spawn(async move {
                for _ in 0..BATCHES {
                    let items = (0..3).map(|_| submit(Uuid::now_v7())).collect();
                    assert!(store.append_batch(items).await.iter().all(Result::is_ok));
                }
            })
        })
        .collect();
    let total = (WRITERS * BATCHES * 3) as i64;
    // Two nodes that seal at the same time.
    let sealers: Vec<_> = (0..2)
        .map(|_| {
            let (store, key) = (db.store.clone(), key.clone());
            tokio::spawn(async move {
                while store.seal_end().await.unwrap().sealed < total {
                    let sealing = Sealing { key: Some(&key), at: now(), at_least: 1, at_most: 17 };
                    store.seal_next(sealing).await.unwrap();
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(sealers) {
        task.await.unwrap();
    }
    let seals = db.store.seals(0, 1000).await.unwrap();
    let mut next = 1;
    for seal in &seals {
        assert_eq!((seal.first_position, seal.is_signed()), (next, true));
        next = seal.last_position + 1;
    }
    assert_eq!(next, total + 1);
    let trust = Trust { keys: vec![key.public_key()], ..Trust::default() };
    let verified = db.store.verify_log(&Verification { trust, ..Verification::default() }, &|_| {}).await.unwrap();
    assert!(verified.holds(), "{:#?}", verified.faults);
    assert_eq!((verified.events as i64, verified.seals), (total, seals.len() as u64));
}

#[tokio::test]
async fn a_proof_holds_without_the_database_and_an_altered_one_does_not() {
    let log = Log::new().await;
    let id = log.streams[1];
    let proof = log.db.store.proof(id).await.unwrap().unwrap();
    assert_eq!(log.db.store.proof(Uuid::now_v7()).await.unwrap(), None);
    let text = serde_json::to_string_pretty(&proof).unwrap();
    log.db.store.close().await;
    let proof: Proof = serde_json::from_str(&text).unwrap();
    let trust = log.trust();
    let proven = proof.check(&trust).unwrap();
    // Its positions are 2, 6, 10, 14 and 18.
    assert_eq!((proven.sealed, proven.unsealed, proof.is_complete()), (5, 0, true));
    assert_eq!(proven.keys, [log.key.public_key()]);

    let stranger = Trust { keys: vec![SigningKey::of_seed([9; 32]).public_key()], ..Trust::default() };
    assert!(proof.check(&stranger).is_err());
    let refuted = |what: &str, change: &dyn Fn(&mut Proof)| {
        let mut altered = proof.clone();
        change(&mut altered);
        assert_ne!(altered, proof, "{what}");
        assert!(altered.check(&trust).is_err(), "{what}");
    };
    refuted("another payload", &|proof| proof.events[2].payload.push(' '));
    refuted("another time", &|proof| proof.events[2].recorded_at += chrono::TimeDelta::microseconds(1));
    refuted("another position", &|proof| proof.events[2].position += 1);
    refuted("another stream", &|proof| proof.execution_id = Uuid::now_v7());
    refuted("an event left out", &|proof| drop(proof.events.remove(2)));
    refuted("no events", &|proof| proof.events.clear());
    refuted("another way", &|proof| proof.events[2].path.reverse());
    refuted("no way", &|proof| proof.events[2].path.clear());
    refuted("another seal", &|proof| proof.events[2].seal_no = Some(1));
    refuted("no seal", &|proof| proof.events[2].seal_no = None);
    refuted("seals left out", &|proof| proof.seals.clear());
    refuted("another root", &|proof| proof.seals[1].root = Digest::of(b""));
    refuted("a seal by nobody", &|proof| {
        let seal = &mut proof.seals[1];
        (seal.public_key, seal.signature) = (None, None);
        seal.hash = seal.computed_hash();
    });
}

#[tokio::test]
async fn a_proof_says_which_events_are_not_sealed_yet() {
    let log = Log::new().await;
    // Its positions are 4, 8, 12, 16 and 20.
    let proof = log.db.store.proof(log.streams[3]).await.unwrap().unwrap();
    let proven = proof.check(&log.trust()).unwrap();
    assert_eq!((proven.sealed, proven.unsealed, proof.is_complete()), (4, 1, false));
}
