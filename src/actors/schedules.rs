//! Submits jobs at their times, and takes wishes about schedules.
//!
//! Every node has one, and any may fire. A firing is an event of the schedule's stream, which one node
//! appends and no other can; it names the execution that is submitted next. Whoever finds a firing whose
//! execution is not known to be submitted submits it, under the id that the event names: once, because a
//! stream begins once.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime;
use uuid::Uuid;

use super::intake::Intake;
use super::ledger;
use super::refusal::{Refusal, answer};
use super::scheduled::{Check, SubmitScheduled};
use super::submission::{Origin, Submission};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::{
    Calendar, Digest, Due, Envelope, Event, JobScheduled, Missed, NotACalendar, Overlap, Schedule, ScheduleChanged,
    ScheduleDefined, ScheduleFired, SchedulePaused, ScheduleRemoved, ScheduleResumed, ScheduleSkipped, ScheduleTerms,
    SkipCause,
};
use crate::store::{Scheduled, Store};

/// Between two looks at what is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Schedules of one look.
const TOGETHER: u32 = 200;

/// Times of one schedule that are dealt with in one look.
const AT_ONCE: usize = 20;

/// How often a wish is tried again that another was faster than.
const RACES: usize = 5;

/// Reads the text of a submission; what is wrong with it otherwise.
pub type ReadSubmission = fn(&str) -> Result<Submission, String>;

/// What a tenant wants of a schedule.
#[derive(Debug, Clone)]
pub struct Wish {
    pub cron: String,
    pub timezone: String,
    pub overlap: Overlap,
    pub missed: Missed,
    pub enabled: bool,
    /// As it was sent; and what it says.
    pub job: String,
    pub submission: Submission,
}

/// Makes a schedule, or gives one other terms.
#[derive(Debug, Message)]
#[rtype(result = "Result<Scheduled, Refusal>")]
pub struct Define {
    pub origin: Origin,
    pub name: String,
    pub wish: Wish,
    /// Whether there must be none of that name, or one.
    pub is_new: bool,
}

/// What else may be done to a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Pause,
    Resume,
    Remove,
}

/// Does it; answers with the schedule as it is then.
#[derive(Debug, Message)]
#[rtype(result = "Result<Scheduled, Refusal>")]
pub struct Change {
    pub origin: Origin,
    pub name: String,
    pub action: Action,
}

pub struct Schedules {
    desk: Desk,
    io: runtime::Handle,
    busy: bool,
}

/// What the actor works with.
#[derive(Clone)]
pub struct Desk {
    pub node_id: Uuid,
    pub store: Store,
    pub intake: Addr<Intake>,
    pub clock: Arc<dyn Clock>,
    pub config: Arc<Config>,
    pub read: ReadSubmission,
}

impl Schedules {
    pub fn new(desk: Desk, io: runtime::Handle) -> Self {
        Self { desk, io, busy: false }
    }

    fn look(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy, true) {
            return;
        }
        let desk = self.desk.clone();
        let task = self.io.spawn(async move { desk.look().await });
        let done = task.into_actor(self).map(|result, schedules, _| {
            schedules.busy = false;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %error, "schedules could not be looked at"),
                Err(lost) => tracing::error!(error = %lost, "a look at schedules was lost"),
            }
        });
        context.spawn(done);
    }
}

impl Actor for Schedules {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.look(context);
        // Nodes that started together need not look together.
        context.run_interval(LOOK_INTERVAL.mul_f64(0.8 + 0.4 * rand::random::<f64>()), Self::look);
    }
}

impl Handler<Define> for Schedules {
    type Result = ResponseFuture<Result<Scheduled, Refusal>>;

    fn handle(&mut self, Define { origin, name, wish, is_new }: Define, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk.clone();
        answer(&self.io, async move { desk.define(&origin, name, wish, is_new).await })
    }
}

impl Handler<Change> for Schedules {
    type Result = ResponseFuture<Result<Scheduled, Refusal>>;

    fn handle(&mut self, Change { origin, name, action }: Change, _: &mut Self::Context) -> Self::Result {
        let desk = self.desk.clone();
        answer(&self.io, async move { desk.change(&origin, &name, action).await })
    }
}

impl Desk {
    async fn define(&self, origin: &Origin, name: String, wish: Wish, is_new: bool) -> Result<Scheduled, Refusal> {
        let Wish { cron, timezone, overlap, missed, enabled, job, submission } = wish;
        if let Err(fault) = Calendar::read(&cron, &timezone) {
            return Err(match fault {
                NotACalendar::Cron(message) => Refusal::field("cron", message),
                NotACalendar::Zone(message) => Refusal::field("timezone", message),
            });
        }
        let check = Check { origin: origin.clone(), submission };
        self.intake.send(check).await.map_err(|_| Refusal::unavailable())??;
        let digest = Digest::of(job.as_bytes());
        self.store.put_schedule_job(digest, &job).await?;
        let terms = ScheduleTerms { cron, timezone, overlap, missed, job: digest };
        let by = origin.by.clone();
        let present = self.store.schedule(&origin.tenant, &name).await?;
        if is_new {
            let most = u64::from(self.config.schedules.max_per_tenant);
            if present.is_some() {
                return Err(Refusal::ScheduleExists { name });
            }
            if self.store.count_schedules(&origin.tenant).await? >= most {
                return Err(Refusal::TooManySchedules { most });
            }
            let tenant = origin.tenant.clone();
            let defined = ScheduleDefined { tenant, name: name.clone(), terms, enabled, by };
            let made = self.append(None, defined.into(), None, &origin.correlation_id).await?;
            return made.ok_or(Refusal::ScheduleExists { name });
        }
        for _ in 0..RACES {
            let mut present = self.find(&origin.tenant, &name).await?;
            let mut events: Vec<Event> = Vec::new();
            if present.schedule.terms != terms {
                events.push(ScheduleChanged { terms: terms.clone(), by: by.clone() }.into());
            }
            if present.schedule.enabled != enabled {
                events.push(if enabled { resumed(&by) } else { paused(&by) });
            }
            let mut raced = false;
            for event in events {
                let pending = present.pending;
                match self.append(Some(&present), event, pending, &origin.correlation_id).await? {
                    Some(next) => present = next,
                    None => raced = true,
                }
            }
            if !raced {
                return Ok(present);
            }
        }
        Err(Refusal::ScheduleRaced { name })
    }

    async fn change(&self, origin: &Origin, name: &str, action: Action) -> Result<Scheduled, Refusal> {
        for _ in 0..RACES {
            let present = self.find(&origin.tenant, name).await?;
            let event = match action {
                Action::Pause if !present.schedule.enabled => return Ok(present),
                Action::Resume if present.schedule.enabled => return Ok(present),
                Action::Pause => paused(&origin.by),
                Action::Resume => resumed(&origin.by),
                Action::Remove => ScheduleRemoved { by: origin.by.clone() }.into(),
            };
            let pending = present.pending;
            if let Some(next) = self.append(Some(&present), event, pending, &origin.correlation_id).await? {
                return Ok(next);
            }
        }
        Err(Refusal::ScheduleRaced { name: name.to_owned() })
    }

    async fn find(&self, tenant: &str, name: &str) -> Result<Scheduled, Refusal> {
        let found = self.store.schedule(tenant, name).await?;
        found.ok_or_else(|| Refusal::NoSchedule { name: name.chars().take(64).collect() })
    }

    /// `None` when another was first.
    async fn append(
        &self,
        before: Option<&Scheduled>,
        event: Event,
        pending: Option<Uuid>,
        correlation_id: &str,
    ) -> Result<Option<Scheduled>, crate::store::Error> {
        let schedule_id = before.map_or_else(Uuid::now_v7, |before| before.schedule.schedule_id);
        let envelope = Envelope {
            event_id: Uuid::now_v7(),
            stream_id: schedule_id,
            version: before.map_or(0, |before| before.schedule.version) + 1,
            recorded_at: self.clock.now(),
            correlation_id: Some(correlation_id.to_owned()),
            event,
        };
        let at = (schedule_id, envelope.version, envelope.recorded_at);
        let schedule = Schedule::evolve(before.map(|before| before.schedule.clone()), at, &envelope.event);
        // What does not follow was decided on a state that is no more.
        let Ok(schedule) = schedule else { return Ok(None) };
        let speaker = format!("schedules@{}", self.node_id);
        let head_hash = self.store.append_schedule(before, &envelope, &speaker, &schedule, pending).await?;
        Ok(head_hash.map(|head_hash| Scheduled { schedule, head_hash, pending }))
    }

    async fn look(&self) -> Result<(), ledger::Error> {
        for scheduled in self.store.due_schedules(self.clock.now(), TOGETHER).await? {
            let name = scheduled.schedule.name.clone();
            if let Err(error) = self.catch_up(scheduled).await {
                if error.is_transient() {
                    return Err(error);
                }
                tracing::error!(error = %error, schedule = name, "a schedule could not be dealt with");
            }
        }
        Ok(())
    }

    /// Deals with what is due of one schedule, as long as no other node does.
    async fn catch_up(&self, mut scheduled: Scheduled) -> Result<(), ledger::Error> {
        for _ in 0..AT_ONCE {
            if scheduled.pending.is_some() {
                match self.submit(scheduled).await? {
                    Some(submitted) => scheduled = submitted,
                    // Later, or another did something about it.
                    None => return Ok(()),
                }
            }
            let late_after = self.config.schedules.late_after;
            let (event, pending): (Event, _) = match scheduled.schedule.due(self.clock.now(), late_after) {
                Due::Later(_) => return Ok(()),
                Due::Skip { due_at, through } => (skipped(due_at, through, SkipCause::Missed, None), None),
                Due::Fire { due_at, missed_since } => match self.running(&scheduled.schedule).await? {
                    Some(running) => {
                        (skipped(missed_since.unwrap_or(due_at), due_at, SkipCause::Overlap, Some(running)), None)
                    }
                    None => {
                        let execution_id = Uuid::now_v7();
                        let job = scheduled.schedule.terms.job;
                        (ScheduleFired { due_at, execution_id, missed_since, job }.into(), Some(execution_id))
                    }
                },
            };
            match self.append(Some(&scheduled), event, pending, &correlation_id(&scheduled.schedule)).await? {
                Some(next) => scheduled = next,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// The execution before, if it has not ended and no other may run beside it.
    async fn running(&self, schedule: &Schedule) -> Result<Option<Uuid>, ledger::Error> {
        let Some(last) = schedule.last_fired.as_ref().filter(|_| schedule.terms.overlap == Overlap::Skip) else {
            return Ok(None);
        };
        let record = self.store.record(last.execution_id).await?;
        let is_running = record.is_some_and(|stored| !stored.record.is_ended());
        Ok(is_running.then_some(last.execution_id))
    }

    /// Submits the execution that was fired, unless somebody has; `None` when that must be tried again.
    async fn submit(&self, scheduled: Scheduled) -> Result<Option<Scheduled>, ledger::Error> {
        let schedule = &scheduled.schedule;
        let Some(fired) = schedule.last_fired.as_ref().filter(|fired| Some(fired.execution_id) == scheduled.pending)
        else {
            tracing::error!(schedule = schedule.name, "a schedule waits for a submission that it did not fire");
            return Ok(None);
        };
        let execution_id = fired.execution_id;
        let job = self.store.schedule_job(fired.job).await?;
        let submission = match job.as_deref().map(self.read) {
            Some(Ok(submission)) => submission,
            Some(Err(fault)) => return self.refused(&scheduled, fired, fault).await,
            None => return self.refused(&scheduled, fired, "its job is not kept any more".to_owned()).await,
        };
        let origin = Origin {
            tenant: schedule.tenant.clone(),
            by: format!("schedule {}", schedule.name),
            client_ip: None,
            correlation_id: correlation_id(schedule),
        };
        let of = JobScheduled { schedule_id: schedule.schedule_id, name: schedule.name.clone(), due_at: fired.due_at };
        let sent = self.intake.send(SubmitScheduled { origin, submission, execution_id, scheduled: of }).await;
        match sent.unwrap_or_else(|_| Err(Refusal::unavailable())) {
            Ok(()) => {
                self.store.schedule_submitted(schedule.schedule_id, execution_id).await?;
                Ok(Some(Scheduled { pending: None, ..scheduled }))
            }
            Err(refusal @ (Refusal::Invalid { .. } | Refusal::JobType(_))) => {
                self.refused(&scheduled, fired, refusal.to_string()).await
            }
            Err(refusal) => {
                tracing::warn!(schedule = schedule.name, %execution_id, "a scheduled job waits: {refusal}");
                Ok(None)
            }
        }
    }

    async fn refused(
        &self,
        scheduled: &Scheduled,
        fired: &ScheduleFired,
        reason: String,
    ) -> Result<Option<Scheduled>, ledger::Error> {
        tracing::warn!(schedule = scheduled.schedule.name, reason, "a scheduled job was refused");
        let event = ScheduleSkipped {
            due_at: fired.due_at,
            through: fired.due_at,
            cause: SkipCause::Refused,
            execution_id: Some(fired.execution_id),
            reason: Some(reason),
        };
        let correlation_id = correlation_id(&scheduled.schedule);
        Ok(self.append(Some(scheduled), event.into(), None, &correlation_id).await?)
    }
}

fn paused(by: &str) -> Event {
    SchedulePaused { by: by.to_owned() }.into()
}

fn resumed(by: &str) -> Event {
    ScheduleResumed { by: by.to_owned() }.into()
}

fn skipped(
    due_at: chrono::DateTime<chrono::Utc>,
    through: chrono::DateTime<chrono::Utc>,
    cause: SkipCause,
    execution_id: Option<Uuid>,
) -> Event {
    ScheduleSkipped { due_at, through, cause, execution_id, reason: None }.into()
}

fn correlation_id(schedule: &Schedule) -> String {
    format!("schedule-{}", schedule.schedule_id)
}
