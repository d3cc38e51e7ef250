use tako_guest::protocol::{MAX_PATH_BYTES, MAX_REFUSED_ARTIFACTS, Refusal};

use super::case;
use crate::attacks::case::{Case, Seen, Verdict};

/// These entries and no others were refused for this reason.
fn refused(seen: &Seen, names: &[&str], reason: Refusal) {
    for name in names {
        assert_eq!(seen.refusal(name), Some(reason), "{name} of {:?}", seen.report().refused_artifacts);
    }
    assert_eq!(seen.report().refused_artifacts.len(), names.len(), "{:?}", seen.report().refused_artifacts);
}

pub fn cases() -> Vec<Case> {
    vec![
        case!("artifacts/symlink").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), ["plain.txt"]);
            refused(seen, &["passwd.txt", "environ", "result.json", "loop", "fd"], Refusal::NotARegularFile);
        }),
        case!("artifacts/symlinked_folder").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), [""; 0]);
            refused(seen, &["etc", "self", "folder/up"], Refusal::NotARegularFile);
        }),
        case!("artifacts/hardlink").must(Verdict::Succeeded, |seen| {
            seen.all_refused(4);
            assert_eq!(seen.artifact_names(), [""; 0]);
            refused(seen, &["one", "two"], Refusal::HardLink);
        }),
        case!("artifacts/fifo").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), [""; 0]);
            refused(seen, &["result.json", "fifo"], Refusal::NotARegularFile);
        }),
        case!("artifacts/socket").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), [""; 0]);
            refused(seen, &["socket"], Refusal::NotARegularFile);
        }),
        case!("artifacts/device").must(Verdict::Succeeded, |seen| {
            seen.all_refused(8);
            assert_eq!(seen.artifact_names(), [""; 0]);
        }),
        // Everything of the job is dead when its files are read; whatever the last swap left,
        // only what the job wrote is collected.
        case!("artifacts/swap_race").must(Verdict::Succeeded, |seen| {
            for (name, bytes) in &seen.run().artifacts {
                assert_eq!(&bytes[..], b"mine", "{name}");
            }
            assert!(!seen.run().artifacts.is_empty() || !seen.report().refused_artifacts.is_empty());
        }),
        case!("artifacts/bad_names").must(Verdict::Succeeded, |seen| {
            for (name, _) in &seen.run().artifacts {
                assert!(name.len() <= MAX_PATH_BYTES && !name.chars().any(char::is_control), "{name:?}");
                assert!(!name.starts_with('/') && name.split('/').all(|part| part != ".." && part != "."), "{name:?}");
            }
            let names = seen.artifact_names();
            for allowed in ["...", "-rf", "c:\\windows", " ", "~"] {
                assert!(names.contains(&allowed), "{allowed:?} of {names:?}");
            }
            for refused in &seen.report().refused_artifacts {
                assert_eq!(refused.reason, Refusal::BadName, "{refused:?}");
                assert!(!refused.name.chars().any(char::is_control), "{refused:?}");
            }
            assert_eq!(seen.report().refused_artifacts.len(), 7, "{:?}", seen.report().refused_artifacts);
        }),
        case!("artifacts/ten_thousand").tune(|limits, _| limits.inodes = 12_000).must(Verdict::Succeeded, |seen| {
            let names = seen.artifact_names();
            assert_eq!(names.len(), 20);
            assert_eq!(names[0], "result.json");
            let refused = &seen.report().refused_artifacts;
            assert_eq!(refused.len(), MAX_REFUSED_ARTIFACTS);
            assert!(refused.iter().all(|refused| refused.reason == Refusal::TooMany));
        }),
        case!("artifacts/too_large").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), ["1", "2", "3", "4"]);
            assert_eq!(seen.refusal("0-large"), Some(Refusal::TooLarge));
            assert_eq!(seen.refusal("5"), Some(Refusal::TotalTooLarge));
        }),
    ]
}
