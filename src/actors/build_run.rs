//! One build under way: what it says, how it ends, and the way to end it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::builder::{Built, Refusal};
use super::job_types::Environment;
use crate::domain;

/// Of the log, in the event that says why a build failed.
const TAIL_LINES: usize = 40;
const TAIL_BYTES: usize = 4 << 10;

/// A build, from its request to long after its end. Many may wait for the same.
#[derive(Debug)]
pub struct BuildRun {
    pub build_id: Uuid,
    pub environment: Environment,
    pub cancel: CancellationToken,
    log_bytes: usize,
    log: Mutex<Log>,
    /// Lines so far, and whether it has ended.
    progress: watch::Sender<(usize, bool)>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    bytes: usize,
    is_full: bool,
    outcome: Option<Result<Built, Refusal>>,
}

impl BuildRun {
    pub(super) fn new(build_id: Uuid, environment: Environment, log_bytes: usize) -> Self {
        let progress = watch::channel((0, false)).0;
        let cancel = CancellationToken::new();
        Self { build_id, environment, cancel, log_bytes, log: Mutex::default(), progress }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, rid of what tells about the host; beyond the limit the newest are kept no more.
    pub(super) fn say(&self, line: &str) {
        let line = domain::scrub(line);
        let count = {
            let mut log = self.lock();
            if log.is_full {
                return;
            }
            log.bytes += line.len() + 1;
            log.is_full = log.bytes > self.log_bytes;
            let line = if log.is_full { "(the log is longer than build.log_size)".to_owned() } else { line };
            log.lines.push(line);
            log.lines.len()
        };
        self.progress.send_replace((count, false));
    }

    pub(super) fn end(&self, outcome: Result<Built, Refusal>) {
        let count = {
            let mut log = self.lock();
            log.outcome = Some(outcome);
            log.lines.len()
        };
        self.progress.send_replace((count, true));
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let log = self.lock();
        let mut tail = String::new();
        for line in log.lines.iter().rev().take(TAIL_LINES) {
            if tail.len() + line.len() > TAIL_BYTES {
                break;
            }
            tail.insert_str(0, &format!("{line}\n"));
        }
        tail
    }

    /// Lines from a number on, once there are some; `None` at the end of the build.
    pub async fn lines(&self, from: usize) -> Option<Vec<String>> {
        let mut progress = self.progress.subscribe();
        let _ = progress.wait_for(|(count, ended)| *count > from || *ended).await;
        let log = self.lock();
        log.lines.get(from..).filter(|lines| !lines.is_empty()).map(<[String]>::to_vec)
    }

    /// How it ended, once it has.
    pub async fn outcome(&self) -> Result<Built, Refusal> {
        let mut progress = self.progress.subscribe();
        let _ = progress.wait_for(|(_, ended)| *ended).await;
        let lost = || Refusal::Failed {
            job_type: self.environment.name.clone(),
            message: "the build was lost".to_owned(),
            log_tail: String::new(),
            retryable: true,
            retry_after: None,
        };
        self.lock().outcome.clone().unwrap_or_else(|| Err(lost()))
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Result<Built, Refusal>> {
        self.lock().outcome.clone()
    }
}
