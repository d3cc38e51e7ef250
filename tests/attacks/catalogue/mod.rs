//! All cases, a file per group.

mod artifacts;
mod disk;
mod host;
mod memory;
mod network;
mod output;
mod processes;
mod time;

use std::collections::BTreeSet;
use std::path::Path;

use super::case::Case;

/// A case by its name, which is where its program lies.
macro_rules! case {
    ($name:literal) => {
        $crate::attacks::case::Case::new($name, include_str!(concat!("../cases/", $name, ".py")))
    };
}
use case;

const MIB: u64 = 1 << 20;

pub fn all() -> Vec<Case> {
    let groups = [
        time::cases(),
        memory::cases(),
        processes::cases(),
        output::cases(),
        disk::cases(),
        artifacts::cases(),
        host::cases(),
        network::cases(),
    ];
    groups.into_iter().flatten().collect()
}

#[test]
fn every_program_is_a_case_and_says_what_it_tries() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/cases");
    let mut programs = BTreeSet::new();
    for group in std::fs::read_dir(&root).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for program in std::fs::read_dir(group.path()).unwrap().flatten() {
            let path = program.path().with_extension("");
            programs.insert(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
        }
    }
    let cases = all();
    for case in &cases {
        assert!(case.code.starts_with("\"\"\""), "{}", case.name);
        assert!(!case.aim().contains('|'), "{} would break the table", case.name);
    }
    let names: BTreeSet<String> = cases.iter().map(|case| case.name.to_owned()).collect();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
    assert_eq!(names, programs);
}
