//! The images of job types on this node.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Admin, Caller};
use super::jobs::NoFields;
use super::params::Params;
use super::problem::Problem;
use crate::actors::builder::{CollectImages, ListImages};
use crate::actors::images::{Held, Room};

fn view(held: &Held) -> Value {
    let built = &held.built;
    json!({
        "job_type": built.job_type,
        "version": format!("{}@sha256:{}", built.job_type, built.version.get(..12).unwrap_or(&built.version)),
        "digest": built.version,
        "image_ref": built.image.reference,
        "image_digest": built.image.digest,
        "size_bytes": built.bytes,
        "built_at": held.built_at,
        "last_used_at": held.last_used_at,
        "version_tag": held.version_tag,
        "pinned": held.pinned,
    })
}

/// GET /images
pub async fn list(_caller: Caller<Admin>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let held = app.builder.send(ListImages).await??;
    let size_bytes: u64 = held.iter().map(|held| held.built.bytes).sum();
    Ok(HttpResponse::Ok().json(json!({
        "items": held.iter().map(view).collect::<Vec<_>>(),
        "size_bytes": size_bytes,
        "budget_bytes": app.config.build.disk_budget,
    })))
}

/// POST /images/gc?dry_run=
pub async fn collect(
    _caller: Caller<Admin>,
    app: web::Data<App>,
    mut params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    let dry_run = params.flag("dry_run");
    params.done()?;
    let Room { removed, bytes, budget_bytes } = app.builder.send(CollectImages { dry_run }).await??;
    Ok(HttpResponse::Ok().json(json!({
        "removed": removed.iter().map(view).collect::<Vec<_>>(),
        "dry_run": dry_run,
        "size_bytes": bytes,
        "budget_bytes": budget_bytes,
    })))
}
