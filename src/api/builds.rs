//! Builds of this node, as they go on.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Admin, Caller};
use super::jobs::NoFields;
use super::params::{Id, Params};
use super::problem::{Kind, Problem};
use super::sse;
use crate::actors::builder::Built;
use crate::actors::builds::BuildRun;

/// What a client is told of a job type that is ready.
pub fn built(built: &Built) -> Value {
    json!({
        "status": "built",
        "job_type": built.job_type,
        "version": built.version,
        "digest": built.digest,
        "image_ref": built.image_ref,
    })
}

fn view(run: &BuildRun) -> Value {
    let (status, error) = match run.ended() {
        None => ("building", None),
        Some(Ok(_)) => ("built", None),
        Some(Err(refusal)) => ("failed", Some(refusal.to_string())),
    };
    json!({
        "build_id": run.build_id,
        "job_type": run.environment.name,
        "version": run.environment.version().to_string(),
        "status": status,
        "error": error,
    })
}

fn find(app: &App, build_id: Uuid) -> Result<Arc<BuildRun>, Problem> {
    let unknown = || format!("no build {build_id} is under way on this node, or was lately; its events are in the log");
    app.builds.by_id(build_id).ok_or_else(|| Problem::new(Kind::NotFound, unknown()))
}

/// GET /builds: those of this node, newest first.
pub async fn list(_caller: Caller<Admin>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let views: Vec<_> = app.builds.known().iter().map(|run| view(run)).collect();
    Ok(HttpResponse::Ok().json(views))
}

/// GET /builds/{id}/log: server-sent events `log`, and at last `built` or `failed`.
pub async fn log(
    _caller: Caller<Admin>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let run = find(&app, id)?;
    let seen = sse::last_event_id(&request, |text| text.parse::<usize>().ok())?.unwrap_or_default();
    Ok(follow_run(&app, run, seen))
}

/// Sends a build's lines from a number on. A line's id is how many there are with it.
pub fn follow_run(app: &web::Data<App>, run: Arc<BuildRun>, mut seen: usize) -> HttpResponse {
    sse::answer(app, move |_, sink| async move {
        if seen == 0 {
            sink.send("0", "build", &view(&run).to_string()).await?;
        }
        while let Some(lines) = run.lines(seen).await {
            for line in lines {
                seen += 1;
                sink.send(&seen.to_string(), "log", &line).await?;
            }
        }
        match run.outcome().await {
            Ok(done) => sink.send(&seen.to_string(), "built", &built(&done).to_string()).await,
            Err(refusal) => {
                let problem = serde_json::to_string(&Problem::from(refusal).item());
                sink.send(&seen.to_string(), "failed", &problem.unwrap_or_default()).await
            }
        }
    })
}

/// POST /builds/{id}/cancel
pub async fn cancel(
    _caller: Caller<Admin>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let run = find(&app, id)?;
    run.cancel.cancel();
    // Those who wait for it hear of the cancel as well.
    let _ = run.outcome().await;
    Ok(HttpResponse::Ok().json(view(&run)))
}
