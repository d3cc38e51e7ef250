//! Jobs at times: a schedule, what may happen to it, and what is due.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Digest;
use super::cron::{Calendar, NotACalendar};
use super::event::Event;

/// What happens when a time comes while the execution of the last one has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Both run.
    Allow,
    /// The new one is left out.
    #[default]
    Skip,
}

/// What happens with times that went by while no node was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// One execution stands for all of them.
    Once,
}

/// When a schedule fires, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleTerms {
    /// Five fields, or six with seconds first.
    pub cron: String,
    /// IANA name.
    pub timezone: String,
    pub overlap: Overlap,
    pub missed: Missed,
    /// Of the submission's text, which is kept beside the log.
    pub job: Digest,
}

/// A tenant made a schedule. The first event of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleDefined {
    pub tenant: String,
    pub name: String,
    pub terms: ScheduleTerms,
    pub enabled: bool,
    pub by: String,
}

/// It has other terms from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleChanged {
    pub terms: ScheduleTerms,
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulePaused {
    pub by: String,
}

/// Times that went by during the pause are nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleResumed {
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRemoved {
    pub by: String,
}

/// A time came. The execution is submitted after this event, by whichever node, under this id: once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleFired {
    pub due_at: DateTime<Utc>,
    pub execution_id: Uuid,
    /// The first of the missed times for which it stands as well.
    pub missed_since: Option<DateTime<Utc>>,
    pub job: Digest,
}

/// Times came and nothing was, or could be, submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSkipped {
    pub due_at: DateTime<Utc>,
    /// The last of them; `due_at` when it is one.
    pub through: DateTime<Utc>,
    pub cause: SkipCause,
    /// The execution that had not ended, or that could not be submitted.
    pub execution_id: Option<Uuid>,
    pub reason: Option<String>,
}

/// Why a time was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipCause {
    /// The execution before had not ended.
    Overlap,
    /// No node was there.
    Missed,
    /// The submission was refused.
    Refused,
}

/// A schedule submitted this execution. In the same append as its submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobScheduled {
    pub schedule_id: Uuid,
    pub name: String,
    pub due_at: DateTime<Utc>,
}

/// All that is known of a schedule: the fold of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub schedule_id: Uuid,
    /// Events folded so far: the stream's version.
    pub version: i32,
    pub tenant: String,
    pub name: String,
    pub terms: ScheduleTerms,
    pub enabled: bool,
    pub created_at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
    pub removed_at: Option<DateTime<Utc>>,
    /// Times up to this one are dealt with.
    pub reached: DateTime<Utc>,
    pub fired: u64,
    pub last_fired: Option<ScheduleFired>,
    pub last_skipped: Option<ScheduleSkipped>,
}

/// What is to be done about a schedule's times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Nothing before that time, if there is one.
    Later(Option<DateTime<Utc>>),
    Fire {
        due_at: DateTime<Utc>,
        missed_since: Option<DateTime<Utc>>,
    },
    /// Missed, and not to be made up for.
    Skip {
        due_at: DateTime<Utc>,
        through: DateTime<Utc>,
    },
}

/// An event does not follow from those before it in a schedule's stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {version} of schedule {schedule_id} does not follow from the events before it")]
pub struct NotASchedule {
    pub schedule_id: Uuid,
    pub version: i32,
}

impl ScheduleTerms {
    /// # Errors
    /// [`NotACalendar`], for terms that were never checked.
    pub fn calendar(&self) -> Result<Calendar, NotACalendar> {
        Calendar::read(&self.cron, &self.timezone)
    }
}

impl Schedule {
    /// The schedule after one more event of its stream.
    ///
    /// # Errors
    /// [`NotASchedule`]; never a panic.
    pub fn evolve(
        schedule: Option<Self>,
        (schedule_id, version, at): (Uuid, i32, DateTime<Utc>),
        event: &Event,
    ) -> Result<Self, NotASchedule> {
        let refused = || NotASchedule { schedule_id, version };
        let Some(mut schedule) = schedule else {
            return match event {
                Event::ScheduleDefined(defined) if version == 1 => Ok(Self {
                    schedule_id,
                    version,
                    tenant: defined.tenant.clone(),
                    name: defined.name.clone(),
                    terms: defined.terms.clone(),
                    enabled: defined.enabled,
                    created_at: at,
                    changed_at: at,
                    removed_at: None,
                    reached: at,
                    fired: 0,
                    last_fired: None,
                    last_skipped: None,
                }),
                _ => Err(refused()),
            };
        };
        if schedule.schedule_id != schedule_id || schedule.version + 1 != version {
            return Err(refused());
        }
        schedule.apply(at, event).ok_or_else(refused)?;
        schedule.version = version;
        Ok(schedule)
    }

    fn apply(&mut self, at: DateTime<Utc>, event: &Event) -> Option<()> {
        match event {
            // What fired before the removal may be found to be refused after it.
            Event::ScheduleSkipped(skipped) if skipped.cause == SkipCause::Refused => {
                self.last_skipped = Some(skipped.clone());
                return Some(());
            }
            _ if self.removed_at.is_some() => return None,
            Event::ScheduleChanged(changed) => {
                self.terms = changed.terms.clone();
                (self.changed_at, self.reached) = (at, self.reached.max(at));
            }
            Event::SchedulePaused(_) => {
                (self.enabled, self.changed_at) = (false, at);
            }
            Event::ScheduleResumed(_) => {
                (self.enabled, self.changed_at, self.reached) = (true, at, self.reached.max(at));
            }
            Event::ScheduleRemoved(_) => self.removed_at = Some(at),
            Event::ScheduleFired(fired) if fired.due_at > self.reached => {
                self.reached = fired.due_at;
                self.fired += 1;
                self.last_fired = Some(fired.clone());
            }
            Event::ScheduleSkipped(skipped) if skipped.through > self.reached => {
                self.reached = skipped.through;
                self.last_skipped = Some(skipped.clone());
            }
            _ => return None,
        }
        Some(())
    }

    /// The next time at which it fires; `None` while it is paused or removed, or when no time comes any more.
    pub fn next_due(&self) -> Option<DateTime<Utc>> {
        if !self.enabled || self.removed_at.is_some() {
            return None;
        }
        self.terms.calendar().ok()?.next_after(self.reached)
    }

    /// What is to be done now. A time older than `late_after` counts as missed.
    pub fn due(&self, now: DateTime<Utc>, late_after: Duration) -> Due {
        let Some(due_at) = self.next_due() else { return Due::Later(None) };
        if due_at > now {
            return Due::Later(Some(due_at));
        }
        let in_time = now - late_after;
        if due_at >= in_time {
            return Due::Fire { due_at, missed_since: None };
        }
        let calendar = self.terms.calendar().ok();
        let last = calendar.and_then(|calendar| calendar.last_between(self.reached, in_time)).unwrap_or(due_at);
        match self.terms.missed {
            Missed::Skip => Due::Skip { due_at, through: last },
            Missed::Once => Due::Fire { due_at: last, missed_since: (last > due_at).then_some(due_at) },
        }
    }
}
