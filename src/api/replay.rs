//! Runs an execution again exactly as it was, and says what differed.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};
use similar::TextDiff;
use uuid::Uuid;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Caller, Submit};
use super::jobs::NoFields;
use super::params::{Id, Params};
use super::problem::Problem;
use super::view::{self, Extent, View};
use crate::actors::intake::{How, Refusal, Repeat};
use crate::actors::submission::Origin;
use crate::domain::{Digest, ExecutionRecord, Verdict};

/// Characters of one diff at most.
const MAX_DIFF: usize = 20_000;

/// POST /executions/{id}/replay?wait=: 202 with the new execution, or with `wait` and its end
/// within the time, 200 with the verdict.
pub async fn replay(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Id(id): Id,
    mut params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    let wait = params.seconds("wait", 600.0, 0.0);
    params.done()?;
    let repeat = Repeat { origin: caller.origin.clone(), execution_id: id, how: How::Replay };
    let accepted = match app.intake.send(repeat).await? {
        Ok(accepted) => accepted,
        Err(Refusal::NotRepeatable { reason, .. }) => {
            let body = json!({
                "original_execution_id": id,
                "execution_id": null,
                "verdict": "refused",
                "reason": reason,
            });
            return Ok(HttpResponse::Ok().json(body));
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let mut body = json!({
        "original_execution_id": id,
        "execution_id": accepted.execution_id,
        "job_id": accepted.execution_id,
        "status": accepted.status,
        "relationship": "replay",
        "verdict": null,
    });
    let location = (header::LOCATION, format!("/executions/{}", accepted.execution_id));
    if !wait.is_zero() {
        let record = app.record_at_end(&caller, accepted.execution_id, |_| wait).await?;
        if record.is_ended()
            && let Some(fields) = body.as_object_mut()
        {
            fields.insert("status".to_owned(), json!(record.status()));
            judge(&app, &caller, id, &record, fields).await?;
            return Ok(HttpResponse::Ok().insert_header(location).json(body));
        }
    }
    Ok(HttpResponse::Accepted().insert_header(location).json(body))
}

async fn judge(
    app: &App,
    origin: &Origin,
    original: Uuid,
    replay: &ExecutionRecord,
    fields: &mut Map<String, Value>,
) -> Result<(), Problem> {
    let verdict = replay.replay_verdict.as_ref().map(|recorded| &recorded.verdict);
    if let Some(Value::Object(verdict)) = verdict.map(|verdict| json!(verdict)) {
        fields.extend(verdict);
    }
    if let Some(Verdict::Diverged { differences }) = verdict {
        let original = app.record(origin, original).await?;
        fields.insert("diff".to_owned(), differences_of(app, &original, replay, differences).await?);
    }
    Ok(())
}

async fn differences_of(
    app: &App,
    original: &ExecutionRecord,
    replay: &ExecutionRecord,
    differences: &[String],
) -> Result<Value, Problem> {
    let hashes = [original, replay].iter().flat_map(|record| view::shown_blobs(record, Extent::Short)).collect();
    let blobs = app.blobs(hashes).await?;
    let (before, after) = (View::of(original, Extent::Short, &blobs), View::of(replay, Extent::Short, &blobs));
    let mut diff = Map::new();
    for what in differences {
        let shown = match what.as_str() {
            "status" => json!({"original": original.status(), "replay": replay.status()}),
            "exit_code" => json!({"original": before.exit_code, "replay": after.exit_code}),
            "stdout" => text_diff(before.stdout.as_deref(), after.stdout.as_deref()),
            "stderr" => text_diff(before.stderr.as_deref(), after.stderr.as_deref()),
            "output" => json!({"original": before.output, "replay": after.output}),
            "artifacts" => json!({"original": artifacts(original), "replay": artifacts(replay)}),
            _ => continue,
        };
        diff.insert(what.clone(), shown);
    }
    Ok(diff.into())
}

/// A unified diff; null when either text is no longer kept.
fn text_diff(original: Option<&str>, replay: Option<&str>) -> Value {
    let (Some(original), Some(replay)) = (original, replay) else { return Value::Null };
    let diff = TextDiff::configure()
        .timeout(std::time::Duration::from_millis(200))
        .diff_lines(original, replay)
        .unified_diff()
        .header("original", "replay")
        .to_string();
    diff.chars().take(MAX_DIFF).collect::<String>().into()
}

fn artifacts(record: &ExecutionRecord) -> Map<String, Value> {
    let made = view::observed(record).map(|observed| observed.artifacts.as_slice()).unwrap_or_default();
    made.iter().map(|made| (made.name.clone(), hash(made.hash))).collect()
}

fn hash(hash: Digest) -> Value {
    hash.to_string().into()
}
