//! The log, of one execution and of all.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::app::App;
use super::caller::{Admin, Caller, Read};
use super::params::{Id, Params};
use super::problem::Problem;
use super::sse::{self, Ended, Pace, Sink};
use crate::domain::{Digest, EventKind};
use crate::store::{LogFilter, StoredEvent};

/// Events of one answer at most.
const MOST: u32 = 1000;

/// An event with its envelope.
#[derive(Serialize)]
struct View<'a> {
    position: i64,
    event_id: Uuid,
    stream_id: Uuid,
    version: i32,
    #[serde(rename = "type")]
    event_type: &'a str,
    schema_version: i16,
    recorded_at: DateTime<Utc>,
    actor: &'a str,
    correlation_id: Option<&'a str>,
    causation_id: Option<Uuid>,
    /// To the byte as it is hashed.
    payload: &'a RawValue,
    prev_hash: Option<Digest>,
    hash: Digest,
}

impl<'a> View<'a> {
    fn of(event: &'a StoredEvent) -> Result<Self, Problem> {
        Ok(Self {
            position: event.position,
            event_id: event.event_id,
            stream_id: event.stream_id,
            version: event.version,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            recorded_at: event.recorded_at,
            actor: &event.actor,
            correlation_id: event.correlation_id.as_deref(),
            causation_id: event.causation_id,
            payload: serde_json::from_str(event.readable()).map_err(|error| Problem::defect(&error))?,
            prev_hash: event.prev_hash,
            hash: event.hash,
        })
    }

    fn text(&self) -> Result<String, Problem> {
        serde_json::to_string(self).map_err(|error| Problem::defect(&error))
    }
}

fn views(events: &[StoredEvent]) -> Result<Vec<View<'_>>, Problem> {
    events.iter().map(View::of).collect()
}

/// GET /jobs/{id}/events?after=, as JSON or, if the client accepts it, as server-sent events.
pub async fn of_execution(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let after = params.number("after", 0, i32::MAX, 0);
    params.done()?;
    app.record_or_expired(&caller, id).await?;
    if sse::is_wanted(&request) {
        let after = sse::last_event_id(&request, |id| id.parse().ok())?.unwrap_or(after);
        return Ok(sse::answer(&app, move |app, sink| follow_execution(app, sink, id, after)));
    }
    let events = stream(&app, id, after).await?;
    let items = views(&events)?;
    Ok(HttpResponse::Ok().json(json!({"execution_id": id, "after": after, "count": items.len(), "items": items})))
}

async fn stream(app: &App, id: Uuid, after: i32) -> Result<Vec<StoredEvent>, Problem> {
    app.read(move |store| async move { store.stream_events(id, after, MOST).await }).await
}

/// Ends after the terminal event and what was appended with it.
async fn follow_execution(app: web::Data<App>, sink: Sink, id: Uuid, mut after: i32) -> Result<(), Ended> {
    let mut pace = Pace::new();
    loop {
        // Looked at before the events: an end that is seen here has its events in the read below.
        let record = app.read(move |store| async move { store.record(id).await }).await?;
        let has_ended = record.is_none_or(|stored| stored.record.is_ended());
        let events = stream(&app, id, after).await?;
        for event in &events {
            sink.send(&event.version.to_string(), &event.event_type, &View::of(event)?.text()?).await?;
            after = event.version;
            pace.quicken();
        }
        if has_ended {
            return Ok(());
        }
        pace.pause().await;
    }
}

/// GET /events?after=&type=&stream=&since=&until=&limit=: the log of the whole installation.
pub async fn all(
    _caller: Caller<Admin>,
    app: web::Data<App>,
    mut params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let after = params.number("after", 0, i64::MAX, 0);
    let limit = params.number("limit", 1, MOST, 100);
    let filter = LogFilter {
        kinds: kinds(&mut params),
        stream: params.id("stream"),
        since: params.moment("since"),
        until: params.moment("until"),
    };
    let is_stream = sse::is_wanted(&request);
    if is_stream && filter.until.is_some() {
        params.fault("until", "has no meaning for a stream, which has no end");
    }
    params.done()?;
    if is_stream {
        let after = sse::last_event_id(&request, |id| id.parse().ok())?.unwrap_or(after);
        return Ok(sse::answer(&app, move |app, sink| follow_all(app, sink, after, filter)));
    }
    let Page { events, next_after } = page(&app, after, &filter, limit).await?;
    let items = views(&events)?;
    Ok(HttpResponse::Ok().json(json!({
        "count": items.len(),
        "items": items,
        "after": after,
        "limit": limit,
        "next_after": next_after,
    })))
}

/// One type, or several with commas between them; nothing means all.
fn kinds(params: &mut Params) -> Vec<EventKind> {
    let text = params.text("type").unwrap_or_default();
    let mut kinds = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match EventKind::from_name(name) {
            Some(kind) => kinds.push(kind),
            None => {
                let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
                params.fault("type", format!("{name:.60?} is no event; there are {}", known.join(", ")));
                break;
            }
        }
    }
    kinds
}

struct Page {
    events: Vec<StoredEvent>,
    /// Up to here everything was looked at.
    next_after: i64,
}

/// What is not there up to the log's end of this moment never will be, so a page that is not full
/// reaches to that end, however far its last event is from it.
async fn page(app: &App, after: i64, filter: &LogFilter, limit: u32) -> Result<Page, Problem> {
    let filter = filter.clone();
    app.read(move |store| async move {
        let end = store.last_position().await?.max(after);
        let events = store.log_page(after, end, &filter, limit).await?;
        let is_full = events.len() as u64 >= u64::from(limit);
        let next_after = events.last().filter(|_| is_full).map_or(end, |last| last.position);
        Ok(Page { events, next_after })
    })
    .await
}

async fn follow_all(app: web::Data<App>, sink: Sink, mut after: i64, filter: LogFilter) -> Result<(), Ended> {
    let mut pace = Pace::new();
    loop {
        let Page { events, next_after } = page(&app, after, &filter, MOST).await?;
        for event in &events {
            sink.send(&event.position.to_string(), &event.event_type, &View::of(event)?.text()?).await?;
            pace.quicken();
        }
        after = next_after;
        if events.is_empty() {
            pace.pause().await;
        }
    }
}
