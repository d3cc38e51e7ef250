//! Making private payloads unreadable.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::body::OptionalJsonBody;
use super::caller::{Admin, Caller};
use super::params::{Id, Params};
use super::problem::Problem;
use crate::actors::shredding::{Shred, ShredTenant, Shredded};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShredBody {
    reason: Option<String>,
}

/// POST /executions/{id}/shred
pub async fn execution(
    caller: Caller<Admin>,
    app: web::Data<App>,
    Id(execution_id): Id,
    params: Params,
    OptionalJsonBody(ShredBody { reason }): OptionalJsonBody<ShredBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    check(reason.as_deref())?;
    let shredded = app.retention.send(Shred { origin: caller.origin, execution_id, reason }).await??;
    Ok(answer(json!({ "execution_id": execution_id }), shredded))
}

/// POST /tenants/{tenant}/shred
pub async fn tenant(
    caller: Caller<Admin>,
    app: web::Data<App>,
    request: HttpRequest,
    params: Params,
    OptionalJsonBody(ShredBody { reason }): OptionalJsonBody<ShredBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    check(reason.as_deref())?;
    let tenant = request.match_info().get("tenant").unwrap_or_default().to_owned();
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=64).contains(&tenant.len()) || !tenant.chars().all(is_word) {
        return Err(Problem::field("tenant", "must be 1 to 64 letters, digits, dots, dashes and underscores"));
    }
    let wish = ShredTenant { origin: caller.origin, tenant: tenant.clone(), reason };
    let shredded = app.retention.send(wish).await??;
    Ok(answer(json!({ "tenant": tenant }), shredded))
}

fn answer(mut of: serde_json::Value, shredded: Shredded) -> HttpResponse {
    if let (Some(fields), serde_json::Value::Object(done)) = (of.as_object_mut(), json!(shredded)) {
        fields.extend(done);
    }
    HttpResponse::Ok().json(of)
}

fn check(reason: Option<&str>) -> Result<(), Problem> {
    match reason {
        Some(reason) if reason.len() > 1000 || reason.contains('\0') => {
            Err(Problem::field("reason", "must be at most 1000 bytes without NUL"))
        }
        _ => Ok(()),
    }
}
