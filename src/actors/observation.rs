//! What a run left behind, by hash, and the bytes to keep.

use std::time::Duration;

use tako_guest::protocol::{End, Refusal};

use crate::domain::{Artifact, Digest, Observed, Output, Phase, Timing, Usage};
use crate::engine::Run;
use crate::store::Blob;

/// The file whose JSON is the record's `output`.
const RESULT: &str = "result.json";

pub struct Observation {
    pub observed: Observed,
    /// Everything `observed` names by hash.
    pub blobs: Vec<Blob>,
}

impl Observation {
    /// `startup` is from the claim to the start of the code, `total` to the end of the sandbox.
    pub fn of(run: &Run, startup: Duration, total: Duration) -> Self {
        let report = &run.report;
        let mut blobs = Vec::new();
        let mut keep = |bytes: &bytes::Bytes| {
            let blob = Blob::new(bytes.clone());
            let hash = blob.hash();
            // Nothing needs no row: its hash is known, and so are its bytes.
            if !bytes.is_empty() {
                blobs.push(blob);
            }
            (hash, bytes.len() as u64)
        };
        let mut output = |bytes, truncated| {
            let (hash, bytes) = keep(bytes);
            Output { hash, bytes, truncated }
        };
        let stdout = output(&run.stdout, report.stdout_truncated);
        let stderr = output(&run.stderr, report.stderr_truncated);
        let artifacts: Vec<_> = run
            .artifacts
            .iter()
            .map(|(name, bytes)| {
                let (hash, bytes) = keep(bytes);
                Artifact { name: name.clone(), hash, bytes }
            })
            .collect();
        let (exit_code, signal) = match report.end {
            End::Exited { code } => (Some(code), None),
            End::Signaled { signal } => (None, Some(signal)),
            End::TimedOut | End::Cancelled => (None, Some(libc::SIGKILL)),
        };
        let observed = Observed {
            exit_code,
            signal,
            timing: Timing {
                startup_ms: startup.as_millis() as u64,
                dep_install_ms: 0,
                execution_ms: report.wall_ms,
                total_ms: total.as_millis() as u64,
                phase_at_exit: Phase::Execution,
            },
            usage: Usage {
                max_rss_bytes: report.peak_memory_bytes,
                cpu_time_ms: report.cpu_ms,
                wall_time_ms: report.wall_ms,
                oom_killed: report.oom_killed.unwrap_or(false),
            },
            stdout,
            stderr,
            output: result_digest(run),
            artifacts,
            refused_artifacts: report
                .refused_artifacts
                .iter()
                .map(|refused| (refused.name.clone(), reason(refused.reason).to_owned()))
                .collect(),
        };
        Self { observed, blobs }
    }
}

fn result_digest(run: &Run) -> Option<Digest> {
    let (_, bytes) = run.artifacts.iter().find(|(name, _)| name == RESULT)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).ok()?;
    Some(Digest::of(bytes))
}

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotARegularFile => "not a regular file",
        Refusal::HardLink => "has more than one name",
        Refusal::BadName => "its name cannot be kept",
        Refusal::TooDeep => "too many folders deep",
        Refusal::TooLarge => "larger than one artifact may be",
        Refusal::TooMany => "more artifacts than may be kept",
        Refusal::TotalTooLarge => "more bytes than all artifacts may have",
        Refusal::Unreadable => "could not be read",
        Refusal::HoldsASecret => "holds a secret",
    }
}
