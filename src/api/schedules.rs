//! Jobs at times: the tenant's schedules.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::app::App;
use super::body::{JsonBody, OptionalJsonBody};
use super::caller::{Caller, Read, Submit};
use super::jobs::NoFields;
use super::params::{Named, Page, Params};
use super::problem::{Kind, Problem};
use super::strict_json;
use super::submit_body::SubmitBody;
use crate::actors::schedules::{Action, Change, Define, Wish};
use crate::actors::submission::{FieldFault, Submission};
use crate::domain::{Missed, Overlap};
use crate::store::Scheduled;

/// Times that are named ahead.
const UPCOMING: usize = 3;

/// A schedule as it is sent; `null` is the same as absent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ScheduleBody {
    name: Option<String>,
    cron: Option<String>,
    timezone: Option<String>,
    overlap: Option<Overlap>,
    missed: Option<Missed>,
    enabled: Option<bool>,
    /// A submission.
    job: Option<Box<RawValue>>,
}

impl ScheduleBody {
    fn wish(self) -> Result<Wish, Problem> {
        let mut faults = Vec::new();
        let mut missing = |field: &str, message: &str| {
            faults.push(FieldFault { field: field.to_owned(), message: message.to_owned(), is_size: false });
        };
        if self.cron.is_none() {
            missing("cron", "must be given, like \"30 4 * * *\"");
        }
        if self.job.as_ref().is_none_or(|job| job.get() == "null") {
            missing("job", "must be given: what POST /jobs takes");
        }
        let (Some(cron), Some(job), true) = (self.cron, self.job, faults.is_empty()) else {
            return Err(Problem::invalid(faults));
        };
        Ok(Wish {
            cron,
            timezone: self.timezone.unwrap_or_else(|| "UTC".to_owned()),
            overlap: self.overlap.unwrap_or_default(),
            missed: self.missed.unwrap_or_default(),
            enabled: self.enabled.unwrap_or(true),
            submission: submission_of(job.get())?,
            job: job.get().to_owned(),
        })
    }
}

/// A schedule's job: a submission without what every one of its executions has of its own.
fn submission_of(text: &str) -> Result<Submission, Problem> {
    let submission = strict_json::read::<SubmitBody>(text).and_then(SubmitBody::submission)?;
    let own = [
        ("idempotency_key", submission.idempotency_key.is_some()),
        ("not_before", submission.not_before.is_some()),
        ("after", !submission.after.is_empty()),
    ];
    let faults = own.into_iter().filter(|(_, is_given)| *is_given).map(|(field, _)| FieldFault {
        field: field.to_owned(),
        message: "is not for a schedule's job, of which there is one at each time".to_owned(),
        is_size: false,
    });
    let faults: Vec<_> = faults.collect();
    if faults.is_empty() { Ok(submission) } else { Err(Problem::invalid(faults)) }
}

/// Reads what a schedule submits; what is wrong with it otherwise.
pub fn read_submission(text: &str) -> Result<Submission, String> {
    submission_of(text).map_err(|problem| problem.detail().to_owned())
}

/// POST /schedules
pub async fn create(
    caller: Caller<Submit>,
    app: web::Data<App>,
    params: Params,
    JsonBody(mut body): JsonBody<ScheduleBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let name = body.name.take().unwrap_or_default();
    if !is_name(&name) {
        return Err(Problem::field("name", format!("must have {NAME}, not {name:.64?}")));
    }
    let location = ("Location", format!("/schedules/{name}"));
    let define = Define { origin: caller.origin, name, wish: body.wish()?, is_new: true };
    let made = app.schedules.send(define).await??;
    Ok(HttpResponse::Created().insert_header(location).json(view(&app, &made).await?))
}

/// PUT /schedules/{name}
pub async fn change(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    JsonBody(mut body): JsonBody<ScheduleBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    if body.name.take().is_some_and(|given| given != name) {
        return Err(Problem::field("name", format!("must be {name:.64?}, as in the path: a schedule keeps its name")));
    }
    let define = Define { origin: caller.origin, name, wish: body.wish()?, is_new: false };
    let changed = app.schedules.send(define).await??;
    Ok(HttpResponse::Ok().json(view(&app, &changed).await?))
}

/// GET /schedules?limit=&offset=
pub async fn list(caller: Caller<Read>, app: web::Data<App>, mut params: Params) -> Result<HttpResponse, Problem> {
    let page = Page::of(&mut params);
    params.done()?;
    let tenant = caller.tenant.clone();
    let found = app.read(move |store| async move { store.schedules(&tenant, page.limit, page.offset).await }).await?;
    // Their jobs are shown one by one.
    let items: Vec<_> = found.items.iter().map(|scheduled| json!(View::of(scheduled, None))).collect();
    Ok(HttpResponse::Ok().json(page.answer(items, found.has_more)))
}

/// GET /schedules/{name}
pub async fn get(
    caller: Caller<Read>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let tenant = caller.tenant.clone();
    let absent = Problem::new(Kind::NotFound, format!("schedule {name:.64?} does not exist"));
    let found = app.read(move |store| async move { store.schedule(&tenant, &name).await }).await?;
    Ok(HttpResponse::Ok().json(view(&app, &found.ok_or(absent)?).await?))
}

/// DELETE /schedules/{name}
pub async fn remove(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let change = Change { origin: caller.origin, name, action: Action::Remove };
    let removed = app.schedules.send(change).await??;
    Ok(HttpResponse::Ok().json(json!({
        "status": "removed",
        "name": removed.schedule.name,
        "schedule_id": removed.schedule.schedule_id,
    })))
}

/// POST /schedules/{name}/pause
pub async fn pause(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    switch(caller, &app, name, Action::Pause).await
}

/// POST /schedules/{name}/resume
pub async fn resume(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    switch(caller, &app, name, Action::Resume).await
}

async fn switch(caller: Caller<Submit>, app: &App, name: String, action: Action) -> Result<HttpResponse, Problem> {
    let change = Change { origin: caller.origin, name, action };
    let changed = app.schedules.send(change).await??;
    Ok(HttpResponse::Ok().json(view(app, &changed).await?))
}

/// What a schedule shows of itself.
#[derive(Serialize)]
struct View<'a> {
    schedule_id: uuid::Uuid,
    name: &'a str,
    cron: &'a str,
    timezone: &'a str,
    overlap: Overlap,
    missed: Missed,
    enabled: bool,
    next_due: Option<chrono::DateTime<chrono::Utc>>,
    upcoming: Vec<chrono::DateTime<chrono::Utc>>,
    fired: u64,
    last_fired: Option<&'a crate::domain::ScheduleFired>,
    last_skipped: Option<&'a crate::domain::ScheduleSkipped>,
    created_at: chrono::DateTime<chrono::Utc>,
    changed_at: chrono::DateTime<chrono::Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Value>,
}

impl<'a> View<'a> {
    fn of(scheduled: &'a Scheduled, job: Option<Value>) -> Self {
        let schedule = &scheduled.schedule;
        let next_due = schedule.next_due();
        let calendar = schedule.terms.calendar().ok();
        let next = |at: &chrono::DateTime<chrono::Utc>| calendar.as_ref()?.next_after(*at);
        Self {
            schedule_id: schedule.schedule_id,
            name: &schedule.name,
            cron: &schedule.terms.cron,
            timezone: &schedule.terms.timezone,
            overlap: schedule.terms.overlap,
            missed: schedule.terms.missed,
            enabled: schedule.enabled,
            next_due,
            upcoming: std::iter::successors(next_due, next).take(UPCOMING).collect(),
            fired: schedule.fired,
            last_fired: schedule.last_fired.as_ref(),
            last_skipped: schedule.last_skipped.as_ref(),
            created_at: schedule.created_at,
            changed_at: schedule.changed_at,
            job,
        }
    }
}

async fn view(app: &App, scheduled: &Scheduled) -> Result<Value, Problem> {
    let digest = scheduled.schedule.terms.job;
    let job = app.read(move |store| async move { store.schedule_job(digest).await }).await?;
    let job = job.and_then(|job| serde_json::from_str(&job).ok());
    Ok(json!(View::of(scheduled, Some(job.unwrap_or_default()))))
}

const NAME: &str = "from 1 to 64 letters, digits, dots, dashes and underscores";

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with('.')
}
