//! The environments jobs may name.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::app::App;
use super::body::{JsonObjectBody, OptionalJsonBody};
use super::builds;
use super::caller::{Admin, Caller, Read};
use super::jobs::NoFields;
use super::params::{Named, Params};
use super::pauses;
use super::problem::{Kind, Problem};
use super::sse;
use crate::actors::builder::{Build, Define, ImageExists};
use crate::actors::builds::Wanted;
use crate::actors::job_types::{Present, Source, Unresolved};
use crate::actors::submission::FieldFault;
use crate::config::JobType;

#[derive(Serialize)]
struct View<'a> {
    /// As it is defined; the values of its environment are hidden by their type.
    #[serde(flatten)]
    job_type: &'a JobType,
    /// `name@sha256:<12 hex>`.
    version: String,
    digest: String,
    image_exists: bool,
    /// `configuration`, or `api` with the number of its definition.
    source: &'static str,
    revision: Option<i32>,
    /// Since when no job of it starts, by whom and why.
    paused: Value,
}

async fn view(app: &App, present: &Present) -> Result<Value, Problem> {
    let (source, revision) = match present.source {
        Source::Configuration => ("configuration", None),
        Source::Defined { revision } => ("api", Some(revision)),
    };
    let view = View {
        version: present.environment.version().to_string(),
        digest: present.environment.digest.to_string(),
        image_exists: app.builder.send(ImageExists { job_type: present.environment.name.clone() }).await?,
        job_type: &present.job_type,
        source,
        revision,
        paused: pauses::shown(&app.read(|store| async move { store.pauses().await }).await?, &present.job_type.name),
    };
    serde_json::to_value(view).map_err(|error| Problem::defect(&error))
}

/// A job type by its name or by one of its versions.
async fn find(app: &web::Data<App>, reference: &str) -> Result<Present, Problem> {
    let (job_types, reference) = (app.job_types.clone(), reference.to_owned());
    let found = app.io.spawn(async move { job_types.find(&reference).await }).await;
    match found.map_err(|lost| Problem::defect(&lost))? {
        Ok(present) => Ok(present),
        Err(Unresolved::NoSuchJobType(unknown)) => Err(Problem::new(Kind::NotFound, unknown.to_string())),
        Err(Unresolved::Store(error)) => Err(error.into()),
    }
}

/// GET /job-types
pub async fn list(_caller: Caller<Read>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let mut views = Vec::new();
    for present in app.job_types.all() {
        views.push(view(&app, &present).await?);
    }
    Ok(HttpResponse::Ok().json(views))
}

/// GET /job-types/{name}
pub async fn get(
    _caller: Caller<Read>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let present = find(&app, &name).await?;
    Ok(HttpResponse::Ok().json(view(&app, &present).await?))
}

/// GET /job-types/{name}/versions: those that were built, newest first.
pub async fn versions(
    _caller: Caller<Read>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let present = find(&app, &name).await?;
    let job_type = present.environment.name.clone();
    let rows = app.read(move |store| async move { store.job_type_versions(Some(&job_type)).await }).await?;
    let digest = present.environment.digest.to_string();
    let views: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "version": format!("{}@sha256:{}", row.job_type, row.digest.get(..12).unwrap_or(&row.digest)),
                "is_present": row.digest == digest,
                "digest": row.digest,
                "image_ref": row.image,
                "image_digest": row.image_digest,
                "dockerfile_hash": row.dockerfile_hash,
                "requirements_hash": row.requirements_hash,
                "lock": row.lock,
                "version_tag": row.version_tag,
                "built_at": row.created_at,
                "built_by": row.built_by,
                "last_used_at": row.last_used_at,
                "build_id": row.build_id,
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(views))
}

/// POST /job-types
pub async fn create(
    caller: Caller<Admin>,
    app: web::Data<App>,
    params: Params,
    JsonObjectBody(definition): JsonObjectBody,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    if !definition.get("name").is_some_and(Value::is_string) {
        return Err(Problem::field("name", "is missing: 1 to 64 of a-z, 0-9, - and _, a letter or digit first"));
    }
    define(caller, &app, definition, true).await
}

/// PUT /job-types/{name}
pub async fn change(
    caller: Caller<Admin>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    JsonObjectBody(mut definition): JsonObjectBody,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let given = definition.entry("name").or_insert_with(|| name.clone().into());
    if *given != name {
        return Err(Problem::field("name", format!("must be {name:.64?}, as in the path: a job type keeps its name")));
    }
    define(caller, &app, definition, false).await
}

async fn define(
    caller: Caller<Admin>,
    app: &web::Data<App>,
    definition: Map<String, Value>,
    is_new: bool,
) -> Result<HttpResponse, Problem> {
    let job_type = JobType::from_json(Value::Object(definition), &app.config.limits).map_err(|faults| {
        let fault = |(field, message)| FieldFault { field, message, is_size: false };
        Problem::invalid(faults.into_iter().map(fault).collect())
    })?;
    let name = job_type.name.clone();
    let defined = app.builder.send(Define { origin: caller.origin, job_type: Box::new(job_type), is_new }).await??;
    let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    if is_new {
        answer.insert_header(("Location", format!("/job-types/{name}")));
    }
    let mut body = view(app, &defined.present).await?;
    body["unchanged"] = defined.unchanged.into();
    Ok(answer.json(body))
}

/// POST /job-types/{name}/build?version_tag=, answered when it is built or, if the client accepts
/// server-sent events, with its log as it is written.
pub async fn build(
    caller: Caller<Admin>,
    app: web::Data<App>,
    request: HttpRequest,
    Named(job_type): Named,
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
    let wanted = app.builder.send(Build { origin: caller.origin, job_type, version_tag }).await??;
    match wanted {
        Wanted::Building(run) if sse::is_wanted(&request) => Ok(builds::follow_run(&app, run, 0)),
        Wanted::Building(run) => Ok(HttpResponse::Ok().json(builds::built(&run.outcome().await?))),
        Wanted::There(built) if sse::is_wanted(&request) => {
            let text = builds::built(&built).to_string();
            Ok(sse::answer(&app, move |_, sink| async move { sink.send("0", "built", &text).await }))
        }
        Wanted::There(built) => Ok(HttpResponse::Ok().json(builds::built(&built))),
    }
}
