//! Builds that one node asks of others: an api node has no engine, and an image is of the node on
//! which it was built. So each node that works is asked, and a wish is granted once all of them have
//! the image.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::build_run::BuildRun;
use super::builder::{Built, Refusal};
use super::builds::{Builds, Wanted, Wish};
use super::job_types::Environment;
use crate::domain;
use crate::store::{BuildWish, Error, Store, WishState};

/// Between two looks at a build that goes on elsewhere, and at whether it was cancelled.
const LOOK: Duration = Duration::from_millis(250);

/// Beyond the time of the build itself: to be taken, and to be told of.
const SLACK: Duration = Duration::from_secs(60);

/// How long the end of a build is tried to be told.
const TELL: Duration = Duration::from_secs(60);

/// How a node's part of a wish ended, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Built { job_type: String, version: String, digest: String, image_ref: String },
    Failed { job_type: String, message: String, log_tail: String, retryable: bool, retry_after: Option<Duration> },
}

impl Told {
    fn of(job_type: &str, outcome: Result<Built, Refusal>) -> Self {
        match outcome {
            Ok(Built { job_type, version, digest, image_ref }) => Self::Built { job_type, version, digest, image_ref },
            Err(Refusal::Failed { job_type, message, log_tail, retryable, retry_after }) => {
                Self::Failed { job_type, message, log_tail, retryable, retry_after }
            }
            Err(refusal) => Self::Failed {
                job_type: job_type.to_owned(),
                message: refusal.to_string(),
                log_tail: String::new(),
                retryable: false,
                retry_after: None,
            },
        }
    }

    fn outcome(self) -> Result<Built, Refusal> {
        match self {
            Self::Built { job_type, version, digest, image_ref } => Ok(Built { job_type, version, digest, image_ref }),
            Self::Failed { job_type, message, log_tail, retryable, retry_after } => {
                Err(Refusal::Failed { job_type, message, log_tail, retryable, retry_after })
            }
        }
    }
}

impl Builds {
    /// Has the nodes that work build a job type, or a version of one. What they say is the run's log.
    pub(super) fn elsewhere(self: &Arc<Self>, reference: &str, environment: Environment, wish: Wish) -> Wanted {
        let reference = reference.to_owned();
        Wanted::Building(
            self.join(environment, move |builds, run| async move { builds.run_elsewhere(&run, reference, wish).await }),
        )
    }

    async fn run_elsewhere(&self, run: &BuildRun, reference: String, wish: Wish) -> Result<Built, Refusal> {
        let (store, name) = (&self.parts.store, &run.environment.name);
        let dead_after = self.parts.config.leases.dead_after;
        let asked = BuildWish {
            wish_id: run.build_id,
            job_type: reference,
            version_tag: wish.version_tag,
            wished_by: wish.by,
            correlation_id: wish.correlation_id,
        };
        let nodes = store.wish_build(&asked, dead_after).await.map_err(|error| Refusal::of_store(name, &error))?;
        if nodes.is_empty() {
            return Err(Refusal::of(name, "no node that builds is alive; start one with --role worker or all"));
        }
        run.say(&format!("asked of {} node(s)", nodes.len()));
        let deadline = Instant::now() + self.parts.config.build.timeout + SLACK;
        let (mut heard, mut cancelled) = (HashMap::new(), false);
        loop {
            if run.cancel.is_cancelled() && !cancelled {
                cancelled = store.cancel_wish(asked.wish_id).await.is_ok();
            }
            let looked = listen(store, run, nodes.len() > 1, dead_after, &mut heard).await;
            match looked {
                Ok(states) if states.iter().all(|state| state.outcome.is_some() || !state.is_alive) => {
                    return verdict(name, states);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(error = %error, "builds on other nodes cannot be seen for now"),
            }
            if Instant::now() > deadline {
                // The nodes hear of it, and whoever comes next does not wait for them.
                let _ = store.cancel_wish(asked.wish_id).await;
                return Err(Refusal::of(name, "the nodes that were asked did not end in time"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Takes over what the nodes said since, and answers with how far they are.
async fn listen(
    store: &Store,
    run: &BuildRun,
    are_several: bool,
    dead_after: Duration,
    heard: &mut HashMap<Uuid, usize>,
) -> Result<Vec<WishState>, Error> {
    // Before the lines: who has ended has said all.
    let states = store.wish_states(run.build_id, dead_after).await?;
    for state in states.iter().filter(|state| state.taken) {
        let from = heard.entry(state.node_id).or_default();
        loop {
            let lines = store.build_lines(run.build_id, state.node_id, *from).await?;
            if lines.is_empty() {
                break;
            }
            for line in &lines {
                match are_several {
                    true => run.say(&format!("[{}] {line}", short(state.node_id))),
                    false => run.say(line),
                }
            }
            *from += lines.len();
        }
    }
    Ok(states)
}

/// The end of nodes' ids, which tells them apart: they begin with the time.
fn short(node_id: Uuid) -> String {
    let text = node_id.simple().to_string();
    text[text.len() - 8..].to_owned()
}

/// What the nodes' ends come to: one failure is a failure, and a node that died is nobody's.
fn verdict(job_type: &str, states: Vec<WishState>) -> Result<Built, Refusal> {
    let mut built = None;
    for text in states.into_iter().filter_map(|state| state.outcome) {
        let told: Told = serde_json::from_str(&text)
            .map_err(|error| Refusal::of(job_type, &format!("another node's answer cannot be read: {error}")))?;
        let outcome = told.outcome()?;
        built.get_or_insert(outcome);
    }
    built.ok_or_else(|| Refusal::of(job_type, "the nodes that were asked died before they had built"))
}

/// Where a node takes what others ask of it.
#[derive(Clone)]
pub(super) struct Errands {
    pub store: Store,
    pub node_id: Uuid,
}

impl Errands {
    /// The wishes for this node that nobody works on yet.
    pub async fn take(&self) -> Vec<BuildWish> {
        match self.store.take_wishes(self.node_id).await {
            Ok(wishes) => wishes,
            Err(error) => {
                tracing::debug!(error = %error, "builds for other nodes could not be looked for");
                Vec::new()
            }
        }
    }

    /// Passes on what a build says, and how it ends.
    pub async fn report(&self, wish: &BuildWish, wanted: Result<Wanted, Refusal>) {
        let outcome = match wanted {
            Ok(Wanted::There(built)) => Ok(built),
            Ok(Wanted::Building(run)) => self.follow(wish, &run).await,
            Err(refusal) => Err(refusal),
        };
        let told = serde_json::to_string(&Told::of(&wish.job_type, outcome)).unwrap_or_default();
        let deadline = Instant::now() + TELL;
        while let Err(error) = self.store.end_wish(wish.wish_id, self.node_id, &told).await {
            if !error.is_transient() || Instant::now() > deadline {
                tracing::warn!(error = %error, wish_id = %wish.wish_id, "the end of a build was not told");
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn follow(&self, wish: &BuildWish, run: &BuildRun) -> Result<Built, Refusal> {
        let mut said = 0;
        loop {
            let (lines, is_over) = match tokio::time::timeout(LOOK, run.lines(said)).await {
                Ok(Some(lines)) => (lines, false),
                Ok(None) => (Vec::new(), true),
                Err(_elapsed) => (Vec::new(), false),
            };
            // PostgreSQL's text holds any character but this.
            let lines: Vec<_> = lines.iter().map(|line| domain::scrub(line).replace('\0', "\u{fffd}")).collect();
            match self.store.put_build_lines(wish.wish_id, self.node_id, said, &lines).await {
                Ok(true) => run.cancel.cancel(),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(error = %error, "what a build says is not told");
                    if !is_over {
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                }
            }
            said += lines.len();
            if is_over {
                return run.outcome().await;
            }
        }
    }

    /// Forgets what is of no use to anybody.
    pub async fn clean(&self) {
        if let Err(error) = self.store.forget_wishes(Duration::from_secs(86_400)).await {
            tracing::debug!(error = %error, "old builds for other nodes were not removed");
        }
    }
}
