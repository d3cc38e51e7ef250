//! Jobs on their way: submit, look, wait, cancel, repeat.

use std::collections::HashMap;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::app::App;
use super::body::{JsonBody, OptionalJsonBody};
use super::caller::{Caller, Read, Submit};
use super::params::{Id, Params};
use super::problem::{Kind, Problem};
use super::strict_json;
use super::submit_body::SubmitBody;
use super::view::{self, Extent, Moments, View};
use crate::actors::intake::{self, Accepted, How, Repeat};
use crate::actors::submission::Origin;
use crate::domain::{ExecutionRecord, JobState, Status};
use crate::store::Hindrance;

/// The longest a request may wait for a job's end, seconds.
const MAX_WAIT: f64 = 600.0;

/// A job that was accepted, or had been before under the same idempotency key.
#[derive(Serialize)]
struct Queued {
    job_id: Uuid,
    execution_id: Uuid,
    status: Status,
    created_at: chrono::DateTime<chrono::Utc>,
    /// An earlier submission made it.
    repeated: bool,
}

impl From<&Accepted> for Queued {
    fn from(accepted: &Accepted) -> Self {
        Self {
            job_id: accepted.execution_id,
            execution_id: accepted.execution_id,
            status: accepted.status,
            created_at: accepted.created_at,
            repeated: accepted.repeated,
        }
    }
}

pub async fn enter(app: &App, origin: Origin, body: SubmitBody) -> Result<Accepted, Problem> {
    let submission = body.submission()?;
    Ok(app.intake.send(intake::Submit { origin, submission }).await??)
}

/// POST /execute/async
pub async fn submit_async(
    caller: Caller<Submit>,
    app: web::Data<App>,
    params: Params,
    JsonBody(body): JsonBody<SubmitBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let accepted = enter(&app, caller.origin, body).await?;
    Ok(HttpResponse::Ok().json(Queued::from(&accepted)))
}

/// POST /jobs?wait=
pub async fn submit(
    caller: Caller<Submit>,
    app: web::Data<App>,
    mut params: Params,
    JsonBody(body): JsonBody<SubmitBody>,
) -> Result<HttpResponse, Problem> {
    let wait = params.seconds("wait", MAX_WAIT, 0.0);
    let extent = Extent::full_if(params.full_view());
    params.done()?;
    let accepted = enter(&app, caller.origin.clone(), body).await?;
    accepted_answer(&app, &caller, &accepted, wait, extent).await
}

/// 202 with where to look, or 200 with the record when the job ended within the time.
async fn accepted_answer(
    app: &App,
    origin: &Origin,
    accepted: &Accepted,
    wait: Duration,
    extent: Extent,
) -> Result<HttpResponse, Problem> {
    let location = (header::LOCATION, format!("/jobs/{}", accepted.execution_id));
    if !wait.is_zero() {
        let record = app.record_at_end(origin, accepted.execution_id, |_| wait).await?;
        if record.is_ended() {
            let blobs = app.blobs(view::shown_blobs(&record, extent)).await?;
            return Ok(HttpResponse::Ok().insert_header(location).json(View::of(&record, extent, &blobs)));
        }
    }
    Ok(HttpResponse::Accepted().insert_header(location).json(Queued::from(accepted)))
}

#[derive(Debug, Deserialize)]
pub struct BatchBody {
    jobs: Vec<Box<RawValue>>,
}

/// POST /jobs/batch: each job succeeds or is refused by itself, answered in order.
pub async fn submit_batch(
    caller: Caller<Submit>,
    app: web::Data<App>,
    params: Params,
    JsonBody(body): JsonBody<BatchBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let most = app.config.limits.max_batch as usize;
    if body.jobs.is_empty() || body.jobs.len() > most {
        return Err(Problem::field("jobs", format!("must be from 1 to {most} submissions, not {}", body.jobs.len())));
    }
    let mut items: Vec<Option<serde_json::Value>> = Vec::with_capacity(body.jobs.len());
    let mut submissions = Vec::new();
    for job in &body.jobs {
        match strict_json::read::<SubmitBody>(job.get()).and_then(SubmitBody::submission) {
            Ok(submission) => {
                submissions.push(submission);
                items.push(None);
            }
            Err(problem) => items.push(Some(refused_item(&problem))),
        }
    }
    let answers = app.intake.send(intake::SubmitBatch { origin: caller.origin, submissions }).await?;
    let mut answers = answers.into_iter().map(|answer| match answer {
        Ok(accepted) => json!(Queued::from(&accepted)),
        Err(refusal) => refused_item(&refusal.into()),
    });
    let items: Vec<_> = items.into_iter().filter_map(|item| item.or_else(|| answers.next())).collect();
    let accepted = items.iter().filter(|item| item.get("job_id").is_some()).count();
    Ok(HttpResponse::Ok().json(json!({
        "count": items.len(),
        "accepted": accepted,
        "refused": items.len() - accepted,
        "items": items,
    })))
}

fn refused_item(problem: &Problem) -> serde_json::Value {
    json!({ "error": problem.item() })
}

/// GET /jobs/{id}
pub async fn status(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let record = app.record(&caller, id).await?;
    let moments = Moments::of(&record);
    let hindrance = hindrance(&app, &record).await?;
    let waiting_for = waiting_for(&app, &record).await?;
    Ok(HttpResponse::Ok().json(json!({
        "job_id": id,
        "held_back_by": hindrance.map(Hindrance::as_str),
        "message": hindrance.map(|hindrance| hindered(hindrance, &record)),
        "status": record.status(),
        "created_at": record.created_at,
        "started_at": moments.started_at,
        "ended_at": moments.ended_at,
        "job_type": record.submitted.job_type,
        "attempt": record.attempt,
        "cancel_requested": record.cancel_requested.is_some(),
        "after": record.dependencies.as_ref().map(|dependencies| &dependencies.after),
        "after_policy": record.dependencies.as_ref().map(|dependencies| dependencies.policy),
        "waiting_for": waiting_for,
        "schedule": record.schedule,
    })))
}

/// The executions that must still end before the job may run, with their statuses.
async fn waiting_for(app: &App, record: &ExecutionRecord) -> Result<Vec<serde_json::Value>, Problem> {
    let Some(dependencies) = record.dependencies.as_ref().filter(|_| record.is_waiting()) else {
        return Ok(Vec::new());
    };
    let after = dependencies.after.clone();
    let records = app.read(move |store| async move { store.records(&after).await }).await?;
    let open = records.iter().map(|stored| &stored.record).filter(|record| !record.is_ended());
    Ok(open.map(|record| json!({"execution_id": record.execution_id, "status": record.status()})).collect())
}

/// GET /jobs/{id}/result?wait=&timeout=&view=
pub async fn result(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
) -> Result<HttpResponse, Problem> {
    let wait = params.flag("wait");
    let timeout = params.seconds("timeout", MAX_WAIT, 30.0);
    let extent = Extent::full_if(params.full_view());
    params.done()?;
    let record = app.record_at_end(&caller, id, |_| if wait { timeout } else { Duration::ZERO }).await?;
    if record.is_ended() {
        let blobs = app.blobs(view::shown_blobs(&record, extent)).await?;
        return Ok(HttpResponse::Ok().json(View::of(&record, extent, &blobs)));
    }
    if wait {
        return Err(not_yet(&app, &record, timeout));
    }
    let queue_position = queue_position(&app, &record).await?;
    let hindrance = hindrance(&app, &record).await?;
    let message = match hindrance {
        Some(hindrance) => hindered(hindrance, &record),
        None => message(&record, queue_position),
    };
    Ok(HttpResponse::Ok().json(json!({
        "job_id": id,
        "status": record.status(),
        "message": message,
        "queue_position": queue_position,
    })))
}

/// The wait is over and the job is not.
fn not_yet(app: &App, record: &ExecutionRecord, waited: Duration) -> Problem {
    let (id, status) = (record.execution_id, record.status());
    let problem = if app.stopping.is_cancelled() {
        Problem::unavailable(format!("the server is stopping; the job is {status} and not lost: ask again"))
    } else {
        let waited = waited.as_secs_f64();
        let detail = format!("the job is still {status} after {waited} s and goes on; ask /jobs/{id}/result again");
        Problem::new(Kind::NotYet, detail)
    };
    problem.about(id)
}

async fn queue_position(app: &App, record: &ExecutionRecord) -> Result<Option<u64>, Problem> {
    let id = record.execution_id;
    match record.state {
        JobState::Queued { .. } if record.is_waiting() => Ok(None),
        JobState::Queued { .. } => app.read(move |store| async move { store.queue_position(id).await }).await,
        JobState::Dequeued { .. } | JobState::Running { .. } | JobState::Ended { .. } => Ok(None),
    }
}

async fn hindrance(app: &App, record: &ExecutionRecord) -> Result<Option<Hindrance>, Problem> {
    let id = record.execution_id;
    match record.state {
        JobState::Queued { .. } => app.read(move |store| async move { store.hindrance(id).await }).await,
        JobState::Dequeued { .. } | JobState::Running { .. } | JobState::Ended { .. } => Ok(None),
    }
}

/// What has to change before the job is started.
fn hindered(hindrance: Hindrance, record: &ExecutionRecord) -> String {
    let job_type = &record.submitted.job_type;
    match hindrance {
        Hindrance::Paused => format!("the job waits: job type {job_type:?}, or every job type, is paused"),
        Hindrance::NoNode => format!(
            "no node that lives can run the job: job type {job_type:?} asks for a GPU or a placement that none has; \
             GET /nodes shows what they have"
        ),
        Hindrance::TenantLimit => "the job waits: as many jobs of its tenant run as may".to_owned(),
        Hindrance::JobTypeLimit => format!("the job waits: as many jobs of type {job_type:?} run as may"),
        Hindrance::KeyLimit => "the job waits: as many jobs with its concurrency_key run as may".to_owned(),
    }
}

fn message(record: &ExecutionRecord, queue_position: Option<u64>) -> String {
    if let Some(dependencies) = record.dependencies.as_ref().filter(|_| record.is_waiting()) {
        return format!(
            "the job waits for {} executions to end; GET /jobs/{{id}} names them",
            dependencies.after.len()
        );
    }
    match (&record.state, queue_position) {
        (JobState::Queued { not_before: Some(moment) }, None) => format!("the job is not to start before {moment}"),
        (JobState::Queued { .. }, Some(position)) => format!("the job is number {position} in the queue"),
        (JobState::Queued { .. }, None) => "the job waits in the queue".to_owned(),
        (JobState::Dequeued { .. }, _) => "the job has a slot and waits for its sandbox".to_owned(),
        (JobState::Running { .. }, _) => "the job is running".to_owned(),
        (JobState::Ended { .. }, _) => "the job has ended".to_owned(),
    }
}

#[derive(Debug, Deserialize)]
pub struct CancelBody {
    reason: Option<String>,
}

/// POST /jobs/{id}/cancel
pub async fn cancel(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(execution_id): Id,
    params: Params,
    OptionalJsonBody(CancelBody { reason }): OptionalJsonBody<CancelBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    check_reason(reason.as_deref())?;
    let status = app.intake.send(intake::Cancel { origin: caller.origin, execution_id, reason }).await??;
    let word = if status == Status::Cancelled { "cancelled" } else { "cancelling" };
    Ok(HttpResponse::Ok().json(json!({"status": word, "job_id": execution_id})))
}

/// A reason ends up in the log, where people read it.
pub fn check_reason(reason: Option<&str>) -> Result<(), Problem> {
    match reason {
        Some(reason) if reason.chars().count() > 500 || reason.contains(char::is_control) => {
            Err(Problem::field("reason", "must have at most 500 characters and no control characters"))
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Deserialize)]
pub struct NoFields {}

/// POST /jobs/{id}/rerun
pub async fn rerun(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    let wait = params.seconds("wait", MAX_WAIT, 0.0);
    params.done()?;
    repeat(&app, caller.origin, id, How::Rerun, "rerun", wait).await
}

#[derive(Debug, Deserialize)]
pub struct ForkBody {
    code: Option<String>,
}

/// POST /jobs/{id}/fork
pub async fn fork(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
    JsonBody(ForkBody { code }): JsonBody<ForkBody>,
) -> Result<HttpResponse, Problem> {
    let wait = params.seconds("wait", MAX_WAIT, 0.0);
    params.done()?;
    let code = code.ok_or_else(|| Problem::field("code", "must be given: send the Python source of the new job"))?;
    repeat(&app, caller.origin, id, How::Fork { code }, "fork", wait).await
}

async fn repeat(
    app: &App,
    origin: Origin,
    execution_id: Uuid,
    how: How,
    relationship: &'static str,
    wait: Duration,
) -> Result<HttpResponse, Problem> {
    let accepted = app.intake.send(Repeat { origin: origin.clone(), execution_id, how }).await??;
    if !wait.is_zero() {
        return accepted_answer(app, &origin, &accepted, wait, Extent::Full).await;
    }
    Ok(HttpResponse::Ok().insert_header((header::LOCATION, format!("/jobs/{}", accepted.execution_id))).json(json!({
        "job_id": accepted.execution_id,
        "execution_id": accepted.execution_id,
        "status": accepted.status,
        "created_at": accepted.created_at,
        "parent_execution_id": execution_id,
        "relationship": relationship,
    })))
}

/// POST /execute: the whole life of a job in one answer.
pub async fn execute(
    caller: Caller<Submit>,
    app: web::Data<App>,
    params: Params,
    JsonBody(body): JsonBody<SubmitBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let accepted = enter(&app, caller.origin.clone(), body).await?;
    let id = accepted.execution_id;
    let record = app.record_at_end(&caller, id, patience).await?;
    if !record.is_ended() {
        return Err(not_yet(&app, &record, patience(&record)));
    }
    let blobs = app.blobs(view::shown_blobs(&record, Extent::Short)).await?;
    Ok(HttpResponse::Ok().json(Executed::of(&record, &blobs)))
}

/// How long a synchronous run may take: its own limits, and a time to wait for a slot.
fn patience(record: &ExecutionRecord) -> Duration {
    let limits = &record.submitted.limits;
    Duration::from_millis(limits.timeout_ms + limits.startup_timeout_ms) + Duration::from_secs(60)
}

#[derive(Serialize)]
struct Executed<'a> {
    success: bool,
    output: Option<Box<RawValue>>,
    stdout: String,
    stderr: String,
    exit_code: Option<i32>,
    /// Seconds.
    execution_time: f64,
    error: Option<String>,
    error_type: Option<crate::domain::ErrorType>,
    status: Status,
    job_type: &'a str,
    execution_id: Uuid,
    job_id: Uuid,
}

impl<'a> Executed<'a> {
    fn of(record: &'a ExecutionRecord, blobs: &HashMap<crate::domain::Digest, bytes::Bytes>) -> Self {
        let shown = View::of(record, Extent::Short, blobs);
        let (error_type, error) = shown.error.map(|fault| (fault.error_type, fault.message)).unzip();
        Self {
            success: record.status() == Status::Succeeded,
            output: shown.output,
            stdout: shown.stdout.unwrap_or_default(),
            stderr: shown.stderr.unwrap_or_default(),
            exit_code: shown.exit_code,
            execution_time: view::observed(record)
                .map_or(0.0, |observed| Duration::from_millis(observed.timing.execution_ms).as_secs_f64()),
            error,
            error_type,
            status: record.status(),
            job_type: &record.submitted.job_type,
            execution_id: record.execution_id,
            job_id: record.execution_id,
        }
    }
}
