//! Records: one, many, and as they were.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::app::App;
use super::caller::{Caller, Read};
use super::params::{Id, Page, Params};
use super::problem::{Kind, Problem};
use super::view::{self, Extent, View};
use crate::domain::{Envelope, ExecutionRecord, Status};
use crate::store;

/// Bytes of output text that one list shows; further records have null there.
const LIST_TEXT_BYTES: u64 = 4 << 20;

/// Events of one execution that are folded at most; retries are bounded far below.
const MOST_EVENTS: u32 = 10_000;

/// GET /executions?status=&job_type=&since=&until=&before=&limit=&offset=&view=, newest first.
pub async fn list(caller: Caller<Read>, app: web::Data<App>, mut params: Params) -> Result<HttpResponse, Problem> {
    let page = Page::of(&mut params);
    let status = params.text("status").and_then(|name| {
        let status = Status::from_name(&name);
        if status.is_none() {
            let known = Status::ALL.map(Status::as_str).join(", ");
            params.fault("status", format!("must be one of {known}, not {name:.40?}"));
        }
        status
    });
    let job_type = params.text("job_type");
    let (since, until) = (params.moment("since"), params.moment("until"));
    let before = params.id("before");
    let extent = Extent::full_if(params.full_view());
    if job_type.as_deref().is_some_and(|name| name.contains('\0')) {
        params.fault("job_type", "must not contain a NUL character");
    }
    params.done()?;
    let tenant = Some(caller.tenant.clone());
    let filter = store::Filter { tenant, status, job_type, since, until, before, ..store::Filter::default() };
    let found = app.read(move |store| async move { store.list(&filter, page.limit, page.offset.into()).await }).await?;
    let last = found.records.last().filter(|_| found.has_more);
    let next_before = last.map(|stored| stored.record.execution_id);
    let items = items(&app, &found.records, extent).await?;
    let mut answer = page.answer(items, found.has_more);
    answer["next_before"] = json!(next_before);
    Ok(HttpResponse::Ok().json(answer))
}

/// Shows records with their output, until the answer has as much text as it may.
async fn items(app: &App, records: &[store::Stored], extent: Extent) -> Result<Vec<serde_json::Value>, Problem> {
    let mut bytes = 0;
    let with_text = records
        .iter()
        .take_while(|stored| {
            bytes += view::shown_bytes(&stored.record);
            bytes <= LIST_TEXT_BYTES
        })
        .count();
    let shown_blobs = |stored: &store::Stored| view::shown_blobs(&stored.record, Extent::Short);
    let hashes = records.iter().take(with_text).flat_map(shown_blobs).collect();
    let blobs = app.blobs(hashes).await?;
    let shown = |(index, stored): (usize, &store::Stored)| {
        let mut item = json!(View::of(&stored.record, extent, &blobs));
        if index >= with_text
            && let Some(fields) = item.as_object_mut()
        {
            fields.insert("output_omitted".to_owned(), true.into());
        }
        item
    };
    Ok(records.iter().enumerate().map(shown).collect())
}

/// GET /executions/{id}?view=&at_version=&at=
pub async fn get(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
) -> Result<HttpResponse, Problem> {
    let extent = Extent::full_if(params.full_view());
    let at_version = params.text("at_version").and_then(|text| match text.parse() {
        Ok(version @ 1..=i32::MAX) => Some(version),
        _ => {
            params.fault("at_version", format!("must be a number from 1 on, not {text:.40?}"));
            None
        }
    });
    let at = params.moment("at");
    if at.is_some() && at_version.is_some() {
        params.fault("at", "cannot be given together with at_version");
    }
    params.done()?;
    let mut record = app.record(&caller, id).await?;
    if at_version.is_some() || at.is_some() {
        record = as_it_was(&app, id, at_version, at).await?;
    }
    let blobs = app.blobs(view::shown_blobs(&record, extent)).await?;
    Ok(HttpResponse::Ok().json(View::of(&record, extent, &blobs)))
}

/// Folds the execution's events up to a version or a moment.
async fn as_it_was(
    app: &App,
    id: Uuid,
    at_version: Option<i32>,
    at: Option<DateTime<Utc>>,
) -> Result<ExecutionRecord, Problem> {
    let events = app.read(move |store| async move { store.stream_events(id, 0, MOST_EVENTS).await }).await?;
    let envelopes: Vec<Envelope> = events.iter().map(|event| event.envelope()).collect::<Result<_, store::Error>>()?;
    let newest = envelopes.last().map_or(0, |envelope| envelope.version);
    if let Some(version) = at_version.filter(|version| *version > newest) {
        return Err(Problem::new(
            Kind::NotFound,
            format!("execution {id} has {newest} events, and no version {version} yet"),
        ));
    }
    let is_in = |envelope: &&Envelope| {
        at_version.is_none_or(|version| envelope.version <= version) && at.is_none_or(|at| envelope.recorded_at <= at)
    };
    ExecutionRecord::fold(envelopes.iter().take_while(is_in))
        .map_err(|error| Problem::defect(&error))?
        .ok_or_else(|| Problem::new(Kind::NotFound, format!("execution {id} did not exist then")))
}
