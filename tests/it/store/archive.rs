//! Archives verify from the file alone, and nothing that is done to one stays unseen.

use tako_vm::store::audit::{NotExported, Trust, Verified, Wrong, verify_archives};

use super::audit::Log;

async fn archive(log: &Log, since_seal: i64) -> String {
    let mut out = Vec::new();
    log.db.store.export_archive(since_seal, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

fn check(archives: &[&[u8]], trust: &Trust) -> Verified {
    verify_archives(archives.iter().copied(), trust, &|_| {}).unwrap()
}

fn first(archive: &str, trust: &Trust) -> Wrong {
    let verified = check(&[archive.as_bytes()], trust);
    verified.faults.into_iter().next().expect("it is found").wrong
}

/// Line 0 is the header, then three times a seal and its six events, then the end.
fn lines(archive: &str) -> Vec<String> {
    let lines: Vec<_> = archive.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 1 + 3 * 7 + 1);
    lines
}

#[tokio::test]
async fn an_archive_verifies_without_a_database() {
    let log = Log::new().await;
    let archive = archive(&log, 0).await;
    let verified = check(&[archive.as_bytes()], &log.trust());
    assert!(verified.holds(), "{:#?}", verified.faults);
    assert_eq!((verified.events, verified.streams, verified.seals, verified.signed), (18, 4, 3, 3));
    assert_eq!((verified.sealed_through, verified.last_position), (18, 18));
    let anchor = log.db.store.newest_seal().await.unwrap().unwrap();
    assert!(check(&[archive.as_bytes()], &Trust { anchors: vec![anchor], ..log.trust() }).holds());
}

#[tokio::test]
async fn a_change_of_any_byte_of_an_archive_is_found() {
    let log = Log::new().await;
    let archive = archive(&log, 0).await;
    let trust = log.trust();
    for at in (0..archive.len()).step_by(61) {
        for bit in [1, 16, 32] {
            // Hexadecimal digits of either case are the same.
            if bit == 32 && archive.as_bytes()[at].is_ascii_hexdigit() {
                continue;
            }
            let mut changed = archive.clone().into_bytes();
            changed[at] ^= bit;
            let verified = check(&[&changed], &trust);
            assert!(!verified.holds(), "{bit} at {at}: {}", String::from_utf8_lossy(&changed[at - at.min(60)..][..90]));
        }
    }
}

#[tokio::test]
async fn an_archive_without_any_one_of_its_lines_is_refuted_and_says_where() {
    let log = Log::new().await;
    let all = lines(&archive(&log, 0).await);
    for gone in 0..all.len() {
        let mut less = all.clone();
        less.remove(gone);
        let wrong = first(&(less.join("\n") + "\n"), &log.trust());
        match gone {
            0 => assert!(matches!(wrong, Wrong::Line { line: 1, .. }), "{wrong}"),
            1 => assert_eq!(wrong, Wrong::SealMissing),
            8 => assert_eq!(wrong, Wrong::SealMissing),
            15 => assert!(matches!(wrong, Wrong::ArchiveCounts { .. }), "{wrong}"),
            22 => assert_eq!(wrong, Wrong::ArchiveCutOff),
            _ => {
                let position = (gone - 1) / 7 * 6 + (gone - 1) % 7;
                let position = i64::try_from(position).unwrap();
                let cut_off = matches!(wrong, Wrong::CutOff { log_end: 17, .. } | Wrong::ArchiveCounts { .. });
                assert!(wrong == Wrong::Missing { first: position, last: position } || cut_off, "{gone}: {wrong}");
            }
        }
    }
}

#[tokio::test]
async fn an_archive_that_ends_early_is_found_at_every_length() {
    let log = Log::new().await;
    let archive = archive(&log, 0).await;
    for end in (0..archive.len()).step_by(17) {
        assert!(!check(&[&archive.as_bytes()[..end]], &log.trust()).holds(), "{end}");
    }
    // Its counts made to fit, at the end of a seal: only a seal kept elsewhere knows.
    let mut cut = lines(&archive)[..15].to_vec();
    cut.push(r#"{"end":{"seals":2,"events":12,"last_seal":2}}"#.to_owned());
    let cut = cut.join("\n");
    assert!(check(&[cut.as_bytes()], &log.trust()).holds());
}

#[tokio::test]
async fn lines_that_changed_places_or_stand_twice_are_found() {
    let log = Log::new().await;
    let all = lines(&archive(&log, 0).await);
    let said = |lines: &[String]| first(&lines.join("\n"), &log.trust());
    for (one, other) in [(2, 3), (4, 12), (1, 8), (21, 22), (7, 9)] {
        let mut swapped = all.clone();
        swapped.swap(one, other);
        said(&swapped);
    }
    let mut twice = all.clone();
    twice.insert(5, all[4].clone());
    assert_eq!(said(&twice), Wrong::Doubled);
    let mut behind = all.clone();
    behind.push(all[4].clone());
    assert!(matches!(said(&behind), Wrong::Line { line: 24, .. }));
}

#[tokio::test]
async fn an_event_with_hashes_that_fit_is_found_by_the_seal_it_stands_under() {
    let log = Log::new().await;
    let archive = archive(&log, 0).await;
    // The last event of a stream under a seal, so that no later hash must be made to fit.
    let (forged, original) = forge(&log, 18).await;
    assert!(archive.contains(&original));
    let wrong = first(&archive.replace(&original, &forged), &log.trust());
    assert_eq!(wrong, Wrong::NotTheSealed { first: 13, last: 18 });
}

/// Payload and hash of an event, forged and as they are.
async fn forge(log: &Log, position: i64) -> (String, String) {
    let event = log.db.store.log_events(position - 1, &[], 1).await.unwrap().remove(0);
    let told = |payload: &str, hash| {
        let previous = event.prev_hash.unwrap();
        format!(r#""payload":{},"prev_hash":"{previous}","hash":"{hash}""#, serde_json::json!(payload))
    };
    let link = tako_vm::store::chain::Link { payload: "{}", ..event.link() };
    let hash = tako_vm::store::chain::hash(event.prev_hash.as_ref(), &link);
    (told("{}", hash), told(&event.payload, event.hash))
}

#[tokio::test]
async fn archives_that_follow_one_another_verify_as_one_log_and_only_in_their_order() {
    let log = Log::new().await;
    let (whole, rest) = (archive(&log, 0).await, archive(&log, 2).await);
    let verified = check(&[rest.as_bytes()], &log.trust());
    assert!(verified.holds(), "{:#?}", verified.faults);
    assert_eq!((verified.first_position, verified.last_position, verified.events), (13, 18, 6));

    let mut head = lines(&whole)[..15].to_vec();
    head.push(r#"{"end":{"seals":2,"events":12,"last_seal":2}}"#.to_owned());
    let head = head.join("\n");
    let both = check(&[head.as_bytes(), rest.as_bytes()], &log.trust());
    assert!(both.holds(), "{:#?}", both.faults);
    assert_eq!((both.events, both.seals, both.streams), (18, 3, 4));
    assert!(!check(&[rest.as_bytes(), head.as_bytes()], &log.trust()).holds());
    let mut short = lines(&whole)[..8].to_vec();
    short.push(r#"{"end":{"seals":1,"events":6,"last_seal":1}}"#.to_owned());
    let gap = check(&[short.join("\n").as_bytes(), rest.as_bytes()], &log.trust());
    assert_eq!(gap.faults[0].wrong, Wrong::SealMissing);
    assert!(matches!(log.db.store.export_archive(9, &mut Vec::new()).await, Err(NotExported::NoSuchSeal(9))));
}
