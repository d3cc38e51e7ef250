//! The dead letter queue: jobs that the service failed for good.

use std::collections::{BTreeMap, HashMap};

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Caller, Read, Submit};
use super::dead_letter::{Entry, payload};
use super::jobs::{NoFields, check_reason};
use super::params::{Id, Page, Params};
use super::problem::{Kind, Problem};
use crate::actors::dlq::{Discard, Requeue, RequeueAll};
use crate::domain::ErrorType;
use crate::store::{DeadLetterFilter, DeadLetterRow};

/// Bytes of code and input that one list shows, about; further letters have null there.
const LIST_TEXT_BYTES: usize = 4 << 20;

/// Letters whose payloads are read together.
const READ_TOGETHER: usize = 8;

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
    let shown = letters.get(..limit).unwrap_or(&letters);
    Ok(HttpResponse::Ok().json(page.answer(entries(&app, shown).await?, letters.len() > limit)))
}

/// Shows letters with their payload, until the answer has as much text as it may.
async fn entries(app: &App, letters: &[DeadLetterRow]) -> Result<Vec<serde_json::Value>, Problem> {
    let ids: Vec<_> = letters.iter().map(|letter| letter.execution_id).collect();
    let records = app.read(move |store| async move { store.records(&ids).await }).await?;
    let records: HashMap<_, _> = records.iter().map(|stored| (stored.record.execution_id, &stored.record)).collect();
    let mut bytes = 0;
    let mut entries = Vec::with_capacity(letters.len());
    for some in letters.chunks(READ_TOGETHER) {
        let records = some.iter().map(|letter| records.get(&letter.execution_id).copied());
        let hashes = match bytes < LIST_TEXT_BYTES {
            true => records.clone().flatten().flat_map(payload).collect(),
            false => Vec::new(),
        };
        let blobs = app.blobs(hashes).await?;
        bytes += blobs.values().map(Bytes::len).sum::<usize>();
        entries.extend(some.iter().zip(records).map(|(letter, record)| json!(Entry::of(letter, record, &blobs))));
    }
    Ok(entries)
}

/// GET /dlq/{id}
pub async fn get(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let letter = app.read(move |store| async move { store.dead_letter(id).await }).await?;
    let absent = || Problem::new(Kind::NotFound, format!("execution {id} is no dead letter"));
    let letter = letter.filter(|letter| letter.tenant == caller.tenant).ok_or_else(absent)?;
    let record = app.record(&caller, id).await?;
    let blobs = app.blobs(payload(&record).to_vec()).await?;
    Ok(HttpResponse::Ok().json(Entry::of(&letter, Some(&record), &blobs)))
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
