//! A well-behaved job beside each attack, which must neither be slowed much nor see anything.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tako_guest::protocol::{ArtifactLimits, End};
use tako_vm::engine::{Error, Job, Run, SandboxLimits};

const CODE: &str = include_str!("cases/neighbour.py");

/// Where it listens on its own loopback interface.
pub const PORT: u16 = 45_671;

/// How much longer than asked it may take, on a machine that is busy with attacks on all
/// processors. Alone it takes a tenth of a second longer.
const PATIENCE: Duration = Duration::from_secs(6);

const MIB: u64 = 1 << 20;

pub const LIMITS: SandboxLimits = SandboxLimits {
    memory_bytes: 128 * MIB,
    cpu_millis: 1000,
    pids: 16,
    open_files: 64,
    file_bytes: MIB,
    tmp_bytes: MIB,
    output_bytes: MIB,
    inodes: 64,
};

/// A job that works for so long in small rounds.
pub fn job(work: Duration) -> Job {
    Job {
        code: Bytes::from_static(CODE.as_bytes()),
        input: Bytes::from(format!("{{\"ms\": {}, \"port\": {PORT}}}", work.as_millis())),
        files: Vec::new(),
        secrets: Vec::new(),
        egress: None,
        execution_timeout: work + 2 * PATIENCE,
        stdout_limit_bytes: 4096,
        stderr_limit_bytes: 4096,
        artifacts: ArtifactLimits { max_count: 1, max_file_bytes: 4096, max_total_bytes: 4096 },
    }
}

#[derive(Deserialize)]
struct Told {
    rounds: u32,
    digest: String,
    /// The longest round, milliseconds.
    longest_ms: u64,
    /// What it found that is not its own.
    strange: Vec<String>,
}

/// Panics unless the neighbour came to its result undisturbed and in time.
pub fn check(outcome: Result<Run, Error>, work: Duration) {
    let run = outcome.unwrap_or_else(|error| panic!("the neighbour was harmed: {error}"));
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.report.end, End::Exited { code: 0 }, "the neighbour was harmed: {stderr}");
    assert_eq!(run.report.oom_killed, Some(false), "the neighbour's memory was taken");
    let (name, result) = run.artifacts.first().expect("the neighbour leaves a result");
    assert_eq!(name, "result.json");
    let told: Told = serde_json::from_slice(result).expect("the neighbour's result is what it wrote");
    assert_eq!(told.strange, Vec::<String>::new(), "the neighbour met others");
    assert!(told.rounds > 0);
    assert_eq!(told.digest, digest_after(told.rounds), "the neighbour's result is wrong");
    let longest = work + PATIENCE;
    assert!(Duration::from_millis(run.report.wall_ms) < longest, "the neighbour took {} ms", run.report.wall_ms);
    assert!(Duration::from_millis(told.longest_ms) < PATIENCE, "the neighbour stood still for {} ms", told.longest_ms);
    assert_eq!(run.stdout, Bytes::from_static(b"begun\ndone\n"));
}

fn digest_after(rounds: u32) -> String {
    let block = [b'n'; 4096];
    let mut digest = Sha256::digest(block).to_vec();
    for _ in 0..rounds {
        let mut hash = Sha256::new();
        hash.update(&digest);
        hash.update(block);
        digest = hash.finalize().to_vec();
    }
    hex::encode(digest)
}
