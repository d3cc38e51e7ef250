//! Ends the builds that dead nodes left.

use std::sync::Arc;
use std::time::Duration;

use super::build_run::BuildRun;
use super::builder::Refusal;
use super::builds::Builds;
use super::ledger;
use crate::domain::BuildFailed;
use crate::store::BuildUnderWay;

const CAUSE: &str = "interrupted: the node that built it does not answer";

/// More events than a build has.
const EVENTS: u32 = 10;

impl Builds {
    /// Says in the stream of each such build that it has failed, and shows it among this node's.
    ///
    /// # Errors
    /// When the database does not answer; the rest waits for the next look.
    pub async fn end_interrupted(&self, dead_after: Duration) -> Result<(), ledger::Error> {
        for build in self.parts.store.builds_of_dead_nodes(dead_after).await? {
            let BuildUnderWay { build_id, job_type, digest, began_at } = build;
            let events = self.parts.store.stream_events(build_id, 0, EVENTS).await?;
            let Some(last) = events.last() else { continue };
            let duration_ms = (self.parts.clock.now() - began_at).num_milliseconds().unsigned_abs();
            let failed = BuildFailed { error: CAUSE.to_owned(), log_tail: String::new(), duration_ms };
            let head = (last.version, Some(last.hash));
            let journal = self.parts.journal.of_build(build_id, self.parts.node_id, last.correlation_id.clone(), head);
            if !journal.append(failed).await? {
                // Another node was first, or the one that builds after all.
                continue;
            }
            tracing::warn!(%build_id, job_type, "a build was interrupted: its node does not answer");
            let version = format!("{job_type}@sha256:{digest}");
            if let Some(environment) = self.parts.job_types.kept(&job_type, &version).await? {
                let run = Arc::new(BuildRun::new(build_id, environment, CAUSE.len() * 2));
                run.say(CAUSE);
                run.end(Err(Refusal::of(&job_type, CAUSE)));
                self.remember(run);
            }
        }
        Ok(())
    }
}
