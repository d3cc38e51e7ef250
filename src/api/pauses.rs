//! Holding job types back.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Admin, Caller};
use super::jobs::check_reason;
use super::params::{Named, Params};
use super::problem::Problem;
use crate::actors::pauses::SetPause;
use crate::store::Pause;

#[derive(Debug, Deserialize)]
pub struct PauseBody {
    reason: Option<String>,
}

/// POST /job-types/{name}/pause
pub async fn pause(
    caller: Caller<Admin>,
    app: web::Data<App>,
    name: Named,
    params: Params,
    body: OptionalJsonBody<PauseBody>,
) -> Result<HttpResponse, Problem> {
    set(caller, app, name, params, body, true).await
}

/// POST /job-types/{name}/resume
pub async fn resume(
    caller: Caller<Admin>,
    app: web::Data<App>,
    name: Named,
    params: Params,
    body: OptionalJsonBody<PauseBody>,
) -> Result<HttpResponse, Problem> {
    set(caller, app, name, params, body, false).await
}

async fn set(
    caller: Caller<Admin>,
    app: web::Data<App>,
    Named(job_type): Named,
    params: Params,
    OptionalJsonBody(PauseBody { reason }): OptionalJsonBody<PauseBody>,
    is_paused: bool,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    check_reason(reason.as_deref())?;
    let pause = app.builder.send(SetPause { origin: caller.origin, job_type, is_paused, reason }).await??;
    Ok(HttpResponse::Ok().json(json!({
        "job_type": pause.job_type,
        "paused": pause.is_paused,
        "since": pause.changed_at,
        "by": pause.changed_by,
        "reason": pause.reason,
    })))
}

/// Of a job type as it is shown: null, or since when it is paused, by whom and why.
pub fn shown(pauses: &[Pause], job_type: &str) -> Value {
    let pause = pauses.iter().find(|pause| pause.is_paused && pause.job_type == job_type);
    pause
        .map_or(Value::Null, |pause| json!({"since": pause.changed_at, "by": pause.changed_by, "reason": pause.reason}))
}
