//! What a replay showed, once it has ended.

use std::collections::HashMap;

use uuid::Uuid;

use super::attempt::Bench;
use super::ledger;
use crate::domain::{Comparison, Ending, ExecutionRecord, RefusalCause, Relationship, ReplayVerdictRecorded, Verdict};
use crate::store;

/// The execution that this one replays.
pub fn original(record: &ExecutionRecord) -> Option<Uuid> {
    let parent = record.submitted.parent.filter(|parent| parent.relationship == Relationship::Replay)?;
    Some(parent.execution_id)
}

/// Compares a replay's end with the original's. `brought` are the bytes the replay left, which
/// need not be kept yet.
pub async fn judge(
    bench: &Bench,
    replay: &ExecutionRecord,
    original_id: Uuid,
    ending: &Ending,
    brought: impl Iterator<Item = &store::Blob>,
) -> Result<Option<ReplayVerdictRecorded>, ledger::Error> {
    let Some(original) = bench.ledger.load_surely(original_id).await? else { return Ok(None) };
    let Some(expected) = original.record.ending().cloned() else { return Ok(None) };
    // Its end says so itself.
    if matches!(ending, Ending::Cancelled { .. }) {
        return Ok(None);
    }
    let rules = bench.job_types.normalisers(&replay.submitted.job_type);
    let wanted = Comparison::wanted(&expected, ending, &rules);
    let mut blobs: HashMap<_, _> = brought.map(|blob| (blob.hash(), blob.bytes().clone())).collect();
    let missing: Vec<_> = wanted.into_iter().filter(|hash| !blobs.contains_key(hash)).collect();
    if !missing.is_empty() {
        match bench.store.blobs(&missing).await {
            Ok(found) => blobs.extend(found),
            // Without its bytes a difference is a difference all the same.
            Err(error) => tracing::warn!(error = %error, %original_id, "a replay is compared by its hashes alone"),
        }
    }
    let names = rules.iter().map(|rule| rule.rule()).collect();
    let ending = ending.clone();
    let compare = move || {
        let comparison = Comparison { original: &expected, replay: &ending, rules: &rules, blobs: &blobs };
        comparison.verdict()
    };
    // Large texts take a while.
    let verdict = match tokio::task::spawn_blocking(compare).await {
        Ok(verdict) => verdict,
        Err(lost) => {
            Verdict::Refused { cause: RefusalCause::NotFinished, reason: format!("it could not be compared: {lost}") }
        }
    };
    Ok(Some(ReplayVerdictRecorded { original_id, verdict, rules: names }))
}
