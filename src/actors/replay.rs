//! Compares a replay with what it repeats.

use std::collections::BTreeMap;

use crate::domain::{Digest, Ending, ExecutionRecord, Observed, Verdict};

/// What differs between the original's end and the replay's.
pub fn compare(original: &ExecutionRecord, replay: &Ending) -> Verdict {
    let Some(ending) = original.ending() else {
        return Verdict::Refused { reason: "the original has not ended".to_owned() };
    };
    let mut differences = Vec::new();
    let mut differ = |what: &str, is_different: bool| {
        if is_different {
            differences.push(what.to_owned());
        }
    };
    differ("status", ending.status() != replay.status());
    match (ending.observed(), replay.observed()) {
        (Some(one), Some(other)) => {
            differ("exit_code", (one.exit_code, one.signal) != (other.exit_code, other.signal));
            differ("stdout", one.stdout.hash != other.stdout.hash);
            differ("stderr", one.stderr.hash != other.stderr.hash);
            differ("output", one.output != other.output);
            differ("artifacts", artifacts(one) != artifacts(other));
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => differ("output", true),
    }
    if differences.is_empty() { Verdict::Identical } else { Verdict::Diverged { differences } }
}

fn artifacts(observed: &Observed) -> BTreeMap<&str, Digest> {
    observed.artifacts.iter().map(|artifact| (artifact.name.as_str(), artifact.hash)).collect()
}
