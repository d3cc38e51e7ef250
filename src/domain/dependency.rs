//! Jobs that wait for others to end.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{Event, ExecutionCancelled};
use super::execution_record::{ExecutionRecord, JobState, Status};

/// Executions that one may wait for.
pub const MAX_AFTER: usize = 100;

/// When a job that waits may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterPolicy {
    /// Once all have succeeded; another end of one cancels the job.
    #[default]
    Succeeded,
    /// Once all have ended, whatever their ends.
    AnyEnd,
}

impl AfterPolicy {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "succeeded" => Some(Self::Succeeded),
            "any_end" => Some(Self::AnyEnd),
            _ => None,
        }
    }
}

/// The job is not to run before others have ended. In the same append as its submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependenciesDeclared {
    /// 1 to [`MAX_AFTER`] executions of the same tenant, each once.
    pub after: Vec<Uuid>,
    pub policy: AfterPolicy,
}

/// All that the job waited for has ended as its policy asks; it may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependenciesMet {
    pub ended: Vec<DependencyEnd>,
}

/// How an execution ended that another waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyEnd {
    pub execution_id: Uuid,
    /// Absent when it is no longer in the log, which it left only after its end.
    pub status: Option<Status>,
}

/// What a job waits for, as far as its record knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependencies {
    pub after: Vec<Uuid>,
    pub policy: AfterPolicy,
    /// When it was told that it may run.
    pub met_at: Option<DateTime<Utc>>,
}

impl ExecutionRecord {
    /// It is queued, and others must end first.
    pub fn is_waiting(&self) -> bool {
        let is_unmet = self.dependencies.as_ref().is_some_and(|dependencies| dependencies.met_at.is_none());
        is_unmet && matches!(self.state, JobState::Queued { .. })
    }

    /// What the ends of some that it waits for mean for it; nothing while it must wait on.
    pub(super) fn settle(&self, ended: Vec<DependencyEnd>) -> Vec<Event> {
        let Some(dependencies) = self.dependencies.as_ref().filter(|_| self.is_waiting()) else { return Vec::new() };
        let ended: Vec<_> = ended.into_iter().filter(|end| dependencies.after.contains(&end.execution_id)).collect();
        let is_bad = |end: &&DependencyEnd| end.status != Some(Status::Succeeded);
        if dependencies.policy == AfterPolicy::Succeeded
            && let Some(DependencyEnd { execution_id, status }) = ended.iter().find(is_bad)
        {
            let how = match status {
                Some(status) => format!("ended as {status}"),
                None => "is no longer in the log".to_owned(),
            };
            let reason = Some(format!("it was to run after execution {execution_id}, which {how}"));
            return vec![ExecutionCancelled { by: "service".to_owned(), reason, observed: None }.into()];
        }
        let has_ended = |id: &Uuid| ended.iter().any(|end| end.execution_id == *id);
        match dependencies.after.iter().all(has_ended) {
            true => vec![DependenciesMet { ended }.into()],
            false => Vec::new(),
        }
    }
}
