//! Runs an execution again exactly as it was, and says what differed.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Caller, Read, Submit};
use super::divergence;
use super::params::{Id, Params};
use super::problem::{Kind, Problem};
use crate::actors::intake::{How, Repeat};
use crate::actors::refusal::Refusal;
use crate::actors::submission::Origin;
use crate::domain::ExecutionRecord;

/// What a replay may have otherwise than its original.
#[derive(Debug, Deserialize)]
pub struct ReplayBody {
    /// Another image than the one it ran on, to try it out.
    image: Option<String>,
    priority: Option<i16>,
}

/// POST /executions/{id}/replay?wait=: 202 with the new execution, or with `wait` and its end
/// within the time, 200 with the verdict.
pub async fn replay(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
    OptionalJsonBody(ReplayBody { image, priority }): OptionalJsonBody<ReplayBody>,
) -> Result<HttpResponse, Problem> {
    let wait = params.seconds("wait", 600.0, 0.0);
    params.done()?;
    if image.is_some() && !caller.is_admin {
        return Err(Problem::new(Kind::Forbidden, "to choose an image needs an API key with the scope \"admin\""));
    }
    if image.as_deref().is_some_and(|image| !is_image_reference(image)) {
        return Err(Problem::field("image", "must be an image reference of at most 255 characters"));
    }
    if priority.is_some_and(|priority| !(0..=9).contains(&priority)) {
        return Err(Problem::field("priority", "must be from 0 to 9; 9 runs first"));
    }
    let how = How::Replay { image, priority };
    let repeat = Repeat { origin: caller.origin.clone(), execution_id: id, how };
    let accepted = match app.intake.send(repeat).await? {
        Ok(accepted) => accepted,
        Err(Refusal::ReplayRefused { cause, reason, .. }) => {
            let body = json!({
                "original_execution_id": id,
                "execution_id": null,
                "verdict": "refused",
                "cause": cause,
                "reason": reason,
            });
            return Ok(HttpResponse::Ok().json(body));
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let location = (header::LOCATION, format!("/executions/{}", accepted.execution_id));
    if !wait.is_zero() {
        let record = app.record_at_end(&caller, accepted.execution_id, |_| wait).await?;
        if record.is_ended() {
            let body = shown(&app, &caller, id, &record).await?;
            return Ok(HttpResponse::Ok().insert_header(location).json(body));
        }
    }
    let body = json!({
        "original_execution_id": id,
        "execution_id": accepted.execution_id,
        "job_id": accepted.execution_id,
        "status": accepted.status,
        "relationship": "replay",
        "verdict": null,
    });
    Ok(HttpResponse::Accepted().insert_header(location).json(body))
}

/// GET /executions/{id}/replay: the verdict of that replay, with what differs. For an original
/// that could not be replayed, why.
pub async fn verdict(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    params: Params,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let record = app.record(&caller, id).await?;
    let Some(recorded) = &record.replay_verdict else {
        return Err(Problem::new(Kind::NotFound, format!("execution {id} has no verdict of a replay")));
    };
    Ok(HttpResponse::Ok().json(shown(&app, &caller, recorded.original_id, &record).await?))
}

async fn shown(
    app: &App,
    origin: &Origin,
    original: Uuid,
    replay: &ExecutionRecord,
) -> Result<Map<String, Value>, Problem> {
    let own = (replay.execution_id != original).then_some(replay.execution_id);
    let mut body = Map::from_iter([
        ("original_execution_id".to_owned(), json!(original)),
        ("execution_id".to_owned(), json!(own)),
        ("job_id".to_owned(), json!(own)),
        ("status".to_owned(), json!(replay.status())),
        ("relationship".to_owned(), json!("replay")),
        ("verdict".to_owned(), Value::Null),
        ("image".to_owned(), json!(replay.sandbox().map(|sandbox| &sandbox.image))),
        ("image_digest".to_owned(), json!(replay.sandbox().map(|sandbox| &sandbox.image_digest))),
    ]);
    let Some(recorded) = &replay.replay_verdict else { return Ok(body) };
    if let Value::Object(mut verdict) = json!(recorded) {
        verdict.remove("original_id");
        body.extend(verdict);
    }
    if body.contains_key("differences") {
        let original = app.record_or_expired(origin, original).await?;
        if original.submitted.job_version != replay.submitted.job_version {
            let versions = json!({"original": original.submitted.job_version, "replay": replay.submitted.job_version});
            body.insert("job_version".to_owned(), versions);
        }
        body.insert("differences".to_owned(), divergence::shown(app, &original, replay, recorded).await?);
    }
    Ok(body)
}

/// As the configuration takes one.
fn is_image_reference(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    text.len() <= 255 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}
