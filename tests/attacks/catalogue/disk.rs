use tako_guest::protocol::Refusal;

use super::{MIB, case};
use crate::attacks::arena::Place;
use crate::attacks::case::{Case, Seen, Verdict};

const FOLDERS: [&str; 3] = ["/tmp", "/dev/shm", "/output"];

fn files_refused(seen: &Seen, most: u64) {
    for folder in FOLDERS {
        assert_eq!(seen.value(folder), "ENOSPC", "{folder}");
        let count = seen.number(&format!("{folder} files"));
        assert!(count <= most && count > most / 2, "{count} in {folder}");
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case!("disk/huge_file").must(Verdict::Succeeded, |seen| {
            for folder in FOLDERS {
                assert_eq!(seen.value(folder), "EFBIG", "{folder}");
                assert_eq!(seen.number(&format!("{folder} bytes")), seen.limits.file_bytes);
            }
        }),
        case!("disk/many_files").must(Verdict::Succeeded, |seen| files_refused(seen, seen.limits.tmp_bytes / MIB)),
        case!("disk/inode_exhaustion")
            .must(Verdict::Succeeded, |seen| files_refused(seen, seen.limits.inodes.into()))
            .but_at(
                Place::Runsc,
                Verdict::Succeeded,
                |seen| {
                    for folder in FOLDERS {
                        assert_eq!(seen.number(&format!("{folder} files")), 3000);
                    }
                },
                "gVisor's tmpfs knows no limit of inodes; they are memory of the sandbox's own kernel, which its \
                 memory limit counts.",
            ),
        case!("disk/sparse_file").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.value("1125899906842624"), "EFBIG");
            assert_eq!(seen.refusal("16777216"), Some(Refusal::TooLarge));
        }),
        case!("disk/fallocate").must(Verdict::Succeeded, |seen| {
            for size in ["1099511627776", "1073741824"] {
                assert!(["EFBIG", "ENOSPC"].contains(&seen.value(size)), "{}", seen.stdout());
            }
        }),
        case!("disk/deep_folders").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.number("depth"), 500);
            assert_eq!(seen.artifact_names(), ["a/b/c/shallow.txt"]);
            assert_eq!(seen.report().refused_artifacts.first().unwrap().reason, Refusal::TooDeep);
        }),
        case!("disk/mode_000").must(Verdict::Succeeded, |seen| {
            assert_eq!(seen.artifact_names(), ["closed.txt", "folder/inner.txt"]);
        }),
        case!("disk/attributes").must(Verdict::Succeeded, |seen| {
            let bytes = seen.number("attributes") * 60_000;
            assert!(bytes < seen.limits.memory_bytes, "{bytes} bytes");
        }),
    ]
}
