//! The tenant's secrets: set, named and removed, and never read.

use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::body::{JsonBody, OptionalJsonBody};
use super::caller::{Caller, Read, Submit};
use super::jobs::NoFields;
use super::params::{Named, Params};
use super::problem::Problem;
use crate::actors::vault::{List, Remove, Set};
use crate::domain::SecretValue;

/// One of the two. It has no `Debug`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SetBody {
    value: Option<String>,
    base64: Option<String>,
}

impl SetBody {
    fn value(self) -> Result<SecretValue, Problem> {
        match (self.value, self.base64) {
            (Some(text), None) => Ok(SecretValue::new(text.into_bytes())),
            (None, Some(text)) => match STANDARD.decode(text.trim_ascii()) {
                Ok(bytes) => Ok(SecretValue::new(bytes)),
                Err(_) => Err(Problem::field("base64", "is not base64")),
            },
            _ => Err(Problem::field("value", "must be given, or base64 for bytes that are no text, and not both")),
        }
    }
}

/// PUT /secrets/{name}
pub async fn set(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    JsonBody(body): JsonBody<SetBody>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let value = body.value()?;
    let set = app.vault.send(Set { origin: caller.origin, name, value }).await??;
    Ok(HttpResponse::Ok().json(json!({"status": "set", "name": set.name, "version": set.version})))
}

/// GET /secrets
pub async fn list(caller: Caller<Read>, app: web::Data<App>, params: Params) -> Result<HttpResponse, Problem> {
    params.done()?;
    let secrets = app.vault.send(List { origin: caller.origin }).await??;
    let items: Vec<_> = secrets
        .into_iter()
        .map(|secret| {
            json!({
                "name": secret.name,
                "version": secret.version,
                "created_at": secret.created_at,
                "updated_at": secret.updated_at,
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items })))
}

/// DELETE /secrets/{name}
pub async fn remove(
    caller: Caller<Submit>,
    app: web::Data<App>,
    Named(name): Named,
    params: Params,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let removed = app.vault.send(Remove { origin: caller.origin, name }).await??;
    Ok(HttpResponse::Ok().json(json!({"status": "removed", "name": removed.name, "version": removed.version})))
}
