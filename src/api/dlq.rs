//! The dead letter queue: jobs that the service failed for good.

use std::collections::BTreeMap;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Caller, Read, Submit};
use super::jobs::{NoFields, check_reason};
use super::params::{Id, Page, Params};
use super::problem::Problem;
use crate::actors::dlq::{Discard, Requeue, RequeueAll};
use crate::domain::ErrorType;
use crate::store::{DeadLetterFilter, DeadLetterRow};

/// GET /dlq/stats
pub async fn stats(caller: Caller<Read>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let tenant = caller.tenant.clone();
    let counts = app.read(move |store| async move { store.dead_letter_counts(Some(&tenant)).await }).await?;
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let by_error_type: BTreeMap<_, _> = counts.into_iter().collect();
    Ok(HttpResponse::Ok().json(json!({"total": total, "by_error_type": by_error_type})))
}

/// GET /dlq?error_type=&limit=&offset=
pub async fn list(caller: Caller<Read>, app: web::Data<App>, mut params: Params) -> Result<HttpResponse, Problem> {
    let page = Page::of(&mut params);
    let error_type = error_type(&mut params);
    params.done()?;
    let filter = DeadLetterFilter {
        tenant: Some(caller.tenant.clone()),
        error_type: error_type.map(|error_type| error_type.as_str().to_owned()),
    };
    // One more than asked for tells whether there are more.
    let letters = app
        .read(move |store| async move { store.dead_letters(&filter, page.limit + 1, page.offset.into()).await })
        .await?;
    let limit = page.limit as usize;
    let items = letters.iter().take(limit).map(shown).collect();
    Ok(HttpResponse::Ok().json(page.answer(items, letters.len() > limit)))
}

fn shown(letter: &DeadLetterRow) -> serde_json::Value {
    json!({
        "id": letter.execution_id,
        "job_id": letter.execution_id,
        "job_data": {"execution_id": letter.execution_id, "job_type": letter.job_type},
        "error_type": letter.error_type,
        "error_message": letter.error_message,
        "retry_count": letter.retry_count,
        "created_at": letter.created_at,
        "client_ip": letter.client_ip,
        "correlation_id": letter.correlation_id,
    })
}

fn error_type(params: &mut Params) -> Option<ErrorType> {
    let name = params.text("error_type")?;
    let error_type = serde_json::from_value(name.as_str().into()).ok();
    if error_type.is_none() {
        params.fault("error_type", format!("{name:.40?} is not an error type, like docker_error or internal_error"));
    }
    error_type
}

#[derive(Debug, Deserialize)]
pub struct DiscardBody {
    reason: Option<String>,
}

/// DELETE /dlq/{id}
pub async fn discard(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
    OptionalJsonBody(DiscardBody { reason }): OptionalJsonBody<DiscardBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    check_reason(reason.as_deref())?;
    app.dlq.send(Discard { origin: caller.origin, id, reason }).await??;
    Ok(HttpResponse::Ok().json(json!({"status": "removed", "entry_id": id})))
}

/// POST /dlq/{id}/requeue
pub async fn requeue(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let accepted = app.dlq.send(Requeue { origin: caller.origin, id }).await??;
    let location = (header::LOCATION, format!("/jobs/{}", accepted.execution_id));
    Ok(HttpResponse::Ok().insert_header(location).json(json!({
        "entry_id": id,
        "job_id": accepted.execution_id,
        "execution_id": accepted.execution_id,
        "status": accepted.status,
        "parent_execution_id": id,
        "relationship": "requeue",
    })))
}

/// POST /dlq/requeue?error_type=
pub async fn requeue_all(
    caller: Caller<Submit>,
    app: web::Data<App>,
    mut params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    let error_type = error_type(&mut params);
    params.done()?;
    let accepted = app.dlq.send(RequeueAll { origin: caller.origin, error_type }).await??;
    let job_ids: Vec<_> = accepted.iter().map(|accepted| accepted.execution_id).collect();
    Ok(HttpResponse::Ok().json(json!({"requeued": job_ids.len(), "job_ids": job_ids, "error_type": error_type})))
}
