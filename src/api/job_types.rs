//! The environments jobs may name.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Admin, Caller, Read};
use super::jobs::NoFields;
use super::params::Params;
use super::problem::{Kind, Problem};
use crate::actors::builder::{Build, ImageExists};
use crate::config::JobType;

#[derive(Serialize)]
struct View {
    /// As it is configured; the values of its environment are hidden by their type.
    #[serde(flatten)]
    job_type: JobType,
    /// `name@sha256:<12 hex>`.
    version: String,
    digest: String,
    image_exists: bool,
}

async fn view(app: &App, job_type: &JobType) -> Result<View, Problem> {
    let (_, version) = app.job_types.resolve(&job_type.name).map_err(|error| Problem::defect(&error))?;
    Ok(View {
        digest: app.job_types.digest(&job_type.name).unwrap_or_default().to_owned(),
        image_exists: app.builder.send(ImageExists { job_type: job_type.name.clone() }).await?,
        version,
        job_type: job_type.clone(),
    })
}

/// GET /job-types
pub async fn list(_caller: Caller<Read>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let mut views = Vec::new();
    for job_type in app.job_types.all() {
        views.push(view(&app, job_type).await?);
    }
    Ok(HttpResponse::Ok().json(views))
}

/// GET /job-types/{name}
pub async fn get(
    _caller: Caller<Read>,
    app: web::Data<App>,
    request: HttpRequest,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let (job_type, _) =
        app.job_types.resolve(name(&request)).map_err(|unknown| Problem::new(Kind::NotFound, unknown.to_string()))?;
    Ok(HttpResponse::Ok().json(view(&app, job_type).await?))
}

/// POST /job-types/{name}/build?version_tag=
pub async fn build(
    caller: Caller<Admin>,
    app: web::Data<App>,
    request: HttpRequest,
    mut params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    let version_tag = params.text("version_tag");
    let is_tag = |tag: &String| {
        (1..=128).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if version_tag.as_ref().is_some_and(|tag| !is_tag(tag)) {
        params.fault("version_tag", "must have 1 to 128 letters, digits, dots, dashes and underscores");
    }
    params.done()?;
    let job_type = name(&request).to_owned();
    let built = app.builder.send(Build { origin: caller.origin, job_type, version_tag }).await??;
    Ok(HttpResponse::Ok().json(json!({
        "status": "built",
        "job_type": built.job_type,
        "version": built.version,
        "digest": built.digest,
        "image_ref": built.image_ref,
    })))
}

fn name(request: &HttpRequest) -> &str {
    request.match_info().get("name").unwrap_or_default()
}
